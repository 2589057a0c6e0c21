//! The callback traces of the kernel, one test per kind of event.
//!
//! Where `select_cpu` keeps the previous CPU, tasks stay on CPU 0. Flags are written as the
//! kernel passes them: 0x9 is WAKEUP|NOCLOCK, 0x100000 `CPU_SELECTED`, 0x40000 MIGRATED,
//! 0x80000 INITIAL, 0xa SAVE|NOCLOCK, 0xe SAVE|MOVE|NOCLOCK.

mod common;

use common::{LOCAL, Ops, SLICE, World, cpus, flat, insert, local_on, spec};
use harena_abi::{Cpu, Nanos, Tid, scx};
use harena_scx::{Cx, Leave, Op};

/// Every callback but those about idle CPUs and higher classes.
fn most() -> Vec<Op> {
    let skip = [Op::UpdateIdle, Op::CpuAcquire, Op::CpuRelease];
    let all = Ops::all().into_iter();
    all.filter(|op| !skip.contains(op)).collect()
}

fn world(cpus: u32) -> World {
    World::new(flat(cpus), Ops::new(&most()))
}

/// A world of one CPU with `n` tasks, the first one running with a fresh slice.
fn busy(n: usize, ops: Ops) -> (World, Vec<Tid>) {
    let mut w = World::new(flat(1), ops);
    let tasks: Vec<Tid> = (0..n).map(|_| w.fork()).collect();
    for &p in &tasks {
        w.start(p);
    }
    assert_eq!(w.curr(0), Some(tasks[0]));
    w.take_log();
    (w, tasks)
}

#[test]
fn fork_then_first_wakeup() {
    let mut w = world(2);
    let p = w.fork();
    w.expect(&["init_task(1, fork=true)", "enable(1)", "set_weight(1, 100)"]);
    w.start(p);
    w.expect(&[
        "select_cpu(1, 0, 0x4)",
        "runnable(1, 0x80008)",
        "enqueue(1, 0x80008)",
        "dispatch(0, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
}

#[test]
fn wakeup_that_the_scheduler_queues() {
    let mut w = world(2);
    let p = w.sleeper();
    w.wake(p);
    w.expect(&[
        "select_cpu(1, 0, 0x8)",
        "runnable(1, 0x100009)",
        "enqueue(1, 0x100009)",
        "dispatch(0, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
}

#[test]
fn wakeup_to_another_cpu_says_migrated() {
    let mut w = world(2);
    let p = w.sleeper();
    w.ops.select = |_, _, _, _, _| Ok(Cpu::new(1));
    w.wake(p);
    w.expect(&[
        "select_cpu(1, 0, 0x8)",
        "runnable(1, 0x140009)",
        "enqueue(1, 0x140009)",
        "dispatch(1, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
    assert_eq!(w.curr(1), Some(p));
}

#[test]
fn wakeup_that_select_cpu_dispatched() {
    let mut w = world(2);
    let p = w.sleeper();
    w.ops.select = |_, cx, p, _, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, 7_000, 0));
        Ok(Cpu::new(1))
    };
    w.wake(p);
    // LOCAL is the local queue of the CPU that select_cpu returned.
    w.expect(&[
        "select_cpu(1, 0, 0x8)",
        "runnable(1, 0x140009)",
        "running(1)",
    ]);
    assert_eq!(w.curr(1), Some(p));
    assert_eq!(w.slice(p), 7_000);
}

#[test]
fn wakeup_with_one_allowed_cpu() {
    let mut w = world(2);
    let p = w.fork_spec(spec(&cpus(&[1])));
    w.start(p);
    w.leave(1, Leave::Sleeping);
    w.take_log();
    w.wake(p);
    w.expect(&[
        "runnable(1, 0x9)",
        "enqueue(1, 0x9)",
        "dispatch(1, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
}

#[test]
fn migration_disabled_task_skips_select_cpu_and_enqueue() {
    let mut w = world(2);
    let p = w.sleeper();
    w.on(|core, env| core.set_migration_disabled(env, p, true));
    w.wake(p);
    w.expect(&["runnable(1, 0x9)", "running(1)"]);
    assert_eq!(w.core.event_stats().enq_skip_migration_disabled, 1);
}

#[test]
fn slice_expiry_at_tick() {
    let (mut w, _) = busy(2, Ops::new(&most()));
    w.run_ms(19);
    let log = w.take_log();
    assert_eq!(log, vec!["tick(1)"; 19], "slice left: ticks only");
    w.run_ms(1);
    // The next task's dispatch comes before the last one's stopping.
    w.expect(&[
        "tick(1)",
        "dispatch(0, 1)",
        "dequeue(2, 0x0)",
        "stopping(1, true)",
        "enqueue(1, 0x0)",
        "running(2)",
    ]);
}

#[test]
fn slice_expiry_with_nothing_else_to_run() {
    let (mut w, tasks) = busy(1, Ops::new(&most()));
    w.run_ms(20);
    let log = w.take_log();
    assert_eq!(
        log[19..],
        ["tick(1)", "dispatch(0, 1)"],
        "kept without a word"
    );
    assert_eq!(w.curr(0), Some(tasks[0]));
    assert_eq!(w.slice(tasks[0]), SLICE, "refilled");
    let stats = w.core.event_stats();
    assert_eq!((stats.dispatch_keep_last, stats.refill_slice_dfl), (1, 1));
}

#[test]
fn slice_expiry_under_enq_last() {
    let ops = Ops::new(&Ops::all()).with_flags(scx::SCX_OPS_ENQ_LAST);
    let (mut w, tasks) = busy(1, ops);
    w.run_ms(19);
    w.take_log();
    w.ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
    };
    w.run_ms(1);
    w.expect(&[
        "tick(1)",
        "dispatch(0, 1)",
        "stopping(1, true)",
        "enqueue(1, 0x20000000000)",
        "update_idle(0, true)",
    ]);
    // Idle with a task in its local queue, until some event reschedules it.
    assert_eq!(w.curr(0), None);
    assert_eq!(w.core.local_dsq(Cpu::new(0)).collect::<Vec<_>>(), tasks);
    w.run_ms(10);
    assert_eq!(w.curr(0), None, "nothing comes by itself");
    w.leave(0, Leave::Runnable);
    assert_eq!(w.curr(0), Some(tasks[0]));
}

#[test]
fn enq_last_is_avoided_by_extending_the_slice_in_dispatch() {
    let ops = Ops::new(&most()).with_flags(scx::SCX_OPS_ENQ_LAST);
    let (mut w, tasks) = busy(1, ops);
    w.ops.dispatch = |ops, cx, _, prev| {
        if let Some(p) = prev {
            let (core, mut env) = cx.with(ops);
            assert!(core.kf_task_set_slice(&mut env, p, 5_000_000));
        }
    };
    w.run_ms(20);
    assert_eq!(w.curr(0), Some(tasks[0]));
    assert_eq!(w.slice(tasks[0]), 5_000_000);
}

#[test]
fn reschedule_with_slice_left() {
    let (mut w, _) = busy(2, Ops::new(&most()));
    w.leave(0, Leave::Runnable);
    w.expect(&[]);
}

#[test]
fn a_task_on_the_local_queue_waits_for_the_slice() {
    let (mut w, tasks) = busy(1, Ops::new(&most()));
    w.ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
    };
    let q = w.fork();
    w.start(q);
    assert_eq!(w.curr(0), Some(tasks[0]), "no preemption");
    w.run_ms(20);
    assert_eq!(w.curr(0), Some(q));
    let log = w.take_log();
    assert!(
        !log.iter().any(|l| l.starts_with("dispatch")),
        "local is not empty"
    );
}

#[test]
fn preemption_by_insert() {
    let (mut w, tasks) = busy(1, Ops::new(&most()));
    let q = w.fork();
    w.take_log();
    w.ops.enqueue = |ops, cx, p, _| {
        if p == Tid::new(2) {
            let insert = insert(LOCAL, SLICE, scx::SCX_ENQ_PREEMPT);
            cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
        } else {
            ops.queue.push_back(p);
        }
    };
    w.start(q);
    w.expect(&[
        "runnable(2, 0x80008)",
        "enqueue(2, 0x80008)",
        "stopping(1, true)",
        "enqueue(1, 0x0)",
        "running(2)",
    ]);
    assert_eq!(w.slice(tasks[0]), 0, "the victim lost its slice");
}

#[test]
fn preemption_by_kick() {
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    w.on(|core, env| core.kf_kick_cpu(env.machine, 0, scx::SCX_KICK_PREEMPT));
    w.settle();
    w.expect(&[
        "dispatch(0, 1)",
        "dequeue(2, 0x0)",
        "stopping(1, true)",
        "enqueue(1, 0x0)",
        "running(2)",
    ]);
    assert_eq!(w.slice(tasks[0]), 0);
}

#[test]
fn plain_kick_of_a_busy_cpu_does_nothing() {
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    w.on(|core, env| core.kf_kick_cpu(env.machine, 0, 0));
    w.on(|core, env| core.kf_kick_cpu(env.machine, 0, scx::SCX_KICK_IDLE));
    w.settle();
    w.expect(&[]);
    assert_eq!(w.curr(0), Some(tasks[0]));
}

/// One running ext task, under a scheduler that takes `SCHED_EXT` tasks only.
fn partial(ops: Ops) -> (World, Tid) {
    let mut w = World::new(flat(1), ops.with_flags(scx::SCX_OPS_SWITCH_PARTIAL));
    let p = w.fork_spec(harena_scx::TaskSpec {
        policy: scx::SCHED_EXT,
        ..spec(&cpus(&[0]))
    });
    w.start(p);
    assert_eq!(w.curr(0), Some(p));
    w.take_log();
    (w, p)
}

#[test]
fn preemption_by_a_higher_class() {
    let (mut w, p) = partial(Ops::new(&Ops::all()));
    let fair = w.fork();
    w.expect(&["init_task(2, fork=true)"]);
    w.pass(Nanos::from_ms(3));
    w.start(fair);
    // Slice left: to the head of the local queue, without ops.enqueue.
    w.expect(&["stopping(1, true)", "cpu_release(0, 3, 2)"]);
    assert_eq!(w.slice(p), SLICE - 3_000_000);
    assert_eq!(w.curr(0), Some(fair));
    w.leave(0, Leave::Sleeping);
    w.expect(&["cpu_acquire(0)", "running(1)"]);
    assert_eq!(w.curr(0), Some(p));
}

#[test]
fn preemption_by_a_higher_class_with_the_slice_used_up() {
    let (mut w, _) = partial(Ops::new(&Ops::all()));
    let fair = w.fork();
    w.take_log();
    w.pass(Nanos::from_ms(25));
    w.start(fair);
    w.expect(&[
        "stopping(1, true)",
        "enqueue(1, 0x0)",
        "cpu_release(0, 3, 2)",
    ]);
}

#[test]
fn preemption_of_an_immed_task_by_a_higher_class() {
    let mut ops = Ops::new(&Ops::all());
    ops.enqueue = |ops, cx, p, flags| {
        let reason = cx.core.task(p).unwrap().scx_flags & scx::SCX_TASK_REENQ_REASON_MASK;
        ops.vars.insert("reason", u64::from(reason));
        if flags & scx::SCX_ENQ_REENQ == 0 {
            let insert = insert(LOCAL, SLICE, scx::SCX_ENQ_IMMED);
            cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
        } else {
            ops.queue.push_back(p);
        }
    };
    let (mut w, p) = partial(ops);
    let fair = w.fork();
    w.take_log();
    w.start(fair);
    w.expect(&[
        "stopping(1, true)",
        "enqueue(1, 0x10000000000)",
        "cpu_release(0, 3, 2)",
    ]);
    assert_eq!(
        w.ops.vars["reason"],
        u64::from(scx::SCX_TASK_REENQ_PREEMPTED)
    );
    let flags = w.core.task(p).unwrap().scx_flags;
    assert_eq!(
        flags & scx::SCX_TASK_REENQ_REASON_MASK,
        0,
        "only during the call"
    );
}

#[test]
fn reenqueue_local_from_cpu_release() {
    let mut ops = Ops::new(&Ops::all());
    ops.hooks.insert(Op::CpuRelease, |ops, cx, _, _| {
        let (core, mut env) = cx.with(ops);
        let count = core.kf_reenqueue_local(&mut env);
        ops.vars.insert("count", u64::from(count));
    });
    let (mut w, _) = partial(ops);
    let fair = w.fork();
    w.take_log();
    w.start(fair);
    w.expect(&[
        "stopping(1, true)",
        "cpu_release(0, 3, 2)",
        "enqueue(1, 0x10000000000)",
    ]);
    assert_eq!(w.ops.vars["count"], 1);
}

#[test]
fn sleep() {
    let (mut w, _) = busy(2, Ops::new(&most()));
    w.leave(0, Leave::Sleeping);
    // prev is given to dispatch though it sleeps: not QUEUED.
    w.expect(&[
        "stopping(1, false)",
        "quiescent(1, 0x9)",
        "dispatch(0, 1)",
        "dequeue(2, 0x0)",
        "running(2)",
    ]);
}

#[test]
fn prev_in_dispatch_may_be_asleep() {
    let (mut w, _) = busy(1, Ops::new(&most()));
    w.ops.dispatch = |ops, cx, _, prev| {
        let prev = prev.expect("it was ext");
        let flags = cx.core.task(prev).unwrap().scx_flags;
        ops.vars
            .insert("queued", u64::from(flags & scx::SCX_TASK_QUEUED));
    };
    w.leave(0, Leave::Sleeping);
    assert_eq!(w.ops.vars["queued"], 0);
}

#[test]
fn death_comes_after_the_next_pick() {
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    w.leave(0, Leave::Exiting);
    w.expect(&[
        "stopping(1, false)",
        "quiescent(1, 0x9)",
        "dispatch(0, 1)",
        "dequeue(2, 0x0)",
        "running(2)",
        "disable(1)",
        "exit_task(1, cancelled=false)",
    ]);
    assert!(w.core.task(tasks[0]).is_none());
}

#[test]
fn yield_without_an_op() {
    let has: Vec<Op> = most().into_iter().filter(|&op| op != Op::Yield).collect();
    let (mut w, _) = busy(2, Ops::new(&has));
    w.on(|core, env| core.yield_current(env, Cpu::new(0)));
    w.leave(0, Leave::Runnable);
    w.expect(&[
        "dispatch(0, 1)",
        "dequeue(2, 0x0)",
        "stopping(1, true)",
        "enqueue(1, 0x0)",
        "running(2)",
    ]);
}

#[test]
fn yield_with_an_op_that_keeps_the_slice() {
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    w.on(|core, env| core.yield_current(env, Cpu::new(0)));
    w.leave(0, Leave::Runnable);
    w.expect(&["yield(1, false)"]);
    assert_eq!(w.curr(0), Some(tasks[0]), "it just goes on");
}

#[test]
fn nice_change_while_queued() {
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    w.on(|core, env| core.set_nice(env, tasks[1], -5)).unwrap();
    w.expect(&[
        "dequeue(2, 0x20000000a)",
        "quiescent(2, 0x20000000a)",
        "set_weight(2, 305)",
        "runnable(2, 0xa)",
        "enqueue(2, 0xa)",
    ]);
    assert_eq!(w.core.task(tasks[1]).unwrap().weight, 305);
}

#[test]
fn nice_change_while_running() {
    let (mut w, tasks) = busy(1, Ops::new(&most()));
    w.pass(Nanos::from_ms(4));
    w.on(|core, env| core.set_nice(env, tasks[0], 5)).unwrap();
    w.settle();
    w.expect(&[
        "stopping(1, false)",
        "quiescent(1, 0x20000000a)",
        "set_weight(1, 33)",
        "runnable(1, 0xa)",
        "running(1)",
    ]);
    assert_eq!(w.slice(tasks[0]), SLICE - 4_000_000, "the slice goes on");
}

#[test]
fn affinity_change_while_asleep_and_queued() {
    let mut w = world(2);
    let p = w.sleeper();
    w.on(|core, env| core.set_affinity(env, p, &cpus(&[0])))
        .unwrap();
    w.expect(&["set_cpumask(1, {0})"]);
    let (mut w, tasks) = busy(2, Ops::new(&most()));
    let same = w.on(|core, env| core.set_affinity(env, tasks[1], &cpus(&[0, 5])));
    same.unwrap();
    w.expect(&[]);
}

#[test]
fn affinity_change_that_excludes_the_cpu_of_a_queued_task() {
    let mut w = world(2);
    let first = w.fork();
    w.start(first);
    let p = w.fork();
    w.start(p);
    w.take_log();
    w.on(|core, env| core.set_affinity(env, p, &cpus(&[1])))
        .unwrap();
    w.settle();
    w.expect(&[
        "dequeue(2, 0x20000000a)",
        "quiescent(2, 0x20000000a)",
        "set_cpumask(2, {1})",
        "runnable(2, 0xa)",
        "enqueue(2, 0xa)",
        "dequeue(2, 0x200000008)",
        "enqueue(2, 0x40000)",
        "dispatch(1, -)",
        "dequeue(2, 0x0)",
        "running(2)",
    ]);
    assert_eq!(w.curr(1), Some(p));
}

#[test]
fn affinity_change_that_excludes_the_cpu_of_the_running_task() {
    let mut w = world(2);
    let p = w.fork();
    w.start(p);
    w.take_log();
    w.on(|core, env| core.set_affinity(env, p, &cpus(&[1])))
        .unwrap();
    w.settle();
    w.expect(&[
        "stopping(1, false)",
        "quiescent(1, 0x20000000a)",
        "set_cpumask(1, {1})",
        "runnable(1, 0xa)",
        "running(1)",
        // The stopper preempts it with slice left, and moves it.
        "stopping(1, true)",
        "enqueue(1, 0x40000)",
        "dispatch(0, -)",
        "dispatch(1, -)",
        "dequeue(1, 0x0)",
        "running(1)",
    ]);
    assert_eq!(w.core.task(p).unwrap().cpu, Cpu::new(1));
}

#[test]
fn cpu_goes_idle_and_back() {
    let mut w = World::new(flat(1), Ops::new(&Ops::all()));
    let p = w.sleeper();
    w.wake(p);
    let log = w.take_log();
    assert_eq!(
        log[log.len() - 2..],
        ["update_idle(0, false)", "running(1)"]
    );
    w.leave(0, Leave::Sleeping);
    w.expect(&[
        "stopping(1, false)",
        "quiescent(1, 0x9)",
        "dispatch(0, 1)",
        "update_idle(0, true)",
    ]);
}

#[test]
fn idle_repick_tells_cid_form_only() {
    for (form, told) in [(harena_scx::Form::Cpu, 0), (harena_scx::Form::Cid, 1)] {
        let mut ops = Ops::new(&Ops::all());
        ops.config.form = form;
        let mut w = World::new(flat(1), ops);
        w.leave(0, Leave::Runnable);
        let log = w.take_log();
        let seen = log.iter().filter(|l| *l == "update_idle(0, true)").count();
        assert_eq!(seen, told, "{form:?}");
    }
}

/// Dispatches the first queued task to CPU 1's local queue, whoever asks.
fn to_cpu_1(ops: &mut Ops, cx: &mut Cx<'_>, _cpu: Cpu, _prev: Option<Tid>) {
    if let Some(p) = ops.queue.pop_front() {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(local_on(1), SLICE, 0));
    }
}

#[test]
fn core_internal_move_to_another_cpu() {
    let mut w = world(2);
    let p = w.sleeper();
    w.ops.dispatch = to_cpu_1;
    w.wake(p);
    // No runnable, quiescent or enqueue; the custody flag survives the move and is
    // handed back right before running.
    w.expect(&[
        "select_cpu(1, 0, 0x8)",
        "runnable(1, 0x100009)",
        "enqueue(1, 0x100009)",
        "dispatch(0, -)",
        "dispatch(0, -)",
        "dequeue(1, 0x100000000)",
        "running(1)",
    ]);
    assert_eq!(w.curr(1), Some(p));
    assert_eq!(w.m.migrations, 1);
}
