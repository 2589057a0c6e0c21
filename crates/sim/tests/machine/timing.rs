//! Times that can be worked out by hand.

use crate::schedulers::{Order, Simple, exact};
use harena_abi::{Nanos, Tid, scx};
use harena_scx::{Op, PlainImage};
use harena_sim::{Costs, Outcome, SimConfig, Simulation, Workload};
use harena_trace::{Record, Sink, What};

/// Passes records on to the test.
struct Tap(std::sync::mpsc::Sender<Record>);

impl Sink for Tap {
    fn task(&mut self, _: Tid, _: &str, _: &str) {}
    fn record(&mut self, record: &Record) {
        self.0.send(*record).expect("the test listens");
    }
    fn text(&mut self, _: &str) {}
    fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn traced(config: SimConfig, ops: Simple) -> (Outcome, Vec<Record>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let image = Box::new(PlainImage::default());
    let sink = Some(Box::new(Tap(sender)) as Box<dyn Sink + Send>);
    let mut simulation = Simulation::new(config, ops, image, sink).expect("settings that fit");
    let outcome = simulation.run(&mut |_| {}).expect("a run");
    drop(simulation);
    (outcome, receiver.into_iter().collect())
}

/// When tasks were switched.
fn switches(records: &[Record]) -> Vec<u64> {
    let is_switch = |r: &&Record| matches!(r.what, What::Switch { .. });
    records
        .iter()
        .filter(is_switch)
        .map(|r| r.time.as_ns())
        .collect()
}

#[test]
fn a_slice_ends_at_the_first_tick_that_finds_it_used_up() {
    let workload = r#"{"tasks": {"hog": {"instance": 2, "run": 100000}}}"#;
    let mut ops = Simple::new(Order::Fifo);
    // 2.5 ms end at the tick at 3 ms; the next slice begins there and ends at 6 ms.
    ops.slice = 2_500_000;
    let (_, records) = traced(exact("1c", workload, Nanos::from_ms(10)), ops);
    let times = switches(&records);
    assert_eq!(
        times[..4],
        [0, 3_000_000, 6_000_000, 9_000_000],
        "{times:?}"
    );
}

#[test]
fn a_lone_hog_is_ticked_but_never_switched() {
    let workload = r#"{"tasks": {"hog": {"run": 1000000}}}"#;
    let config = exact("1c", workload, Nanos::from_ms(100));
    let (outcome, records) = traced(config, Simple::new(Order::Fifo));
    assert_eq!(switches(&records).len(), 1);
    assert_eq!(outcome.cpus[0].ticks, 100);
    assert_eq!(outcome.cpus[0].task, Nanos::from_ms(100));
}

#[test]
fn idle_cpus_do_not_tick() {
    let workload = r#"{"tasks": {"t": {"loop": 3, "run": 100, "sleep": 20000}}}"#;
    let (outcome, _) = traced(
        exact("2c", workload, Nanos::from_ms(100)),
        Simple::new(Order::Fifo),
    );
    let ticks: u64 = outcome.cpus.iter().map(|cpu| cpu.ticks).sum();
    assert_eq!(ticks, 0, "each burst ends before the next tick");
}

/// One CPU, one task that sleeps: the timer's interrupt, the wakeup and the switch are
/// all there is between expiry and the first instruction.
#[test]
fn wakeup_latency_is_the_sum_of_its_costs() {
    let workload = r#"{"tasks": {"t": {"run": 100, "sleep": 900}}}"#;
    let costs = Costs {
        interrupt_ns: 300,
        wakeup_ns: 500,
        switch_ns: 1_000,
        ..Costs::FREE
    };
    let config = SimConfig {
        costs,
        ..exact("1c", workload, Nanos::from_ms(10))
    };
    let (outcome, _) = traced(config, Simple::new(Order::Fifo));
    let latency = &outcome.groups[0].wakeup_latency;
    assert_eq!(latency.max(), Nanos::new(1_800));
    // The first wakeup comes from fork: no interrupt.
    assert_eq!(latency.quantile(1), Some(Nanos::new(1_500)));
    assert_eq!(latency.quantile(500), Some(Nanos::new(1_800)));
}

#[test]
fn a_remote_wakeup_takes_an_ipi() {
    // `b` sleeps on CPU 0 with `a`; when its timer fires there, CPU 1 is idle.
    let workload = r#"{"tasks": {
        "a": {"cpus": [0], "run": 1000000},
        "b": {"loop": 2, "phases": {
            "there": {"cpus": [0], "sleep": 100},
            "here": {"cpus": [1], "run": 10}}}}}"#;
    let costs = Costs {
        ipi_ns: 2_000,
        ..Costs::FREE
    };
    let config = SimConfig {
        costs,
        ..exact("2c", workload, Nanos::from_ms(100))
    };
    let (outcome, records) = traced(config, Simple::new(Order::Fifo));
    assert!(outcome.cpus[1].ipis > 0);
    let ipi = records
        .iter()
        .position(|r| matches!(r.what, What::Ipi { to } if to.raw() == 1));
    let ipi = ipi.expect("an IPI to CPU 1");
    let switch = records[ipi..]
        .iter()
        .find(|r| r.cpu.raw() == 1 && matches!(r.what, What::Switch { .. }))
        .expect("a switch on CPU 1");
    assert_eq!(switch.time.as_ns(), records[ipi].time.as_ns() + 2_000);
}

#[test]
fn migrations_cost_what_the_distance_says() {
    let topology = "2n2l1c";
    // One task hops over all four CPUs: 0 -> 1 shares the node, 1 -> 2 does not.
    let hop = |cpu: u32| format!("\"p{cpu}\": {{\"cpus\": [{cpu}], \"run\": 100}}");
    let phases = [0, 1, 2, 3].map(hop).join(",");
    let workload = format!("{{\"tasks\": {{\"t\": {{\"loop\": 1, \"phases\": {{{phases}}}}}}}}}");
    let costs = Costs {
        migrate_cross_llc_ns: 1_000,
        migrate_cross_node_ns: 10_000,
        ..Costs::FREE
    };
    let config = SimConfig {
        costs,
        ..exact(topology, &workload, Nanos::from_ms(10))
    };
    let (outcome, _) = traced(config, Simple::new(Order::Fifo));
    let group = &outcome.groups[0];
    // 4 x 100 us of work, moves within nodes twice and between them once.
    assert_eq!(group.runtime, Nanos::new(400_000 + 2 * 1_000 + 10_000));
    assert!(group.migrations >= 3);
}

#[test]
fn work_scales_with_capacity() {
    let file = br#"{"cpus": [{"core": 0}, {"core": 1, "capacity": 256}]}"#;
    let workload = r#"{"tasks": {
        "big": {"cpus": [0], "loop": 1, "run": 1000},
        "little": {"cpus": [1], "loop": 1, "run": 1000}}}"#;
    let config = SimConfig {
        topology: harena_sim::parse_topology_file(file).unwrap(),
        ..exact("2c", workload, Nanos::from_ms(100))
    };
    let (outcome, _) = traced(config, Simple::new(Order::Fifo));
    assert_eq!(outcome.groups[0].runtime, Nanos::from_us(1000));
    assert_eq!(outcome.groups[1].runtime, Nanos::from_us(4000));
}

#[test]
fn expensive_callbacks_slow_the_machine_down() {
    // Wakeups and switches that take longer than the work between them.
    let workload = r#"{"tasks": {"t": {"instance": 4, "run": 10, "sleep": 10}}}"#;
    let costs = Costs {
        switch_ns: 50_000,
        wakeup_ns: 50_000,
        ..Costs::FREE
    };
    let config = SimConfig {
        costs,
        ..exact("1c", workload, Nanos::from_ms(100))
    };
    let (outcome, _) = traced(config, Simple::new(Order::Fifo));
    let cpu = &outcome.cpus[0];
    assert!(cpu.overhead > Nanos::from_ms(80), "{cpu:?}");
    assert!(
        cpu.task.plus(cpu.overhead) <= Nanos::from_ms(101),
        "{cpu:?}"
    );
}

#[test]
fn timers_keep_their_grid() {
    let workload = r#"{"tasks": {"t": {
        "run": 100, "timer": {"ref": "unique", "period": 1000, "mode": "absolute"}}}}"#;
    let (outcome, records) = traced(
        exact("1c", workload, Nanos::from_ms(10)),
        Simple::new(Order::Fifo),
    );
    let wakeups: Vec<_> = records
        .iter()
        .filter(|r| matches!(r.what, What::Wakeup { .. }))
        .map(|r| r.time.as_ns() / 1000)
        .collect();
    assert_eq!(
        wakeups,
        [
            0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000
        ]
    );
    assert_eq!(outcome.groups[0].wakeups, 11);
}

/// The watchdog looks every half timeout. It must find the dropped task at its first look
/// more than a timeout after the task became runnable, and nothing before.
#[test]
fn a_dropped_task_stalls_at_exactly_the_watchdogs_time() {
    let workload = Workload::mixed();
    let mut ops = Simple::new(Order::Fifo).timeout_ms(5000);
    ops.drop_every = Some(50);
    let config = SimConfig {
        duration: Nanos::from_ms(60_000),
        ..SimConfig::new(harena_sim::default_topology(), workload)
    };
    let (outcome, records) = traced(config, ops);
    let enqueue = |r: &Record| {
        let What::Callback { op, task: Some(p) } = r.what else {
            return None;
        };
        (op == Op::Enqueue as u8).then_some((r.time.as_ns(), p))
    };
    let dropped = records.iter().filter_map(enqueue).skip(49).step_by(50);
    let dropped: Vec<(u64, Tid)> = dropped.collect();
    let (half, timeout) = (2_500_000_000, 5_000_000_000);
    // Ages count in whole milliseconds.
    let runnable_at = |time: u64| time / 1_000_000 * 1_000_000;
    let look = ((runnable_at(dropped[0].0) + timeout) / half + 1) * half;
    assert_eq!(outcome.ended_at.as_ns(), look);
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR_STALL);
    // Of several that are late by then, the first CPU's is named.
    let late = dropped.iter().filter(|d| runnable_at(d.0) + timeout < look);
    let mut messages = late.map(|&(time, p)| {
        let age_ms = (look - runnable_at(time)) / 1_000_000;
        let (seconds, ms) = (age_ms / 1000, age_ms % 1000);
        format!("[{p}] failed to run for {seconds}.{ms:03}s")
    });
    let message = &outcome.exit.message;
    assert!(messages.any(|m| message.ends_with(&m)), "{message}");
}
