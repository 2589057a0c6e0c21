//! Short simulations of each scheduler, and what core and program see of each other.

use harena_abi::scx;
use harena_bpf::btf::Value;
use harena_scx::Op;

use crate::support::{Run, int, workload};

fn calls(outcome: &harena_sim::Outcome, op: Op) -> u64 {
    let found = outcome.callbacks.iter().find(|(known, _)| *known == op);
    found.map_or(0, |(_, count)| *count)
}

#[test]
fn our_schedulers_run_the_mixed_workload() {
    for name in ["fifo", "vtime", "levels"] {
        let (outcome, scheduler) = Run::mixed(name).go();
        assert_eq!(
            outcome.exit.kind,
            scx::SCX_EXIT_UNREG,
            "{name}: {:?}",
            outcome.exit
        );
        assert!(scheduler.abort().is_none(), "{name}");
        assert_eq!(scheduler.violations(), [], "{name}");
        assert!(
            calls(&outcome, Op::Enqueue) > 100,
            "{name}: {:?}",
            outcome.callbacks
        );
        assert!(scheduler.insns() > 10_000, "{name}");
        assert!(
            outcome.groups.iter().any(|g| g.runtime.as_ns() > 0),
            "{name}"
        );
    }
}

#[test]
fn equal_runs_give_equal_digests() {
    let digest = || Run::mixed("levels").go().0.digest;
    assert_eq!(digest(), digest());
}

#[test]
fn levels_keeps_its_statistics_in_the_arena() {
    let (outcome, scheduler) = Run::mixed("levels").go();
    let tasks: u64 = outcome.groups.iter().map(|g| g.tasks).sum();
    assert_eq!(int(&scheduler, "stats.nr_tasks"), tasks.into());
    assert!(int(&scheduler, "stats.nr_direct") > 0);
    let arena = scheduler.arena().unwrap();
    assert!(arena.pages > 0);
    assert_eq!(arena.faults_recovered, 0);
}

#[test]
fn the_exit_info_reaches_the_program() {
    let (_, scheduler) = Run::mixed("tests/probe").go();
    assert_eq!(int(&scheduler, "uei.kind"), scx::SCX_EXIT_UNREG.into());
    assert_eq!(
        scheduler.global("uei.reason").unwrap(),
        Value::Text("unregistered from user space".to_owned())
    );
}

#[test]
fn the_program_reads_the_task_it_is_called_for() {
    let (_, scheduler) = Run {
        workload: workload(
            r#""worker": { "priority": 5, "cpus": [0, 1], "loop": -1, "run": 1000, "sleep": 1000 }"#,
        ),
        ..Run::mixed("tests/probe")
    }
    .go();
    assert_eq!(int(&scheduler, "last_nr_allowed"), 2);
    assert_eq!(int(&scheduler, "last_weight"), 33);
    assert!(int(&scheduler, "last_pid") > 0);
    let Value::Text(comm) = scheduler.global("last_comm").unwrap() else {
        panic!("comm is text");
    };
    assert!(comm.starts_with("worker"), "{comm}");
}

#[test]
fn a_plain_store_to_the_slice_is_seen_by_the_core() {
    let run = |sets| {
        let (outcome, scheduler) = Run {
            sets,
            topology: "1n1l1c1t",
            workload: workload(r#""hog": { "instance": 2, "loop": -1, "run": 100000 }"#),
            ..Run::mixed("tests/probe")
        }
        .go();
        assert!(int(&scheduler, "nr_ticks") > 200);
        outcome.groups.iter().map(|g| g.switches).sum::<u64>()
    };
    let whole_slices = run(&[]);
    let cut_slices = run(&[("cut_slice", "true")]);
    // 300 ms: about 15 slices of 20 ms, or a switch at each of 300 ticks.
    assert!(whole_slices < 30, "{whole_slices}");
    assert!(cut_slices > 200, "{cut_slices}");
}

#[test]
fn set_cmask_hands_over_the_affinity_in_the_arena() {
    let (_, scheduler) = Run {
        workload: workload(
            r#""pinned": { "cpus": [1, 3], "loop": -1, "run": 1000, "sleep": 1000 }"#,
        ),
        ..Run::mixed("tests/cmask")
    }
    .go();
    assert_eq!(int(&scheduler, "seen.nr_calls"), 1);
    assert_eq!(int(&scheduler, "seen.base"), 0);
    assert_eq!(int(&scheduler, "seen.nr_cids"), 8);
    assert_eq!(int(&scheduler, "seen.alloc_words"), 2);
    // On this machine CPU and cid numbers may differ, but two CPUs are two cids.
    assert_eq!(int(&scheduler, "seen.words[0]").count_ones(), 2);
    assert_eq!(int(&scheduler, "seen.words[1]"), 0);
    // A user address of the arena, as programs keep them.
    let address = int(&scheduler, "seen.address");
    assert_eq!(address >> 32, 1 << 12, "{address:#x}");
}

#[test]
fn cpumask_kfuncs_do_what_their_names_say() {
    let (outcome, scheduler) = Run {
        ms: 10,
        ..Run::mixed("tests/masks")
    }
    .go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    assert_eq!(int(&scheduler, "nr_checks"), 30);
    assert_eq!(
        int(&scheduler, "failed"),
        0,
        "{:#x}",
        int(&scheduler, "failed")
    );
}

#[test]
fn callbacks_run_inside_the_kfuncs_that_cause_them() {
    let (outcome, scheduler) = Run::mixed("tests/queues").go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    assert!(int(&scheduler, "nr_to_local") > 100);
    assert!(int(&scheduler, "nr_moved") >= int(&scheduler, "nr_to_local"));
    assert_eq!(int(&scheduler, "nr_peek_wrong"), 0);
    // Each task that left for a local DSQ was dequeued once, inside the kfunc; those moved to
    // another CPU are seen when they run.
    let dequeued = int(&scheduler, "nr_dequeued");
    assert!(dequeued > 100, "{dequeued}");
    assert!(dequeued <= int(&scheduler, "nr_enqueued"));
}

#[test]
fn timers_fire_and_rearm_until_the_scheduler_leaves() {
    let (_, scheduler) = Run::mixed("tests/queues").go();
    // 300 ms, every 10 ms.
    assert!(
        (28..=30).contains(&int(&scheduler, "nr_timer")),
        "{}",
        int(&scheduler, "nr_timer")
    );
}

#[test]
fn a_scheduler_keeps_its_waiting_tasks_in_a_tree_of_objects() {
    let (outcome, scheduler) = Run {
        workload: workload(
            r#""light": { "instance": 12, "loop": -1, "run": 900, "sleep": 500, "priority": 5 },
               "heavy": { "instance": 12, "loop": -1, "run": 30000, "sleep": 100 }"#,
        ),
        ..Run::mixed("tests/ranked")
    }
    .go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    let (added, taken) = (int(&scheduler, "nr_added"), int(&scheduler, "nr_taken"));
    assert!(added > 500, "{added}");
    // All others still wait.
    assert!((taken..=taken + 24).contains(&added), "{added} and {taken}");
    assert_eq!(int(&scheduler, "nr_gone"), 0);
}
