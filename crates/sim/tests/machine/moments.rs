//! Moments that the machine itself brings about: interrupts, and who looks on from when.

use std::collections::BTreeSet;

use harena_abi::{Cpu, Nanos};
use harena_scx::{Cx, Form, Moment, MomentKind, MomentSet, Op, OpsConfig, PlainImage, SchedOps};
use harena_sim::{SimConfig, Simulation, Workload, parse_topology};

/// The core's defaults, a timer on CPU 1 after 5 ms, and a log of what happens there.
struct Onlooker {
    config: OpsConfig,
    log: Vec<String>,
    forks: u32,
}

impl SchedOps for Onlooker {
    fn config(&self) -> &OpsConfig {
        &self.config
    }

    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        let at = cx.machine.now().after(Nanos::from_ms(5));
        cx.machine.timer_arm(7, Cpu::new(1), at);
        0
    }

    fn timer(&mut self, _cx: &mut Cx<'_>, key: u64) {
        self.log.push(format!("timer {key}"));
    }

    fn traces(&self) -> MomentSet {
        let kinds = MomentKind::ALL.iter();
        kinds.fold(MomentSet::NONE, |set, kind| set.with(*kind))
    }

    fn trace(&mut self, cx: &mut Cx<'_>, moment: &Moment<'_>) {
        if let Moment::SchedProcessFork { .. } = moment {
            self.forks += 1;
        }
        if cx.machine.this_cpu() == Cpu::new(1) {
            self.log.push(format!("{moment:?}"));
        }
    }
}

/// What CPU 1 saw of a run of these tasks, and how many forks were told.
#[expect(
    clippy::large_stack_frames,
    reason = "a whole simulation, once per test"
)]
fn run(tasks: &str) -> (Vec<String>, u32) {
    let text = format!("{{\"tasks\": {{{tasks}}}}}");
    let workload = Workload::parse("test", text.as_bytes()).expect("a workload");
    let config = SimConfig {
        duration: Nanos::from_ms(20),
        ..SimConfig::new(parse_topology("2c").expect("a topology"), workload)
    };
    let onlooker = Onlooker {
        config: OpsConfig {
            name: "onlooker".to_owned(),
            form: Form::Cpu,
            flags: 0,
            timeout_ms: 0,
            dispatch_max_batch: 0,
            exit_dump_len: 0,
            hotplug_seq: 0,
            cid_shard_size: 0,
            has: BTreeSet::from([Op::Init]),
        },
        log: Vec::new(),
        forks: 0,
    };
    let image = Box::new(PlainImage::default());
    let simulation = Simulation::new(config, onlooker, image, None);
    let mut simulation = simulation.expect("they fit together");
    let outcome = simulation.run(&mut |_| {});
    assert_eq!(outcome.expect("it runs").exit.message, "");
    let (onlooker, _, _) = simulation.into_parts();
    (onlooker.log, onlooker.forks)
}

#[test]
fn a_timer_of_the_scheduler_is_an_interrupt_and_then_a_softirq() {
    let (log, _) = run(r#""busy": {"cpus": [0], "run": 100000}"#);
    let of_timer: Vec<_> = log
        .iter()
        .map(String::as_str)
        .skip_while(|line| !line.starts_with("IrqEntry(LocalTimer)"))
        .take(5)
        .collect();
    assert_eq!(
        of_timer,
        [
            "IrqEntry(LocalTimer)",
            "IrqExit(LocalTimer)",
            "IrqEntry(TimerSoftirq)",
            "timer 7",
            "IrqExit(TimerSoftirq)",
        ],
        "{log:?}"
    );
}

#[test]
fn tasks_that_are_there_before_the_scheduler_are_forked_before_anybody_looks_on() {
    let (_, forks) = run(
        r#""first": {"instance": 3, "run": 100}, "late": {"instance": 2, "delay": 1000, "run": 100}"#,
    );
    assert_eq!(forks, 2);
}
