//! What is easily got wrong, one test per item; each is named after its item.

mod common;

use common::{
    GLOBAL, LOCAL, Ops, SLICE, USER, World, cpus, flat, insert, local_on, spec, topology,
};
use harena_abi::{Cpu, DsqId, Errno, Tid, scx};
use harena_scx::{Class, Insert, Leave, Op, TaskState};

fn most() -> Vec<Op> {
    let skip = [Op::UpdateIdle, Op::CpuAcquire, Op::CpuRelease];
    let all = Ops::all().into_iter();
    all.filter(|op| !skip.contains(op)).collect()
}

/// Creates the user DSQ 0 in `init`.
fn with_user_dsq(mut ops: Ops) -> Ops {
    ops.hooks.insert(Op::Init, |_, cx, _, _| {
        cx.core.kf_create_dsq(USER, -1).expect("a new queue");
    });
    ops
}

#[test]
fn slice_and_vtime_are_committed_when_the_task_is_linked() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |ops, cx, p, _| {
        let insert = Insert {
            dsq: USER,
            slice: 1234,
            vtime: Some(77),
            enq_flags: 0,
        };
        assert!(cx.core.kf_dsq_insert(cx.machine, Some(p), insert));
        ops.vars.insert("slice", cx.core.image().slice(p));
        ops.vars.insert("vtime", cx.core.image().dsq_vtime(p));
    };
    let mut w = World::new(flat(1), ops);
    let p = w.fork();
    w.start(p);
    assert_eq!(
        (w.ops.vars["slice"], w.ops.vars["vtime"]),
        (SLICE, 0),
        "in the kfunc"
    );
    assert_eq!(
        (w.slice(p), w.core.image().dsq_vtime(p)),
        (1234, 77),
        "once linked"
    );
}

#[test]
fn an_insert_with_slice_zero_keeps_the_slice_but_never_zero() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, 0, 0));
    };
    let mut w = World::new(flat(1), ops);
    let p = w.sleeper();
    w.core.image_mut().set_slice(p, 0);
    w.wake(p);
    assert_eq!(w.slice(p), 1);
}

#[test]
fn each_pick_tries_the_global_queue_first_and_takes_one() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(GLOBAL, SLICE, 0));
    };
    let mut w = World::new(flat(1), ops);
    for _ in 0..3 {
        let p = w.fork();
        w.start(p);
    }
    w.take_log();
    w.leave(0, Leave::Sleeping);
    assert_eq!(w.curr(0), Some(Tid::new(2)));
    w.expect(&["stopping(1, false)", "quiescent(1, 0x9)", "running(2)"]);
}

#[test]
fn the_global_queue_is_one_per_node() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(GLOBAL, SLICE, 0));
    };
    let mut w = World::new(topology(4, 1, 2, 2), ops);
    let first = w.fork();
    w.start(first);
    let second = w.fork();
    w.start(second);
    w.leave(2, Leave::Runnable);
    assert_eq!(w.curr(2), None, "CPU 2 is of the other node");
    w.leave(1, Leave::Runnable);
    assert_eq!(w.curr(1), Some(second));
}

#[test]
fn waking_to_an_idle_cpu_reschedules_it_wherever_the_task_went() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
    };
    ops.dispatch = |_, _, _, _| {};
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.start(p);
    let log = w.take_log();
    assert_eq!(
        log.last().unwrap(),
        "dispatch(0, -)",
        "the idle CPU looks for work"
    );
    assert_eq!(w.core.user_dsq(USER), Some(vec![p]));
}

#[test]
fn stale_dispatches_are_dropped_but_count() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |ops, _, p, _| {
        if !ops.queue.contains(&p) {
            ops.queue.push_back(p);
        }
    };
    // Dispatches everything it ever saw, every time, to another CPU.
    ops.dispatch = |ops, cx, _, _| {
        *ops.vars.entry("calls").or_insert(0) += 1;
        for &p in &ops.queue {
            cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(local_on(1), SLICE, 0));
        }
    };
    ops.config.has.remove(&Op::Dequeue);
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.ops.vars.clear();
    w.on(|core, env| core.wake_up_new(env, p));
    w.m.irq.clear();
    w.schedule(0, Leave::Runnable);
    assert_eq!(w.ops.vars["calls"], 32, "stale entries keep the loop going");
    assert!(
        w.m.irq.contains(&Cpu::new(0)),
        "and then the CPU kicks itself"
    );
    assert_eq!(
        w.core.local_dsq(Cpu::new(1)).collect::<Vec<_>>(),
        vec![p],
        "once only"
    );
    assert!(w.core.is_enabled());
}

#[test]
fn dispatch_checks_the_stay_that_was_meant() {
    let mut ops = Ops::new(&most());
    ops.dispatch = |ops, cx, _, _| {
        let Some(p) = ops.queue.front().copied() else {
            return;
        };
        // Recorded, then requeued by a property change: another stay.
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
        if ops.vars.insert("requeued", 1).is_none() {
            let (core, mut env) = cx.with(ops);
            core.set_nice(&mut env, p, 3).unwrap();
        } else {
            ops.queue.pop_front();
        }
    };
    let mut w = World::new(flat(1), ops);
    let p = w.fork();
    w.start(p);
    let log = w.take_log();
    let dispatches = log.iter().filter(|l| l.starts_with("dispatch")).count();
    assert_eq!(dispatches, 2, "the first entry was dropped, and looped");
    assert_eq!(w.curr(0), Some(p));
}

#[test]
fn direct_dispatch_from_select_cpu_beats_the_shortcuts() {
    let mut ops = Ops::new(&most());
    ops.select = |_, cx, p, prev, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
        Ok(prev)
    };
    let mut w = World::new(flat(2), with_user_dsq(ops));
    w.ops.dispatch = |_, _, _, _| {};
    let p = w.fork();
    w.core.set_exiting(p);
    w.start(p);
    assert_eq!(w.core.user_dsq(USER), Some(vec![p]), "though it is exiting");
    assert_eq!(w.core.event_stats().enq_skip_exiting, 0);
}

#[test]
fn an_exiting_task_skips_the_scheduler() {
    for (flags, skips) in [(0, 1), (scx::SCX_OPS_ENQ_EXITING, 0)] {
        let mut w = World::new(flat(1), Ops::new(&most()).with_flags(flags));
        let p = w.sleeper();
        w.core.set_exiting(p);
        w.wake(p);
        assert_eq!(w.core.event_stats().enq_skip_exiting, skips);
        assert_eq!(w.curr(0), Some(p));
    }
}

#[test]
fn local_on_another_cpu_from_enqueue_is_deferred_to_the_end_of_the_wakeup() {
    let mut w = World::new(flat(2), Ops::new(&most()));
    let p = w.sleeper();
    w.ops.enqueue = |ops, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(local_on(1), SLICE, 0));
        ops.vars
            .insert("local", cx.core.local_dsq(Cpu::new(1)).count() as u64);
    };
    w.wake_from(0, p);
    assert_eq!(w.ops.vars["local"], 0);
    assert_eq!(w.core.local_dsq(Cpu::new(1)).collect::<Vec<_>>(), vec![p]);
    assert!(
        w.m.resched.contains(&Cpu::new(1)),
        "the idle target is woken"
    );
    w.settle();
    assert_eq!(w.curr(1), Some(p));
    let log = w.take_log();
    assert!(
        !log.iter().any(|l| l.starts_with("dequeue")),
        "never in custody"
    );
}

#[test]
fn custody_of_a_user_queue_ends_with_one_dequeue() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
    };
    ops.dispatch = |ops, cx, _, _| {
        let (core, mut env) = cx.with(ops);
        core.kf_dsq_move_to_local(&mut env, USER, 0);
    };
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.take_log();
    w.start(p);
    w.expect(&[
        "select_cpu(1, 0, 0x4)",
        "runnable(1, 0x80008)",
        "enqueue(1, 0x80008)",
        "dispatch(0, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
    let q = w.fork();
    w.start(q);
    w.take_log();
    w.leave(1, Leave::Runnable);
    w.expect(&["dispatch(1, -)", "dequeue(2, 0x100000000)", "running(2)"]);
}

#[test]
fn select_cpu_fallback_is_counted() {
    let mut w = World::new(flat(3), Ops::new(&most()));
    let p = w.fork_spec(spec(&cpus(&[0, 1])));
    w.start(p);
    w.leave(0, Leave::Sleeping);
    w.ops.select = |_, _, _, _, _| Ok(Cpu::new(2));
    w.wake(p);
    assert_eq!(w.curr(0), Some(p), "CPU 2 is not allowed");
    assert_eq!(w.core.event_stats().select_cpu_fallback, 1);
    assert!(
        w.core.is_enabled(),
        "a valid CPU outside the mask is no error"
    );
}

#[test]
fn idle_masks_start_empty_and_fill_as_cpus_report() {
    let mut ops = Ops::new(&most());
    ops.hooks.insert(Op::Init, |ops, cx, _, _| {
        ops.vars
            .insert("idle", u64::from(cx.core.idle_cpus().len()));
    });
    let w = World::new(flat(4), ops);
    assert_eq!(w.ops.vars["idle"], 0);
    assert_eq!(w.core.idle_cpus(), cpus(&[0, 1, 2, 3]));
}

#[test]
fn a_claimed_cpu_is_lost_until_it_repicks_idle() {
    let mut w = World::new(flat(2), Ops::new(&most()));
    assert!(w.on(|core, env| core.kf_test_and_clear_cpu_idle(env.machine, 1)));
    assert!(!w.on(|core, env| core.kf_test_and_clear_cpu_idle(env.machine, 1)));
    w.run_ms(100);
    assert_eq!(w.core.idle_cpus(), cpus(&[0]));
    w.on(|core, env| core.kf_kick_cpu(env.machine, 1, scx::SCX_KICK_IDLE));
    w.settle();
    assert_eq!(w.core.idle_cpus(), cpus(&[0, 1]));
}

#[test]
fn any_distribute_state_is_shared_and_per_cpu() {
    let mut w = World::new(flat(4), Ops::new(&most()));
    let all = cpus(&[0, 1, 2, 3]);
    let pick = |w: &mut World| w.on(|core, env| core.kf_any_distribute(env.machine, &all));
    assert_eq!(pick(&mut w), Some(Cpu::new(0)));
    assert_eq!(pick(&mut w), Some(Cpu::new(1)));
    let idle = w.on(|core, env| core.kf_pick_idle_cpu(env.machine, &all, None, 0));
    assert_eq!(idle, Ok(Cpu::new(2)));
    assert_eq!(pick(&mut w), Some(Cpu::new(3)));
    w.m.this = 1;
    assert_eq!(
        pick(&mut w),
        Some(Cpu::new(0)),
        "another CPU counts for itself"
    );
}

#[test]
fn immed_goes_back_from_a_busy_cpu_and_gives_up_after_256_times() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |_, cx, p, _| {
        let insert = insert(LOCAL, SLICE, scx::SCX_ENQ_IMMED);
        cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
    };
    let mut w = World::new(flat(1), ops);
    let p = w.fork();
    w.start(p);
    assert_eq!(w.curr(0), Some(p), "an idle CPU is open");
    let q = w.fork();
    w.start(q);
    let info = w.core.exit_info().expect("it insists on the busy CPU");
    assert_eq!(info.kind, scx::SCX_EXIT_ERROR_REENQ);
    assert_eq!(info.message, "task[2] reenqueued 257 times without running");
    assert_eq!(info.reason, "reenqueue limit");
    assert_eq!(w.core.event_stats().reenq_immed, 257);
}

#[test]
fn always_enq_immed_applies_to_local_inserts() {
    let mut ops = Ops::new(&most()).with_flags(scx::SCX_OPS_ALWAYS_ENQ_IMMED);
    ops.enqueue = |ops, cx, p, flags| {
        if flags & scx::SCX_ENQ_REENQ != 0 {
            ops.queue.push_back(p);
        } else {
            cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
        }
    };
    let mut w = World::new(flat(1), ops);
    let (p, q) = (w.fork(), w.fork());
    w.start(p);
    w.start(q);
    assert_eq!(w.ops.queue, [q], "handed back: the CPU is busy");
    assert_eq!(w.core.event_stats().reenq_immed, 1);
}

#[test]
fn runnable_at_counts_from_the_last_run() {
    let mut ops = Ops::new(&most());
    ops.config.timeout_ms = 1000;
    ops.enqueue = |ops, cx, p, _| {
        if p == Tid::new(1) {
            cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
        } else {
            ops.queue.push_back(p);
        }
    };
    ops.dispatch = |_, _, _, _| {};
    let mut w = World::new(flat(1), ops);
    let (runs, starves) = (w.fork(), w.fork());
    w.start(runs);
    w.start(starves);
    for _ in 0..14 {
        w.run_ms(100);
        // Requeued again and again, and it never runs.
        let nice = w.core.task(starves).unwrap().nice;
        w.on(|core, env| core.set_nice(env, starves, nice + 1))
            .unwrap();
    }
    assert!(w.core.exit_info().is_none());
    w.run_ms(100);
    let info = w.core.exit_info().expect("stalled");
    assert_eq!(info.message, "task[2] failed to run for 1.500s");
}

#[test]
fn a_wait_starts_with_init_not_with_fork() {
    let mut ops = Ops::new(&most());
    ops.config.timeout_ms = 1000;
    let mut w = World::bare(flat(1), ops);
    let p = w.fork();
    w.start(p);
    w.run_ms(5_000);
    w.enable();
    let q = w.fork();
    w.run_ms(5_000);
    w.start(q);
    w.run_ms(2_000);
    assert!(w.core.is_enabled(), "{:?}", w.core.exit_info());
}

#[test]
fn affinity_waits_for_migration_to_be_enabled() {
    let mut w = World::new(flat(2), Ops::new(&most()));
    let p = w.fork();
    w.start(p);
    w.on(|core, env| core.set_migration_disabled(env, p, true));
    w.on(|core, env| core.set_affinity(env, p, &cpus(&[1])))
        .unwrap();
    w.settle();
    assert_eq!(w.curr(0), Some(p));
    w.on(|core, env| core.set_migration_disabled(env, p, false));
    w.settle();
    assert_eq!(w.curr(1), Some(p));
}

#[test]
fn scx_error_does_not_interrupt_and_the_first_wins() {
    let mut ops = Ops::new(&most());
    ops.enqueue = |ops, cx, p, _| {
        let go = insert(LOCAL, SLICE, 0);
        cx.core.kf_error(cx.machine, "first");
        cx.core.kf_error(cx.machine, "second");
        assert!(
            cx.core.kf_dsq_insert(cx.machine, Some(p), go),
            "kfuncs keep working"
        );
        ops.vars.insert("went on", 1);
    };
    let mut w = World::new(flat(1), ops);
    w.exits = false;
    let p = w.fork();
    w.start(p);
    assert_eq!(w.ops.vars["went on"], 1);
    assert_eq!(w.curr(0), Some(p));
    assert!(w.core.exit_pending() && !w.core.is_enabled());
    w.exits = true;
    w.on(|_, _| ());
    let info = w.core.exit_info().unwrap();
    assert_eq!(
        (info.kind, info.message.as_str()),
        (scx::SCX_EXIT_ERROR_BPF, "first")
    );
}

#[test]
fn while_aborting_queues_yield_nothing() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
    };
    ops.dispatch = |ops, cx, _, _| {
        let (core, mut env) = cx.with(ops);
        let moved = core.kf_dsq_move_to_local(&mut env, USER, 0);
        ops.vars.insert("moved", u64::from(moved));
    };
    let mut w = World::new(flat(1), ops);
    w.exits = false;
    let p = w.fork();
    w.on(|core, env| core.kf_error(env.machine, "stop"));
    w.start(p);
    assert_eq!(w.ops.vars["moved"], 0);
    assert_eq!(w.curr(0), None);
}

#[test]
fn enabling_initialises_first_and_requeues_in_reverse() {
    let mut w = World::bare(flat(1), Ops::new(&most()));
    let tasks: Vec<Tid> = (0..4).map(|_| w.fork()).collect();
    for &p in &tasks {
        w.start(p);
    }
    assert_eq!(w.core.task(tasks[0]).unwrap().class, Class::Fair);
    w.ops.hooks.insert(Op::InitTask, |ops, cx, p, _| {
        let weight = cx.core.task(p).unwrap().weight;
        ops.vars.insert("weight", u64::from(weight));
    });
    w.on(|core, env| core.enable(env)).unwrap();
    assert_eq!(w.ops.vars["weight"], 0, "init_task comes before the weight");
    let log = w.take_log();
    let at = |line: &str| log.iter().position(|l| l == line).expect(line);
    assert!(at("prepare") < at("init()") && at("init()") < at("init_task(1, fork=false)"));
    assert!(
        at("init_task(4, fork=false)") < at("enable(1)"),
        "all before the first"
    );
    let switched = [
        "enable(2)",
        "set_weight(2, 100)",
        "set_cpumask(2, {0})",
        "runnable(2, 0x4e)",
    ];
    assert_eq!(log[at("enable(2)")..][..4], switched);
    let enqueued: Vec<_> = log.iter().filter(|l| l.starts_with("enqueue")).collect();
    assert_eq!(
        enqueued,
        ["enqueue(4, 0xe)", "enqueue(3, 0xe)", "enqueue(2, 0xe)"]
    );
    assert_eq!(w.core.task(tasks[3]).unwrap().state, TaskState::Enabled);
    let stats = w.core.event_stats();
    assert_eq!((stats.bypass_activate, stats.bypass_dispatch), (1, 3));
}

#[test]
fn nr_queued_of_builtin_queues() {
    let mut w = World::new(flat(2), Ops::new(&most()));
    let mut nr = |dsq| w.on(|core, env| core.kf_dsq_nr_queued(env.machine, dsq));
    assert_eq!(nr(GLOBAL), Err(Errno::ENOENT));
    assert_eq!(nr(DsqId::new(42)), Err(Errno::ENOENT));
    assert_eq!(nr(LOCAL), Ok(0));
    assert_eq!(nr(local_on(1)), Ok(0));
    assert!(w.core.is_enabled());
}

#[test]
fn consuming_skips_tasks_that_may_not_run_here() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
    };
    ops.dispatch = |ops, cx, cpu, _| {
        if cpu == Cpu::new(1) {
            let (core, mut env) = cx.with(ops);
            core.kf_dsq_move_to_local(&mut env, USER, 0);
        }
    };
    let mut w = World::new(flat(2), ops);
    let pinned = w.fork_spec(spec(&cpus(&[0])));
    let free = w.fork();
    w.start(pinned);
    w.start(free);
    w.leave(1, Leave::Runnable);
    assert_eq!(w.curr(1), Some(free));
    assert_eq!(w.core.user_dsq(USER), Some(vec![pinned]));
    assert!(w.core.is_enabled(), "skipping is no error");
}

#[test]
fn init_task_may_refuse_a_fork() {
    let mut w = World::new(flat(1), Ops::new(&[Op::InitTask, Op::Enqueue]));
    w.ops.ret.insert(Op::InitTask, -12);
    let cpus = cpus(&[0]);
    let refused = w.on(|core, env| core.fork(env, spec(&cpus)));
    assert_eq!(refused, Err(Errno::ENOMEM));
    assert_eq!(w.core.tasks().count(), 0);
    assert!(w.core.is_enabled(), "a refused fork is no error");
}

#[test]
fn kicks_are_dropped_while_bypassing() {
    let mut ops = Ops::new(&most());
    ops.hooks.insert(Op::Enable, |_, cx, _, _| {
        cx.core.kf_kick_cpu(cx.machine, 0, 0);
    });
    let mut w = World::bare(flat(1), ops);
    let p = w.fork();
    w.start(p);
    w.on(|core, env| core.enable(env)).unwrap();
    assert!(w.m.irq.is_empty());
}

#[test]
fn out_of_band_slice_waits_for_the_run_queue() {
    let mut w = World::new(flat(2), Ops::new(&most()));
    let p = w.fork();
    w.start(p);
    w.on(|core, env| assert!(core.kf_task_set_slice(env, p, 3_000_000)));
    assert_eq!(w.slice(p), SLICE, "not at once");
    w.run_ms(1);
    assert_eq!(w.slice(p), 2_000_000, "applied at the tick, then charged");
    w.on(|core, env| assert!(core.kf_task_set_slice(env, p, u64::MAX - 1)));
    assert_eq!(w.core.event_stats().slice_clamped, 1);
    w.on(|core, env| assert!(!core.kf_task_set_slice(env, Tid::new(99), 1)));
}

#[test]
fn an_infinite_slice_is_not_charged() {
    let mut w = World::new(flat(1), Ops::new(&most()));
    w.ops.enqueue = |_, cx, p, _| {
        let forever = insert(LOCAL, scx::SCX_SLICE_INF, 0);
        cx.core.kf_dsq_insert(cx.machine, Some(p), forever);
    };
    let p = w.fork();
    w.start(p);
    w.run_ms(500);
    assert_eq!(w.slice(p), scx::SCX_SLICE_INF);
    assert_eq!(w.curr(0), Some(p));
}

#[test]
fn a_zero_slice_set_in_tick_switches_at_that_tick() {
    let mut w = World::new(flat(1), Ops::new(&most()));
    w.ops.hooks.insert(Op::Tick, |ops, cx, p, _| {
        let (core, mut env) = cx.with(ops);
        assert!(core.kf_task_set_slice(&mut env, p, 0));
    });
    let (p, q) = (w.fork(), w.fork());
    w.start(p);
    w.start(q);
    w.run_ms(1);
    assert_eq!(w.curr(0), Some(q));
}

#[test]
fn dsq_reenq_gives_every_task_back_once() {
    let mut ops = with_user_dsq(Ops::new(&most()));
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(USER, SLICE, 0));
    };
    ops.dispatch = |_, _, _, _| {};
    let mut w = World::new(flat(1), ops);
    for _ in 0..3 {
        let p = w.fork();
        w.start(p);
    }
    w.take_log();
    w.on(|core, env| core.kf_dsq_reenq(env.machine, USER, 0));
    w.settle();
    let log = w.take_log();
    let back: Vec<_> = log.iter().filter(|l| l.starts_with("enqueue")).collect();
    assert_eq!(
        back,
        [
            "enqueue(1, 0x10000000000)",
            "enqueue(2, 0x10000000000)",
            "enqueue(3, 0x10000000000)"
        ]
    );
    assert_eq!(w.core.user_dsq(USER).unwrap().len(), 3);
}
