//! Programs that look on: that they run where the simulation comes by, see what is true, cost
//! what they execute, and hurt nobody but their scheduler.

use harena_abi::{Nanos, scx};
use harena_kernel::{BpfScheduler, LoadError, LoadOptions};
use harena_sim::{Costs, Outcome, SimConfig, Simulation, parse_topology};

use crate::support::{Run, int, load_error_with, object, workload};

/// Tasks that come, sleep, wake, move and go; none changes its CPUs.
fn lives() -> harena_sim::Workload {
    workload(
        r#""a": {"instance": 6, "loop": 40, "run": 700, "sleep": 900},
           "b": {"instance": 3, "delay": 20000, "loop": 5, "run": 3000, "sleep": 100},
           "c": {"instance": 2, "run": 200, "sleep": 5000}"#,
    )
}

fn sum(outcome: &Outcome, of: impl Fn(&harena_sim::GroupMetrics) -> u64) -> i128 {
    outcome.groups.iter().map(of).sum::<u64>().into()
}

#[test]
fn what_is_seen_is_what_the_report_counts() {
    let run = Run {
        topology: "2n1l2c1t",
        workload: lives(),
        ..Run::mixed("tests/trace")
    };
    let (outcome, scheduler) = run.go();
    let seen = |name: &str| int(&scheduler, name);
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG);
    assert_eq!(seen("nr_wrong"), 0, "line {}", seen("wrong_line"));
    let switches: u64 = outcome.cpus.iter().map(|cpu| cpu.switches).sum();
    for counter in ["nr_switch", "nr_raw_switch", "nr_record_switch"] {
        assert_eq!(seen(counter), switches.into(), "{counter}");
    }
    let (wakeups, forks) = (sum(&outcome, |g| g.wakeups), sum(&outcome, |g| g.tasks));
    assert_eq!((forks, seen("nr_wakeup_new")), (11, 11));
    for counter in [
        "nr_waking",
        "nr_wakeup",
        "nr_record_wakeup",
        "nr_ttwu",
        "nr_ttwu_woke",
        "nr_ttwu_probe",
        "nr_ttwu_probe_woke",
    ] {
        assert_eq!(seen(counter), wakeups - forks, "{counter}");
    }
    // Where a new task is put first is a migration to the report, and none to the kernel.
    let migrations = sum(&outcome, |g| g.migrations);
    assert!(seen("nr_migrate") > 0);
    assert_eq!(seen("nr_migrate") + seen("nr_fork_moved"), migrations);
    assert_eq!(seen("nr_record_migrate"), seen("nr_migrate"));
    // The first eight are there before anybody looks on.
    assert_eq!((seen("nr_fork"), seen("nr_record_fork")), (3, 3));
    let exits = sum(&outcome, |g| g.exited);
    assert_eq!(exits, 9);
    for counter in ["nr_exit", "nr_free", "nr_record_exit", "nr_record_free"] {
        assert_eq!(seen(counter), exits, "{counter}");
    }
    let ticks: u64 = outcome.cpus.iter().map(|cpu| cpu.ticks).sum();
    assert_eq!(
        (seen("nr_tick"), seen("nr_scx_tick")),
        (ticks.into(), ticks.into())
    );
    // A timer ends each sleep and makes each tick.
    let timers = i128::from(ticks) + wakeups - forks;
    assert_eq!(
        (seen("nr_timer_irq"), seen("nr_record_timer_irq")),
        (timers, timers)
    );
    let ipis: u64 = outcome.cpus.iter().map(|cpu| cpu.ipis).sum();
    assert!(ipis > 0);
    assert_eq!(seen("nr_resched_irq"), ipis.into());
    assert_eq!(seen("nr_softirq"), 0);
    assert!(seen("nr_charged") >= seen("nr_tick"));
    assert_eq!(seen("nr_record_charged"), seen("nr_charged"));
    // Every CPU is idle at first, and in the end those that are no more.
    assert!((0..=4).contains(&(seen("nr_idle_end") - seen("nr_idle_begin"))));
    assert_eq!(
        seen("nr_record_idle"),
        seen("nr_idle_end") + seen("nr_idle_begin")
    );
    assert_eq!(seen("nr_register"), 1);
    let sleeps_or_preemptions = seen("nr_schedule");
    assert!(sleeps_or_preemptions >= seen("nr_sleep"));
    assert!(seen("nr_sleep") > 0);
}

#[test]
fn the_stopper_is_a_switch_to_the_idle_task_and_back() {
    let (outcome, scheduler) = Run::mixed("tests/trace").go();
    assert_eq!(
        int(&scheduler, "nr_wrong"),
        0,
        "{}",
        int(&scheduler, "wrong_line")
    );
    let switches: u64 = outcome.cpus.iter().map(|cpu| cpu.switches).sum();
    let seen = int(&scheduler, "nr_switch");
    assert!(seen >= switches.into(), "{seen} of {switches}");
}

#[test]
fn every_count_of_the_cores_events_is_told() {
    let (outcome, scheduler) = Run::mixed("tests/trace").go();
    let counted: i64 = outcome.event_stats.iter().map(|(_, count)| count).sum();
    // What is counted while the scheduler goes is told, too, and nobody else counts.
    assert_eq!(int(&scheduler, "record_events_sum"), counted.into());
    let of = |name: &str| {
        let mut all = outcome.event_stats.iter();
        all.find(|(event, _)| *event == name).unwrap().1
    };
    let refilled = int(&scheduler, "nr_refilled");
    assert!(refilled > 0, "{refilled}");
    assert_eq!(refilled, of("SCX_EV_REFILL_SLICE_DFL").into());
    // The tenth time, the program set a slice that was too long, which counts an event.
    assert_eq!(of("SCX_EV_SLICE_CLAMPED"), 1);
    assert_eq!(int(&scheduler, "events_sum"), i128::from(counted) - 1);
    let mut tracing = scheduler.tracing();
    let used = tracing.find(|used| used.program == "on_event").unwrap();
    assert_eq!(used.missed, 1);
}

#[test]
fn a_program_does_not_enter_itself_and_misses_are_counted() {
    let (_, scheduler) = Run::mixed("tests/trace").go();
    let kfunc = int(&scheduler, "nr_kfunc");
    assert!(kfunc > 0);
    // One return of the scheduler's call, one of the call that the onlooker made.
    assert_eq!(int(&scheduler, "nr_kfunc_returned"), 2 * kfunc);
    for used in scheduler.tracing() {
        let missed = match used.program.as_str() {
            "on_kfunc" => kfunc,
            "on_event" => 1,
            _ => 0,
        };
        assert_eq!(i128::from(used.missed), missed, "{}", used.program);
    }
}

#[test]
fn records_and_probes_run_one_at_a_time_and_entries_beside_them() {
    let all = ["one_at_a_time", "probed", "entered"];
    let (outcome, scheduler) = onlookers(&all, Costs::default());
    let switches: u64 = outcome.cpus.iter().map(|cpu| cpu.switches).sum();
    assert!(switches > 100, "{switches}");
    let used: Vec<_> = scheduler
        .tracing()
        .map(|used| (used.program.as_str(), used.runs, used.missed))
        .collect();
    let expected = [
        ("one_at_a_time", switches, 0),
        ("probed", 0, switches),
        ("entered", switches, 0),
    ];
    assert_eq!(used, expected);
}

#[test]
fn what_cannot_fire_is_loaded_and_listed() {
    let (_, scheduler) = Run::mixed("tests/trace").go();
    let never: Vec<_> = scheduler
        .never_fires()
        .iter()
        .map(|never| (never.section.as_str(), never.why.as_str()))
        .collect();
    assert_eq!(
        never,
        [
            (
                "tp_btf/task_rename",
                "the simulation has no tracepoint `task_rename`"
            ),
            (
                "fentry/vfs_read",
                "the simulation has no event in function `vfs_read`"
            ),
        ]
    );
    // The one that is marked `?` was not asked for.
    assert!(
        !scheduler
            .tracing()
            .any(|used| used.program == "on_switch_too")
    );
}

/// A run of `tests/onlookers` with these programs attached.
#[expect(
    clippy::large_stack_frames,
    reason = "a whole simulation, once per test"
)]
fn onlookers(attach: &[&str], costs: Costs) -> (Outcome, BpfScheduler) {
    let topology = parse_topology("2c").unwrap();
    let options = LoadOptions {
        attach: attach.iter().map(|&name| name.to_owned()).collect(),
        ..LoadOptions::default()
    };
    let (scheduler, image) =
        BpfScheduler::load(object("tests/onlookers"), &options, &topology).unwrap();
    let config = SimConfig {
        duration: Nanos::from_ms(200),
        costs,
        ..SimConfig::new(topology, lives())
    };
    let mut simulation = Simulation::new(config, scheduler, image, None).unwrap();
    let outcome = simulation.run(&mut |_| {}).unwrap();
    (outcome, simulation.into_parts().0)
}

#[test]
fn looking_on_costs_its_instructions_and_nothing_else() {
    let both = ["nothing_at_switch", "nothing_at_wakeup"];
    let (alone, _) = onlookers(&[], Costs::FREE);
    let (watched, scheduler) = onlookers(&both, Costs::FREE);
    let runs: u64 = scheduler.tracing().map(|used| used.runs).sum();
    assert!(runs > 500, "{runs}");
    assert_eq!(watched.digest, alone.digest);
    assert_eq!(watched.records, alone.records);

    // One instruction a nanosecond: two for a program that returns 0. Long sleeps of a single
    // task leave the order of events as it is.
    let costs = Costs {
        insns_per_us: 1000,
        ..Costs::FREE
    };
    let overhead = |outcome: &Outcome| -> u64 {
        let cpus = outcome.cpus.iter();
        cpus.map(|cpu| cpu.overhead.as_ns()).sum()
    };
    let (alone, before) = onlookers(&[], costs);
    let (watched, after) = onlookers(&both, costs);
    assert_ne!(watched.digest, alone.digest);
    assert!(overhead(&watched) > overhead(&alone));
    // All time that is not a task's is the programs': whoever runs them, and wherever. What runs
    // inside of the final exit costs nobody anything.
    for (outcome, scheduler) in [(&alone, &before), (&watched, &after)] {
        let free = scheduler.insns() - overhead(outcome);
        assert!(free < 200, "{free} of {}", scheduler.insns());
    }
}

#[test]
fn a_program_that_misbehaves_ends_the_scheduler_and_is_named() {
    let (outcome, scheduler) = onlookers(&["leaks"], Costs::default());
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR);
    let message = &outcome.exit.message;
    assert!(
        message.starts_with("?tp_btf/sched_wakeup: program `leaks`"),
        "{message}"
    );
    assert!(
        message.contains("is not released at the program's end"),
        "{message}"
    );
    assert!(scheduler.abort().is_some());
    // It was taken off at once.
    let used: Vec<_> = scheduler.tracing().map(|used| used.runs).collect();
    assert_eq!(used, [10]);
}

#[test]
fn one_that_misbehaves_while_the_scheduler_is_attached_ends_it_too() {
    let (outcome, _) = onlookers(&["leaks_early"], Costs::default());
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR);
    let message = &outcome.exit.message;
    assert!(
        message.starts_with("?fentry/bpf_scx_reg: program `leaks_early`"),
        "{message}"
    );
}

fn refused(attach: &str) -> LoadError {
    load_error_with("tests/onlookers", |options| {
        options.attach = vec![attach.to_owned()];
    })
}

#[test]
fn kfuncs_that_are_not_for_onlookers_are_refused_at_load() {
    let error = refused("inserts").to_string();
    let why =
        "calling kernel function scx_bpf_dsq_insert is not allowed in a program of type tracing";
    assert!(error.contains(why), "{error}");
    let error = refused("probes").to_string();
    let why = "calling kernel function scx_bpf_now is not allowed in a program of type kprobe";
    assert!(error.contains(why), "{error}");
}

#[test]
fn contexts_can_be_read_where_the_kernel_fills_them_and_not_written() {
    for (program, access) in [
        ("reads_a_second", "off=8 size=8"),
        ("reads_the_head", "off=0 size=8"),
        ("writes_the_result", "off=24 size=8"),
    ] {
        let error = refused(program).to_string();
        let why = format!("invalid bpf_context access {access}");
        assert!(error.contains(program) && error.contains(&why), "{error}");
    }
}

#[test]
fn a_helper_that_programs_of_a_type_have_not_ends_the_run() {
    let (outcome, _) = onlookers(&["asks_for_an_argument"], Costs::default());
    let message = &outcome.exit.message;
    let why = "program of this type cannot use helper bpf_get_func_arg#183";
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR);
    assert!(message.contains(why), "{message}");
}

#[test]
fn only_programs_that_look_on_can_be_attached() {
    let error = refused("onlookers_enqueue").to_string();
    let why =
        "cannot attach `onlookers_enqueue`: programs of type `struct_ops` are attached to nothing";
    assert_eq!(error, why);
    assert_eq!(refused("nobody").to_string(), "cannot attach `nobody`");
}
