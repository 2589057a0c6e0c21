//! Whole runs with schedulers in Rust: determinism, exits, conservation.

use crate::schedulers::{Order, Simple, exact, run};
use harena_abi::{Nanos, scx};
use harena_sim::{CheckTier, SimConfig, SimError, Workload, parse_topology};

fn mixed(topology: &str, duration: Nanos, seed: u64) -> SimConfig {
    let topology = parse_topology(topology).expect("a topology");
    let workload = Workload::mixed().scaled_to(topology.nr_cpus());
    SimConfig {
        duration,
        seed,
        ..SimConfig::new(topology, workload)
    }
}

const SECOND: Nanos = Nanos::from_ms(1000);

#[test]
fn the_default_workload_runs_to_its_end() {
    for order in [Order::Fifo, Order::Vtime] {
        let outcome = run(mixed("8c", Nanos::from_ms(4000), 1), Simple::new(order)).unwrap();
        assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
        assert_eq!(outcome.ended_at.as_ns(), 4_000_000_000);
        for group in &outcome.groups {
            assert!(group.runtime > Nanos::ZERO, "{} never ran", group.name);
            assert_eq!(group.forks_failed, 0);
        }
        // No CPU does more than fits into the time.
        for cpu in &outcome.cpus {
            assert!(
                cpu.task.plus(cpu.overhead) <= Nanos::from_ms(4001),
                "{cpu:?}"
            );
        }
    }
}

#[test]
fn equal_seeds_give_equal_digests_and_others_do_not() {
    let digest = |seed| {
        let outcome = run(mixed("4c2t", SECOND, seed), Simple::new(Order::Vtime));
        outcome.unwrap().digest
    };
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}

#[test]
fn checks_and_sinks_do_not_change_the_digest() {
    use harena_scx::PlainImage;
    use harena_trace::MemorySink;
    let config = |checks| SimConfig {
        checks,
        ..mixed("2l2c", Nanos::from_ms(100), 3)
    };
    let plain = run(config(CheckTier::Cheap), Simple::new(Order::Fifo)).unwrap();
    let mut watched = harena_sim::Simulation::new(
        config(CheckTier::Full),
        Simple::new(Order::Fifo),
        Box::new(PlainImage::default()),
        Some(Box::new(MemorySink::default())),
    )
    .unwrap();
    let mut reports = 0;
    let outcome = watched.run(&mut |_| reports += 1).unwrap();
    assert_eq!(plain.digest, outcome.digest);
    assert!(reports > 0);
    assert_eq!(watched.run(&mut |_| {}).unwrap_err(), SimError::Finished);
}

#[test]
fn simulations_run_side_by_side() {
    let alone = run(mixed("4c", SECOND, 5), Simple::new(Order::Fifo)).unwrap();
    let digests = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| run(mixed("4c", SECOND, 5), Simple::new(Order::Fifo))))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().unwrap();
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    for outcome in digests {
        assert_eq!(outcome.unwrap().digest, alone.digest);
    }
}

#[test]
fn a_run_ends_when_all_tasks_have() {
    let workload = r#"{"tasks": {"t": {"instance": 3, "loop": 4, "run": 1000, "sleep": 500},
                                 "late": {"delay": 2000, "loop": 1, "run": 100}}}"#;
    let outcome = run(exact("2c", workload, SECOND), Simple::new(Order::Fifo)).unwrap();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG);
    assert!(outcome.ended_at.as_ns() < 20_000_000);
    let group = &outcome.groups[0];
    assert_eq!((group.tasks, group.exited), (3, 3));
    assert_eq!(group.runtime, Nanos::from_ms(12), "work is conserved");
    assert_eq!(outcome.groups[1].runtime, Nanos::from_us(100));
}

#[test]
fn an_endless_program_is_named() {
    let workload = r#"{"tasks": {"spin": {"loop": -1, "run": 0}}}"#;
    let error = run(exact("1c", workload, SECOND), Simple::new(Order::Fifo)).unwrap_err();
    assert!(matches!(error, SimError::EndlessProgram { task, .. } if task == "spin"));
}

/// Several of each: `ops.dispatch` runs before the outgoing task is queued again, so two
/// tasks alone would take turns whatever their weights.
#[test]
fn weights_share_a_cpu() {
    let workload = r#"{"tasks": {
        "heavy": {"instance": 4, "run": 1000000},
        "light": {"instance": 4, "priority": 5, "run": 1000000}}}"#;
    let mut ops = Simple::new(Order::Vtime);
    ops.slice = 1_000_000;
    let outcome = run(exact("1c", workload, Nanos::from_ms(10_000)), ops).unwrap();
    let [heavy, light] = [0, 1].map(|g| outcome.groups[g].runtime.as_ns() / 1_000_000);
    // 100 : 33 by weight.
    assert!((7_300..=7_700).contains(&heavy), "{heavy} ms");
    assert!((2_300..=2_700).contains(&light), "{light} ms");
}
