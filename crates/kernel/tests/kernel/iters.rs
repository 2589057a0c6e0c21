//! Iterators over tasks and cgroups: what they visit in which order, and what a verifier would
//! have refused.

use harena_abi::{Cpu, SimTime, scx};
use harena_kernel::{BpfScheduler, LoadOptions};
use harena_scx::{Alarm, Core, CoreConfig, Cost, CpuSet, Env, Event, Machine, TaskSpec};
use harena_sim::parse_topology;

use crate::support::{Run, int, load_error_with, object};

/// A machine on which nothing is asked for.
struct Still;

impl Machine for Still {
    fn now(&self) -> SimTime {
        SimTime::ZERO
    }
    fn this_cpu(&self) -> Cpu {
        Cpu::new(0)
    }
    fn resched(&mut self, _cpu: Cpu) {}
    fn irq_work(&mut self, _cpu: Cpu) {}
    fn arm(&mut self, _which: Alarm, _at: SimTime) {}
    fn timer_arm(&mut self, _key: u64, _cpu: Cpu, _at: SimTime) {}
    fn timer_cancel(&mut self, _key: u64) -> bool {
        false
    }
    fn charge(&mut self, _cost: Cost) {}
    fn random(&mut self) -> u64 {
        0
    }
    fn note(&mut self, _event: Event) {}
}

/// `iters`, attached to a machine with these tasks: each is in the thread group of the one of that
/// number, or leads its own.
fn attached(groups: &[Option<u32>]) -> BpfScheduler {
    let topology = parse_topology("2c").unwrap();
    let options = LoadOptions::default();
    let (mut scheduler, image) =
        BpfScheduler::load(object("tests/iters"), &options, &topology).unwrap();
    let allowed: CpuSet = topology.cpus().collect();
    let mut core = Core::new(topology, CoreConfig::default(), image);
    let mut env = Env {
        ops: &mut scheduler,
        machine: &mut Still,
    };
    for group in groups {
        let spec = TaskSpec {
            comm: "task".to_owned(),
            tgid: group.map(harena_abi::Tid::new),
            parent: None,
            flags: 0,
            policy: scx::SCHED_NORMAL,
            nice: 0,
            allowed: allowed.clone(),
            cpu: Cpu::new(0),
            cgroup: 1,
        };
        core.fork(&mut env, spec).unwrap();
    }
    core.enable(&mut env).unwrap();
    assert!(core.is_enabled());
    scheduler
}

#[test]
fn threads_follow_their_leader_and_leaders_their_age() {
    // 1 leads 2 and 5, 3 leads 4.
    let scheduler = attached(&[None, Some(1), None, Some(3), Some(1)]);
    let seen = |name: &str| int(&scheduler, name);
    // swapper/0 comes first, and leads nobody.
    assert_eq!(seen("nr_procs"), 3);
    assert_eq!((seen("nr_threads"), seen("order")), (6, 12_534));
    assert_eq!(seen("nr_threads_of_leader"), 3);
    assert_eq!((seen("nr_css_tasks"), seen("nr_css_procs")), (5, 2));
}

#[test]
fn a_task_without_threads_is_its_only_one() {
    let scheduler = attached(&[None, None]);
    let seen = |name: &str| int(&scheduler, name);
    assert_eq!(
        (seen("nr_procs"), seen("nr_threads"), seen("order")),
        (3, 3, 12)
    );
    assert_eq!(seen("nr_threads_of_leader"), 1);
}

#[test]
fn there_is_the_root_cgroup_and_every_task_is_in_it() {
    let scheduler = attached(&[None]);
    let seen = |name: &str| int(&scheduler, name);
    for walk in ["nr_pre", "nr_post", "nr_up", "nr_cpu"] {
        assert_eq!(seen(walk), 1, "{walk}");
    }
    assert_eq!(seen("nr_children"), 0);
    let found = scheduler.global("found").unwrap();
    assert_eq!(found, harena_bpf::btf::Value::Bool(true));
    // Threads without a task, an unknown flag, one cgroup alone, threads alone.
    let errors = [-22, -22, -22, 0, -22];
    for (at, error) in errors.into_iter().enumerate() {
        assert_eq!(seen(&format!("errors[{at}]")), error, "errors[{at}]");
    }
}

#[test]
fn programs_that_may_not_sleep_need_no_section() {
    let (outcome, scheduler) = Run::mixed("tests/iters").go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    let rounds = int(&scheduler, "nr_rounds");
    assert!(rounds > 100, "{rounds}");
    assert_eq!(int(&scheduler, "nr_seen"), rounds);
}

#[test]
fn what_a_verifier_refuses_ends_the_scheduler() {
    for (mode, why) in [
        (
            "1",
            "kernel func bpf_iter_task_new requires RCU critical section protection",
        ),
        ("2", "expected an RCU CS when using bpf_iter_task_next"),
        ("3", "expected an RCU CS when using bpf_iter_task_next"),
        (
            "4",
            "created here by `bpf_iter_task_new`, is not destroyed at the program's end",
        ),
        ("5", "`bpf_iter_task_next`: 0x1 is not a task_struct"),
        ("6", "is not a cgroup_subsys_state"),
    ] {
        let (outcome, _) = Run {
            sets: &[("mode", mode)],
            ms: 10,
            ..Run::mixed("tests/iters")
        }
        .go();
        let message = &outcome.exit.message;
        assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR, "mode {mode}");
        assert!(
            message.contains("iters_init") && message.contains(why),
            "{mode}: {message}"
        );
    }
}

#[test]
fn the_tasks_of_a_cgroup_are_for_sleepers() {
    let error = load_error_with("tests/iters", |options| {
        options.attach = vec!["css_tasks_where_none_may_sleep".to_owned()];
    });
    let why = "program must be sleepable to call sleepable kfunc bpf_iter_css_task_new";
    assert!(error.to_string().contains(why), "{error}");
}
