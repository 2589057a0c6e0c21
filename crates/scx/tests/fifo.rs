//! A whole life under a FIFO scheduler: nothing lost, everybody runs.

mod common;

use common::{Ops, World, flat};
use harena_abi::{Tid, scx};
use harena_scx::{Leave, TaskState};

#[test]
fn every_task_runs_and_dies() {
    let mut w = World::new(flat(4), Ops::new(&Ops::all()));
    let tasks: Vec<Tid> = (0..32).map(|_| w.fork()).collect();
    for &p in &tasks {
        w.start(p);
    }
    for round in 0..200 {
        w.run_ms(7);
        let cpu = round % 4;
        if w.curr(cpu).is_some() {
            w.leave(cpu, Leave::Sleeping);
        }
        for &p in &tasks {
            if w.core.task(p).is_some_and(|t| !t.runnable) {
                w.wake(p);
            }
        }
    }
    for &p in &tasks {
        let ran = w.core.task(p).unwrap().sum_exec_runtime.as_ns();
        assert!(ran > 20_000_000, "{p:?} ran only {ran} ns");
    }
    while (0..4).any(|cpu| w.curr(cpu).is_some()) {
        for cpu in 0..4 {
            if w.curr(cpu).is_some() {
                w.leave(cpu, Leave::Exiting);
            }
        }
    }
    assert_eq!(w.core.tasks().count(), 0, "all are dead");
    assert!(w.core.is_enabled());
}

#[test]
fn unregistering_gives_every_task_back() {
    let mut w = World::new(flat(2), Ops::new(&Ops::all()));
    let tasks: Vec<Tid> = (0..5).map(|_| w.fork()).collect();
    for &p in &tasks {
        w.start(p);
    }
    w.on(|core, _| core.unregister());
    w.settle();
    let info = w.core.exit_info().expect("the scheduler left");
    assert_eq!(info.kind, scx::SCX_EXIT_UNREG);
    assert_eq!(info.reason, "unregistered from user space");
    for &p in &tasks {
        assert_eq!(w.core.task(p).unwrap().state, TaskState::None);
        assert_eq!(w.core.image().dsq_vtime(p), 0);
    }
    let log = w.take_log();
    let exits = log.iter().filter(|l| l.starts_with("exit_task")).count();
    assert_eq!(exits, 5);
    assert_eq!(log[log.len() - 2..], ["exit(64)", "release"]);
    assert!(w.curr(0).is_some(), "tasks go on without it");
    w.run_ms(50);
    for &p in &tasks {
        assert!(w.core.task(p).unwrap().sum_exec_runtime.as_ns() > 0);
    }
}
