//! The moments that tracing programs see: where each stands among the callbacks, and what the
//! kernel's state is then.
//!
//! A line is `[current of rq->curr] moment`.

mod common;

use common::{LOCAL, Ops, SLICE, World, flat, insert, spec};
use harena_abi::{Cpu, scx};
use harena_scx::{Interrupt, Leave, MomentKind, MomentSet, Op};

fn all() -> MomentSet {
    let kinds = MomentKind::ALL.iter();
    kinds.fold(MomentSet::NONE, |set, kind| set.with(*kind))
}

/// A world of a scheduler with few callbacks, in which all moments are told.
fn world(cpus: u32) -> World {
    let mut w = World::new(
        flat(cpus),
        Ops::new(&[
            Op::SelectCpu,
            Op::Enqueue,
            Op::Dispatch,
            Op::Tick,
            Op::ExitTask,
        ]),
    );
    w.core.set_traced(all());
    w
}

#[test]
fn nothing_is_told_unasked() {
    let mut w = world(1);
    w.core.set_traced(MomentSet::NONE);
    let p = w.sleeper();
    w.wake(p);
    w.expect(&["enqueue(1, 0x9)", "dispatch(0, -)"]);
    w.core
        .set_traced(MomentSet::NONE.with(MomentKind::SchedSwitch));
    w.leave(0, Leave::Sleeping);
    w.expect(&[
        "dispatch(0, 1)",
        "[1 of idle] SchedSwitch { cpu: Cpu(0), prev: Some(Tid(1)), next: None, prev_state: 1 }",
    ]);
}

#[test]
fn a_fork_and_the_first_wakeup() {
    let mut w = world(1);
    let p = w.fork();
    w.expect(&["[idle of idle] SchedProcessFork { parent: None, child: Tid(1) }"]);
    w.start(p);
    w.expect(&[
        "[idle of idle] Enter(WakeUpNewTask(Tid(1)))",
        "enqueue(1, 0x80008)",
        "[idle of idle] SchedWakeupNew(Tid(1))",
        "[idle of idle] Return(WakeUpNewTask(Tid(1)), 0)",
        "[idle of idle] CpuIdle { cpu: Cpu(0), idle: false }",
        "dispatch(0, -)",
        "[idle of 1] SchedSwitch { cpu: Cpu(0), prev: None, next: Some(Tid(1)), prev_state: 0 }",
    ]);
}

#[test]
fn a_sleep_and_a_wakeup_on_another_cpu() {
    let mut w = world(2);
    let p = w.sleeper();
    w.ops.select = |_, cx, p, _, _| {
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(LOCAL, SLICE, 0));
        Ok(Cpu::new(1))
    };
    w.wake(p);
    w.expect(&[
        "[idle of idle] Enter(TryToWakeUp { task: Tid(1), sync: false })",
        "[idle of idle] SchedWaking(Tid(1))",
        "select_cpu(1, 0, 0x8)",
        "[idle of idle] SchedMigrateTask { task: Tid(1), to: Cpu(1) }",
        "[idle of idle] SchedWakeup(Tid(1))",
        "[idle of idle] Return(TryToWakeUp { task: Tid(1), sync: false }, 1)",
        "[idle of idle] CpuIdle { cpu: Cpu(1), idle: false }",
        "[idle of 1] SchedSwitch { cpu: Cpu(1), prev: None, next: Some(Tid(1)), prev_state: 0 }",
    ]);
    // It runs: nobody wakes it.
    assert!(!w.on(|core, env| core.wakeup(env, p, true)));
    w.expect(&[
        "[1 of 1] Enter(TryToWakeUp { task: Tid(1), sync: true })",
        "[1 of 1] Return(TryToWakeUp { task: Tid(1), sync: true }, 0)",
    ]);
}

#[test]
fn the_placement_of_a_new_task_is_no_migration() {
    let mut w = world(2);
    let p = w.fork();
    w.ops.select = |_, _, _, _, _| Ok(Cpu::new(1));
    w.start(p);
    assert_eq!(w.m.migrations, 1);
    let log = w.take_log();
    assert!(
        !log.iter().any(|line| line.contains("SchedMigrateTask")),
        "{log:?}"
    );
}

#[test]
fn a_tick() {
    let mut w = world(1);
    let p = w.fork();
    w.start(p);
    w.take_log();
    w.run_ms(1);
    w.expect(&[
        "[1 of 1] Enter(SchedTick)",
        "[1 of 1] SchedStatRuntime { task: Tid(1), runtime: Nanos(1000000) }",
        "tick(1)",
        "[1 of 1] Enter(ScxTick(Cpu(0)))",
        "[1 of 1] Return(ScxTick(Cpu(0)), 0)",
        "[1 of 1] Return(SchedTick, 0)",
    ]);
}

#[test]
fn what_happens_in_an_interrupt_stands_between_its_entry_and_its_exit() {
    let mut w = world(1);
    let p = w.sleeper();
    let woken = w.on(|core, env| {
        core.interrupt(env, Interrupt::LocalTimer, |core, env| {
            core.wakeup(env, p, false)
        })
    });
    assert!(woken);
    let log = w.take_log();
    let ends = [log.first(), log.last()].map(|line| line.unwrap().as_str());
    assert_eq!(
        ends,
        [
            "[idle of idle] IrqEntry(LocalTimer)",
            "[idle of idle] IrqExit(LocalTimer)"
        ]
    );
    assert_eq!(log.len(), 7, "{log:?}");
}

#[test]
fn an_exit_up_to_the_last_look() {
    let mut w = world(1);
    let cpus: harena_scx::CpuSet = w.core.topology().cpus().collect();
    let leader = w.fork();
    w.start(leader);
    let thread = w.fork_spec(harena_scx::TaskSpec {
        tgid: Some(leader),
        ..spec(&cpus)
    });
    w.take_log();
    w.on(|core, env| core.do_exit(env, leader));
    w.leave(0, Leave::Exiting);
    w.expect(&[
        "[1 of 1] SchedProcessExit { task: Tid(1), group_dead: false }",
        "dispatch(0, 1)",
        "[1 of idle] SchedSwitch { cpu: Cpu(0), prev: Some(Tid(1)), next: None, prev_state: 128 }",
        "exit_task(1, cancelled=false)",
        "[idle of idle] SchedProcessFree(Tid(1))",
        "[idle of idle] CpuIdle { cpu: Cpu(0), idle: true }",
    ]);
    w.start(thread);
    w.take_log();
    w.on(|core, env| core.do_exit(env, thread));
    w.expect(&["[2 of 2] SchedProcessExit { task: Tid(2), group_dead: true }"]);
}

#[test]
fn attaching_and_every_line_of_a_dump() {
    let mut w = World::bare(flat(1), Ops::new(&[Op::Init, Op::Dump]));
    w.core.set_traced(all());
    w.enable();
    let log = w.take_log();
    let bracket = [log.first(), log.last()].map(|line| line.unwrap().as_str());
    assert_eq!(bracket[0], "[idle of idle] Enter(Register)");
    let returned = "[idle of idle] Return(Register, 0)".to_owned();
    assert!(log.contains(&returned), "{log:?}");
    w.on(|core, env| core.error(env.machine, "on purpose"));
    let exit = w.core.exit_info().unwrap();
    assert_eq!(exit.kind, scx::SCX_EXIT_ERROR);
    let told: Vec<String> = w
        .ops
        .log
        .iter()
        .filter(|l| l.contains("Dump"))
        .cloned()
        .collect();
    let lines = exit.dump.lines();
    let expected: Vec<_> = lines
        .map(|line| format!("[idle of idle] SchedExtDump({line:?})"))
        .collect();
    assert!(expected.len() > 5, "{expected:?}");
    assert_eq!(told, expected);
}
