//! Every error text of the core: exact, first wins, and the core goes on consistently.

mod common;

use common::{
    GLOBAL, LOCAL, Ops, SLICE, USER, World, cpus, flat, insert, local_on, spec, topology,
};
use harena_abi::{Cpu, DsqId, Tid, scx};
use harena_scx::{EnableError, Form, Insert, Leave, MaskKind, Op, TaskSpec};

fn all() -> Ops {
    Ops::new(&Ops::all())
}

/// Without `update_idle`: built-in idle tracking is on.
fn builtin_idle() -> Ops {
    let has = Ops::all().into_iter().filter(|&op| op != Op::UpdateIdle);
    Ops::new(&has.collect::<Vec<_>>())
}

/// Runs one task through `ops` and gives the exit's message.
fn message(ops: Ops) -> String {
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.start(p);
    let info = w.core.exit_info().expect("it left");
    assert_eq!(info.kind, scx::SCX_EXIT_ERROR);
    assert_eq!(info.reason, "runtime error");
    info.message.clone()
}

/// What `enqueue` does wrong when it inserts like this.
fn insert_message(dsq: u64, enq_flags: u64) -> String {
    let mut ops = all();
    ops.vars.insert("dsq", dsq);
    ops.vars.insert("flags", enq_flags);
    ops.enqueue = |ops, cx, p, _| {
        let to = insert(DsqId::new(ops.vars["dsq"]), SLICE, ops.vars["flags"]);
        cx.core.kf_dsq_insert(cx.machine, Some(p), to);
    };
    message(ops)
}

/// The message after one event.
fn after(ops: Ops, f: impl FnOnce(&mut World)) -> String {
    let mut w = World::new(flat(2), ops);
    f(&mut w);
    w.exit_message().to_owned()
}

#[test]
fn inserts() {
    assert_eq!(insert_message(5, 0), "non-existent DSQ 0x5");
    assert_eq!(
        insert_message(scx::SCX_DSQ_BYPASS, 0),
        "non-existent DSQ 0x8000000000000003"
    );
    assert_eq!(
        insert_message(local_on(7).raw(), 0),
        "invalid CPU 7 in SCX_DSQ_LOCAL_ON dispatch verdict"
    );
    assert_eq!(
        insert_message(scx::SCX_DSQ_LOCAL, scx::SCX_ENQ_DSQ_PRIQ),
        "invalid enq_flags 0x200000000000000"
    );
    assert_eq!(
        insert_message(scx::SCX_DSQ_GLOBAL, scx::SCX_ENQ_IMMED),
        "SCX_ENQ_IMMED on a non-local DSQ 0x8000000000000001"
    );
}

#[test]
fn insert_without_a_task() {
    let mut ops = all();
    ops.enqueue = |_, cx, _, _| {
        let to = insert(LOCAL, SLICE, 0);
        assert!(!cx.core.kf_dsq_insert(cx.machine, None, to));
        assert!(!cx.core.kf_dsq_insert(cx.machine, Some(Tid::new(999)), to));
    };
    assert_eq!(message(ops), "called with NULL task");
}

#[test]
fn vtime_on_a_builtin_queue() {
    let mut ops = all();
    ops.enqueue = |_, cx, p, _| {
        let to = Insert {
            vtime: Some(3),
            ..insert(LOCAL, SLICE, 0)
        };
        cx.core.kf_dsq_insert(cx.machine, Some(p), to);
    };
    assert_eq!(message(ops), "cannot use vtime ordering for built-in DSQs");
}

#[test]
fn mixing_orders_in_a_user_queue() {
    for (first, text) in [(0, "FIFO"), (1, "PRIQ")] {
        let mut ops = all();
        ops.vars.insert("vtime", first);
        ops.hooks.insert(Op::Init, |_, cx, _, _| {
            cx.core.kf_create_dsq(USER, -1).expect("a new queue");
        });
        ops.enqueue = |ops, cx, p, _| {
            let to = Insert {
                vtime: (ops.vars["vtime"] == 1).then_some(1),
                ..insert(USER, SLICE, 0)
            };
            ops.vars.insert("vtime", 1 - ops.vars["vtime"]);
            cx.core.kf_dsq_insert(cx.machine, Some(p), to);
        };
        ops.dispatch = |_, _, _, _| {};
        let mut w = World::new(flat(1), ops);
        w.exits = false;
        for _ in 0..2 {
            let p = w.fork();
            w.start(p);
        }
        assert_eq!(
            w.core.user_dsq(USER).map(|q| q.len()),
            Some(2),
            "both are in"
        );
        w.exits = true;
        w.on(|_, _| ());
        let want = format!("DSQ ID 0x0000000000000000 already had {text}-enqueued tasks");
        assert_eq!(w.exit_message(), want);
    }
}

#[test]
fn direct_dispatch_twice_and_of_another() {
    let mut ops = all();
    ops.enqueue = |_, cx, p, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(GLOBAL, SLICE, 0));
    };
    assert_eq!(message(ops), "task[1] already direct-dispatched");
    let mut ops = all();
    ops.enqueue = |_, cx, p, _| {
        let other = Tid::new(3 - p.raw());
        cx.core
            .kf_dsq_insert(cx.machine, Some(other), insert(LOCAL, SLICE, 0));
    };
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.fork();
    w.start(p);
    assert_eq!(
        w.exit_message(),
        "scheduling for task[1] but trying to direct-dispatch task[2]"
    );
}

#[test]
fn select_cpu_of_no_cpu() {
    let mut ops = all();
    ops.select = |_, _, _, _, _| Ok(Cpu::new(9));
    assert_eq!(message(ops), "invalid CPU 9 from ops.select_cpu()");
    let mut ops = all();
    ops.select = |_, _, _, _, _| Err(-5);
    assert_eq!(message(ops), "invalid CPU -5 from ops.select_cpu()");
    let mut ops = all();
    ops.config.form = Form::Cid;
    ops.select = |_, _, _, _, _| Err(77);
    assert_eq!(message(ops), "invalid cid 77");
}

#[test]
fn local_on_a_cpu_that_is_not_allowed() {
    let mut ops = all();
    ops.dispatch = |ops, cx, _, _| {
        if let Some(p) = ops.queue.pop_front() {
            cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(local_on(1), SLICE, 0));
        }
    };
    let mut w = World::new(flat(2), ops);
    w.exits = false;
    let p = w.fork_spec(spec(&cpus(&[0])));
    w.start(p);
    assert_eq!(w.curr(0), None, "aborting: the global queue yields nothing");
    assert_eq!(w.core.task(p).unwrap().dsq, Some(GLOBAL), "the fallback");
    w.exits = true;
    w.on(|_, _| ());
    assert_eq!(
        w.exit_message(),
        "SCX_DSQ_LOCAL[_ON] target CPU 1 not allowed for task[1]"
    );
}

#[test]
fn local_on_for_a_migration_disabled_task() {
    let ops = all().with_flags(scx::SCX_OPS_ENQ_MIGRATION_DISABLED);
    let mut w = World::new(flat(2), ops);
    let p = w.sleeper();
    w.on(|core, env| core.set_migration_disabled(env, p, true));
    w.ops.dispatch = |ops, cx, _, _| {
        if let Some(p) = ops.queue.pop_front() {
            cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(local_on(1), SLICE, 0));
        }
    };
    w.wake(p);
    assert_eq!(
        w.exit_message(),
        "SCX_DSQ_LOCAL[_ON] cannot move migration disabled task[1] from CPU 0 to 1"
    );
}

#[test]
fn dispatch_buffer() {
    let mut ops = all();
    ops.config.dispatch_max_batch = 4;
    ops.dispatch = |ops, cx, _, _| {
        let Some(p) = ops.queue.front().copied().map(Some) else {
            return;
        };
        for left in (0..4).rev() {
            cx.core
                .kf_dsq_insert(cx.machine, p, insert(LOCAL, SLICE, 0));
            assert_eq!(cx.core.kf_dispatch_nr_slots(cx.machine), left);
        }
        cx.core.kf_dispatch_cancel(cx.machine);
        assert_eq!(cx.core.kf_dispatch_nr_slots(cx.machine), 1);
        assert!(
            cx.core
                .kf_dsq_insert(cx.machine, p, insert(LOCAL, SLICE, 0))
        );
        assert!(
            !cx.core
                .kf_dsq_insert(cx.machine, p, insert(LOCAL, SLICE, 0))
        );
    };
    assert_eq!(message(ops), "dispatch buffer overflow");
    let mut ops = all();
    ops.dispatch = |_, cx, _, _| cx.core.kf_dispatch_cancel(cx.machine);
    assert_eq!(message(ops), "dispatch buffer underflow");
    let mut ops = all();
    ops.dispatch = |ops, cx, _, _| {
        let (core, mut env) = cx.with(ops);
        assert!(!core.kf_dsq_move_to_local(&mut env, DsqId::new(6), 0));
    };
    assert_eq!(message(ops), "invalid DSQ ID 0x0000000000000006");
}

#[test]
fn destroying_a_queue_in_use() {
    let mut ops = all();
    ops.hooks.insert(Op::Init, |_, cx, _, _| {
        cx.core
            .kf_create_dsq(DsqId::new(3), 0)
            .expect("a new queue");
        cx.core
            .kf_create_dsq(DsqId::new(4), 0)
            .expect("a new queue");
        cx.core.kf_destroy_dsq(cx.machine, DsqId::new(4));
    });
    ops.enqueue = |_, cx, p, _| {
        let to = insert(DsqId::new(3), SLICE, 0);
        cx.core.kf_dsq_insert(cx.machine, Some(p), to);
    };
    ops.dispatch = |_, cx, _, _| {
        if cx.core.tasks().count() > 0 {
            cx.core.kf_destroy_dsq(cx.machine, DsqId::new(3));
        }
    };
    assert_eq!(
        message(ops),
        "attempting to destroy in-use dsq 0x0000000000000003 (nr=1)"
    );
}

#[test]
fn creating_queues() {
    let mut w = World::new(flat(1), all());
    let mut create = |id: u64, node| {
        w.core
            .kf_create_dsq(DsqId::new(id), node)
            .map_err(|e| e.name())
    };
    assert_eq!(create(1, -1), Ok(()));
    assert_eq!(create(1, -1), Err("EEXIST"));
    assert_eq!(create(2, 1), Err("EINVAL"));
    assert_eq!(create(2, -2), Err("EINVAL"));
    assert_eq!(create(scx::SCX_DSQ_LOCAL, -1), Err("EINVAL"));
}

#[test]
fn kicks_and_numbers() {
    let kick = |cpu: i32, flags: u64| {
        after(all(), |w| {
            w.on(|core, env| core.kf_kick_cpu(env.machine, cpu, flags));
        })
    };
    assert_eq!(kick(2, 0), "invalid CPU 2");
    assert_eq!(kick(-1, 0), "invalid CPU -1");
    assert_eq!(
        kick(0, scx::SCX_KICK_IDLE | scx::SCX_KICK_PREEMPT),
        "PREEMPT/WAIT cannot be used with SCX_KICK_IDLE"
    );
    let cid = |cid| {
        after(all(), |w| {
            w.on(|core, env| core.kf_kick_cid(env.machine, cid, 0));
        })
    };
    assert_eq!(cid(9), "invalid cid 9");
    let topo = |cid| {
        after(all(), |w| {
            w.on(|core, env| core.kf_cid_topo(env.machine, cid));
        })
    };
    assert_eq!(topo(-1), "invalid cid -1");
    let perf = |cpu, perf| {
        after(all(), |w| {
            assert_eq!(
                w.on(|core, env| core.kf_cpuperf_set(env.machine, cpu, perf)),
                -22
            );
        })
    };
    assert_eq!(perf(1, 1025), "Invalid cpuperf target 1025 for CPU 1");
    let locked = after(all(), |w| {
        assert_eq!(w.on(|core, env| core.kf_locked_rq(env.machine)), None);
    });
    assert_eq!(locked, "accessing rq without holding rq lock");
}

#[test]
fn reenqueue_requests() {
    let reenq = |dsq: DsqId, flags| {
        after(all(), |w| {
            w.on(|core, env| core.kf_dsq_reenq(env.machine, dsq, flags));
        })
    };
    assert_eq!(reenq(LOCAL, 2), "invalid SCX_REENQ flags 0x2");
    assert_eq!(
        reenq(GLOBAL, 0),
        "DSQ 0x8000000000000001 not allowed for reenq"
    );
    assert_eq!(reenq(DsqId::new(9), 0), "non-existent DSQ 0x9");
}

#[test]
fn idle_tracking() {
    let off = "built-in idle tracking is disabled";
    let claim = after(all(), |w| {
        w.on(|core, env| core.kf_test_and_clear_cpu_idle(env.machine, 0));
    });
    assert_eq!(claim, off);
    let pick = |ops: Ops, node| {
        let mut w = World::new(topology(4, 1, 2, 2), ops);
        let all = cpus(&[0, 1, 2, 3]);
        let picked = w.on(|core, env| core.kf_pick_idle_cpu(env.machine, &all, node, 0));
        picked.unwrap_err();
        w.exit_message().to_owned()
    };
    let per_node = || builtin_idle().with_flags(scx::SCX_OPS_BUILTIN_IDLE_PER_NODE);
    assert_eq!(pick(all(), None), off);
    assert_eq!(
        pick(builtin_idle(), Some(0)),
        "per-node idle tracking is disabled"
    );
    assert_eq!(pick(per_node(), None), "per-node idle tracking is enabled");
    assert_eq!(pick(per_node(), Some(5)), "invalid node 5");
    let mask = after(per_node(), |w| {
        let mask = w.on(|core, env| core.kf_get_idle_mask(env.machine, MaskKind::IdleCpu, None));
        assert_eq!(mask, None);
    });
    assert_eq!(mask, "SCX_OPS_BUILTIN_IDLE_PER_NODE enabled");
    let mut ops = builtin_idle();
    ops.select = |_, cx, p, prev, flags| {
        let other = Tid::new(3 - p.raw());
        cx.core
            .kf_select_cpu_dfl(cx.machine, other, prev.as_s32(), flags);
        Ok(prev)
    };
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.fork();
    w.start(p);
    assert_eq!(w.exit_message(), "called on a task not being operated on");
    let mut ops = builtin_idle();
    ops.enqueue = |_, cx, _, _| {
        cx.core.kf_select_cpu_dfl(cx.machine, Tid::new(2), 0, 0);
    };
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.fork_spec(TaskSpec {
        cpu: Cpu::new(1),
        ..spec(&cpus(&[1]))
    });
    w.start(p);
    let want = "select_cpu kfunc called cross-task on task[2]";
    assert_eq!(w.exit_message(), want);
}

#[test]
fn tables_that_cannot_be_loaded() {
    let refused = |change: fn(&mut Ops)| {
        let mut ops = all();
        change(&mut ops);
        let mut w = World::bare(flat(1), ops);
        let refused = w.on(|core, env| core.enable(env)).unwrap_err();
        assert!(w.take_log().is_empty(), "nothing was called");
        refused
    };
    assert_eq!(refused(|ops| ops.config.name.clear()), EnableError::NoName);
    assert!(matches!(
        refused(|ops| ops.config.name = "x".repeat(128)),
        EnableError::NameTooLong { len: 128 }
    ));
    assert_eq!(
        refused(|ops| ops.config.flags = 1 << 40 | 1).to_string(),
        "ops.flags has unknown bits 0x10000000000 (flags 0x10000000001)"
    );
    assert_eq!(
        refused(|ops| ops.config.dispatch_max_batch = 1 << 31).to_string(),
        "ops.dispatch_max_batch 2147483648 is above 2147483647"
    );
    assert_eq!(
        refused(|ops| ops.config.timeout_ms = 30_001).to_string(),
        "ops.timeout_ms 30001 is above 30000"
    );
    let mut w = World::new(flat(1), all());
    assert_eq!(w.on(|core, env| core.enable(env)), Err(EnableError::Busy));
}

/// Attaches, which the kernel reports as a success, and gives the exit.
fn failing_enable(ops: Ops) -> (World, u32, String) {
    let mut w = World::bare(flat(1), ops);
    w.enable();
    let info = w.core.exit_info().expect("it left at once").clone();
    (w, info.kind, info.message)
}

#[test]
fn enabling_that_fails_goes_through_ops_exit() {
    let mut ops = all();
    ops.ret.insert(Op::Init, -12);
    let (mut w, kind, message) = failing_enable(ops);
    assert_eq!(
        (kind, message.as_str()),
        (scx::SCX_EXIT_ERROR, "ops.init() failed (-12)")
    );
    w.expect(&["prepare", "init()", "exit(1024)", "release"]);
    assert_eq!(w.core.exit_info().unwrap().flags, 0, "not initialised");
    let mut ops = all();
    ops.ret.insert(Op::Init, 7);
    let (_, _, message) = failing_enable(ops);
    assert_eq!(message, "ops.init() returned an invalid errno 7");
    let mut ops = all();
    ops.config.form = Form::Cid;
    ops.ret.insert(Op::InitCids, -22);
    let (mut w, _, message) = failing_enable(ops);
    assert_eq!(message, "ops.init_cids() failed (-22)");
    w.expect(&["init_cids()", "exit(1024)"]);
}

#[test]
fn enabling_checks_the_flags() {
    let mut ops = all().with_flags(scx::SCX_OPS_ENQ_LAST);
    ops.config.has.remove(&Op::Enqueue);
    let (w, _, message) = failing_enable(ops);
    assert_eq!(
        message,
        "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented"
    );
    assert_eq!(
        w.core.exit_info().unwrap().flags,
        scx::SCX_EFLAG_INITIALIZED
    );
    let (_, _, message) = failing_enable(all().with_flags(scx::SCX_OPS_BUILTIN_IDLE_PER_NODE));
    assert_eq!(
        message,
        "SCX_OPS_BUILTIN_IDLE_PER_NODE requires CPU idle selection enabled"
    );
    let mut ops = all();
    ops.config.hotplug_seq = 3;
    let (w, kind, message) = failing_enable(ops);
    assert_eq!(kind, scx::SCX_EXIT_UNREG_KERN);
    assert_eq!(message, "expected hotplug seq 3 did not match actual 0");
    assert_eq!(w.core.exit_info().unwrap().code, (1 << 48) | (1 << 32));
}

#[test]
fn init_task_fails_while_enabling() {
    let mut ops = all();
    ops.ret.insert(Op::InitTask, -1);
    let mut w = World::bare(flat(1), ops);
    let p = w.fork();
    w.start(p);
    w.enable();
    assert_eq!(w.exit_message(), "ops.init_task() failed (-1) for task[1]");
    assert_eq!(w.curr(0), Some(p), "and the task goes on");
}

#[test]
fn disallow() {
    let set: fn(&mut Ops, &mut harena_scx::Cx<'_>, Tid, u64) =
        |_, cx, p, _| cx.core.image_mut().set_disallow(p, true);
    let mut ops = all().with_flags(scx::SCX_OPS_SWITCH_PARTIAL);
    ops.hooks.insert(Op::InitTask, set);
    let mut w = World::bare(flat(1), ops);
    let p = w.fork_spec(TaskSpec {
        policy: scx::SCHED_EXT,
        ..spec(&cpus(&[0]))
    });
    w.enable();
    assert_eq!(
        w.core.task(p).unwrap().policy,
        scx::SCHED_NORMAL,
        "reverted"
    );
    let refused = w.on(|core, env| core.set_policy(env, p, scx::SCHED_EXT));
    assert_eq!(refused.map_err(|e| e.name()), Err("EACCES"));
    let q = w.fork();
    assert_eq!(
        w.exit_message(),
        format!("ops.init_task() set task->scx.disallow for task[{q}] during fork")
    );
}

#[test]
fn exits_that_are_no_errors() {
    let mut w = World::new(flat(1), all());
    w.on(|core, env| core.kf_exit(env.machine, 42, "done with it"));
    let info = w.core.exit_info().unwrap();
    assert_eq!((info.kind, info.code), (scx::SCX_EXIT_UNREG_BPF, 42));
    assert_eq!(info.reason, "unregistered from BPF");
    assert_eq!(info.message, "done with it");
    assert!(info.dump.is_empty());
    assert_eq!(
        w.core.log().last().unwrap(),
        "sched_ext: BPF scheduler \"test\" disabled (unregistered from BPF)"
    );
}

#[test]
fn cgroup_and_tid_lookups() {
    let tid = after(all(), |w| {
        assert_eq!(w.on(|core, env| core.kf_tid_to_task(env.machine, 1)), None);
    });
    assert!(tid.contains("SCX_OPS_TID_TO_TASK"));
    let mut w = World::new(flat(1), all().with_flags(scx::SCX_OPS_TID_TO_TASK));
    let p = w.fork();
    assert_eq!(
        w.on(|core, env| core.kf_tid_to_task(env.machine, 1)),
        Some(p)
    );
    assert_eq!(
        w.on(|core, env| core.kf_tid_to_task(env.machine, 1 << 40)),
        None
    );
    assert_eq!(w.on(|core, env| core.kf_task_cgroup(env.machine, p)), 1);
    assert_eq!(w.exit_message(), "called on a task not being operated on");
}

#[test]
fn dump_of_an_error() {
    let mut ops = all();
    ops.dispatch = |_, _, _, _| {};
    let mut w = World::new(flat(2), ops);
    let p = w.fork();
    w.start(p);
    w.on(|core, env| core.kf_error(env.machine, "on purpose"));
    let dump = &w.core.exit_info().unwrap().dump;
    for part in [
        "test: root\n",
        "triggered exit kind 1025 on CPU 0:\n  scx_bpf_error (on purpose)\n",
        "scheduler's own\nlast\n",
        "CPU states\n----------\n",
        "CPU 0   : nr_run=1 flags=0x1 cpu_rel=0 ops_qseq=1 ksync=",
        "  task[1] +0ms\n      scx_state/flags=4/0x3 dsq_flags=0x0 ops_state/qseq=2/0\n",
        "dsq_vtime=0 slice=20000000 weight=100\n",
        "Event counters\n",
        "SCX_EV_BYPASS_ACTIVATE",
    ] {
        assert!(dump.contains(part), "no {part:?} in:\n{dump}");
    }
    let mut ops = all();
    ops.config.exit_dump_len = 100;
    let mut w = World::new(flat(2), ops);
    w.on(|core, env| core.kf_error(env.machine, "on purpose"));
    let dump = &w.core.exit_info().unwrap().dump;
    assert!(
        dump.len() < 100 && dump.ends_with("~~~~ TRUNCATED ~~~~\n"),
        "{dump}"
    );
}

#[test]
fn dump_text_outside_a_dump() {
    let text = after(all(), |w| w.on(|core, env| core.kf_dump(env.machine, "x")));
    assert_eq!(
        text,
        "scx_bpf_dump() must only be called from ops.dump() and friends"
    );
}

#[test]
fn inserts_from_the_wrong_callback() {
    let mut ops = all();
    ops.hooks.insert(Op::Running, |_, cx, p, _| {
        assert!(
            !cx.core
                .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0))
        );
    });
    assert_eq!(
        message(ops),
        "scx_bpf_dsq_insert() called from ops.running()"
    );
    let mut w = World::new(flat(1), all());
    let p = w.fork();
    w.on(|core, env| core.kf_dsq_insert(env.machine, Some(p), insert(LOCAL, SLICE, 0)));
    assert_eq!(
        w.exit_message(),
        "scx_bpf_dsq_insert() called outside of ops"
    );
}

#[test]
fn watchdog_at_exactly_the_time() {
    for (timeout_ms, born, at, waited) in [
        (1000, 10, 1500, "1.490"),
        (1000, 500, 2000, "1.500"),
        (5000, 0, 7500, "7.500"),
        (0, 1, 45_000, "44.999"),
    ] {
        let mut ops = all();
        ops.config.timeout_ms = timeout_ms;
        ops.enqueue = |_, _, _, _| {};
        let mut w = World::new(flat(1), ops);
        w.run_ms(born);
        let p = w.fork();
        w.start(p);
        w.run_ms(at - born - 1);
        assert!(w.core.is_enabled(), "not before {at} ms");
        w.run_ms(1);
        let info = w.core.exit_info().expect("now");
        assert_eq!(info.kind, scx::SCX_EXIT_ERROR_STALL);
        assert_eq!(info.reason, "runnable task stall");
        assert_eq!(info.message, format!("task[1] failed to run for {waited}s"));
        let stall = info.stall.as_ref().expect("names the task");
        assert_eq!((stall.task, stall.dsq), (p, None));
        w.leave(0, Leave::Runnable);
        assert_eq!(w.curr(0), Some(p), "the lost task runs at last");
    }
}

#[test]
fn watchdog_that_does_not_run() {
    let mut ops = all();
    ops.config.timeout_ms = 100;
    let mut w = World::new(flat(1), ops);
    let p = w.fork();
    w.start(p);
    w.m.watchdog = None;
    w.m.now += 101_000_000;
    w.on(|core, env| core.tick(env, Cpu::new(0)));
    assert_eq!(w.exit_message(), "watchdog failed to check in for 0.101s");
}

/// What a scheduler can make the host keep is bounded.
#[test]
fn queues_do_not_fill_the_memory() {
    let mut w = World::new(flat(2), all());
    let mut created = (0..1u64 << 21).map(|id| w.core.kf_create_dsq(DsqId::new(id), -1));
    let refused = created.find_map(Result::err);
    assert_eq!(refused, Some(harena_abi::Errno::ENOMEM));
}
