//! Broken schedulers: each is ended or contained, with a message that helps.

use harena_abi::scx;

use harena_vm::{StreamId, ViolationKind};

use crate::support::{Run, int, workload};

#[test]
fn wild_survives_and_every_violation_is_reported() {
    let (outcome, mut scheduler) = Run::mixed("wild").go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    assert_eq!(int(&scheduler, "stats.nr_surprises"), 0);
    let arena = scheduler.arena().unwrap();
    assert!(arena.faults_recovered > 0);
    for kind in [ViolationKind::Arena, ViolationKind::Host] {
        let violation = scheduler.violations().iter().find(|v| v.kind == kind);
        let violation = violation.unwrap_or_else(|| panic!("no {kind} violation"));
        assert_eq!(
            violation.file.as_deref().map(|f| f.ends_with("wild.bpf.c")),
            Some(true)
        );
        assert!(violation.line.is_some_and(|line| line > 0));
    }
    let stderr = scheduler.drain_streams(StreamId::Stderr);
    let text: String = stderr.into_iter().map(|(_, text)| text).collect();
    assert!(
        text.contains("ERROR: Arena WRITE access at unmapped address 0x"),
        "{text}"
    );
    assert!(
        text.contains("ERROR: Arena READ access at unmapped address 0x"),
        "{text}"
    );
}

#[test]
fn wild_can_give_up() {
    let (outcome, _) = Run {
        sets: &[("wild_error", "true")],
        ..Run::mixed("wild")
    }
    .go();
    assert_eq!(
        outcome.exit.kind,
        scx::SCX_EXIT_ERROR_BPF,
        "{:?}",
        outcome.exit
    );
}

#[test]
fn scx_bpf_error_formats_its_message() {
    let (outcome, scheduler) = Run {
        sets: &[("error_pid", "1")],
        workload: workload(r#""worker": { "loop": -1, "run": 1000, "sleep": 1000 }"#),
        ..Run::mixed("tests/probe")
    }
    .go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR_BPF);
    assert_eq!(outcome.exit.reason, "scx_bpf_error");
    let message = &outcome.exit.message;
    assert!(message.starts_with("worker"), "{message}");
    assert!(message.contains("[1] has weight 100, slice "), "{message}");
    assert!(message.ends_with(", flags abc"), "{message}");
    assert_eq!(int(&scheduler, "uei.kind"), scx::SCX_EXIT_ERROR_BPF.into());
}

#[test]
fn a_dropped_task_stalls_and_is_named() {
    let (outcome, _) = Run {
        sets: &[("drop_ops.timeout_ms", "500")],
        ms: 5_000,
        ..Run::mixed("tests/drop")
    }
    .go();
    assert_eq!(
        outcome.exit.kind,
        scx::SCX_EXIT_ERROR_STALL,
        "{:?}",
        outcome.exit
    );
    assert!(
        outcome.exit.message.contains("failed to run for 0."),
        "{}",
        outcome.exit.message
    );
}

#[test]
fn an_endless_callback_ends_the_scheduler_with_its_place() {
    let (outcome, scheduler) = Run {
        sets: &[],
        ..Run::mixed("fifo")
    }
    .go_with(|options| options.insn_budget = Some(5));
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR, "{:?}", outcome.exit);
    let message = &outcome.exit.message;
    assert!(message.contains("program `fifo_"), "{message}");
    assert!(
        message.contains("instruction budget of 5 used up"),
        "{message}"
    );
    assert!(message.contains("fifo.bpf.c:"), "{message}");
    assert!(scheduler.abort().is_some());
}

#[test]
fn a_scheduler_that_frees_the_cores_cmasks_gets_a_report() {
    let (outcome, mut scheduler) = Run {
        sets: &[("free_it", "true")],
        workload: workload(
            r#""worker": { "instance": 3, "loop": -1, "run": 1000, "sleep": 1000 }"#,
        ),
        ..Run::mixed("tests/cmask")
    }
    .go();
    // The core's own write lands on scratch, as that of a kernel does.
    assert_eq!(int(&scheduler, "seen.nr_calls"), 3);
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    let hosts = scheduler.violations().iter();
    let hosts: Vec<_> = hosts.filter(|v| v.kind == ViolationKind::Host).collect();
    assert!(!hosts.is_empty());
    assert!(
        hosts
            .iter()
            .all(|v| v.access == "WRITE" && v.program == "cmask_set_cmask")
    );
    let stderr = scheduler.drain_streams(StreamId::Stderr);
    let reported = stderr.iter().any(|(program, text)| {
        program == "cmask_set_cmask"
            && text.contains("ERROR: Arena WRITE access at unmapped address 0x")
    });
    assert!(reported, "{stderr:?}");
    assert_eq!(
        scheduler.arena().map(|arena| arena.reports_dropped),
        Some(0)
    );
}

/// A timer that is armed a million times for the same moment fires once, and the requests that
/// were overtaken neither fill the host's memory nor count as events.
#[test]
fn a_storm_of_timer_starts_leaves_one_timer() {
    let storm = |nr_arms: &'static str| {
        let sets: &'static [(&str, &str)] = match nr_arms {
            "1" => &[("period_ns", "1000000")],
            _ => &[("period_ns", "1000000"), ("nr_arms", "1000000")],
        };
        Run {
            sets,
            ms: 20,
            topology: "1n1l1c1t",
            workload: workload(r#""one": { "loop": 1, "run": 10 }, "end": { "sleep": 20000 }"#),
            ..Run::mixed("tests/storm")
        }
        .go()
    };
    let (once, _) = storm("1");
    let (often, scheduler) = storm("1000000");
    assert_eq!(often.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", often.exit);
    let fired = int(&scheduler, "nr_fired");
    assert!((2..=20).contains(&fired), "{fired}");
    assert!(often.events <= once.events, "{} events", often.events);
}

/// The next period begins with the callback, which costs nothing here, so this is as fast as a
/// program can make timers fire.
#[test]
fn a_timer_that_rearms_itself_at_once_lets_time_pass() {
    let (outcome, scheduler) = Run {
        ms: 2,
        topology: "1n1l1c1t",
        workload: workload(r#""one": { "loop": 1, "run": 10 }, "end": { "sleep": 20000 }"#),
        ..Run::mixed("tests/storm")
    }
    .go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    assert!(int(&scheduler, "nr_fired") > 1);
}

/// Modes of `tests/held` and the errors they end with.
const HELD: &[(&str, &str)] = &[
    (
        // LEAK_TASK
        "1",
        "program `held_enqueue`, insn 9 (same = bpf_task_acquire(p); @ held.bpf.c:80): \
         task_struct ADDR, acquired here by `bpf_task_acquire`, is not released at the \
         program's end",
    ),
    (
        // RELEASE_TASK_TWICE
        "2",
        "program `held_enqueue`, insn 21 (bpf_task_release(same); @ held.bpf.c:87): \
         `bpf_task_release`: task_struct ADDR is not acquired any more: it was released by \
         `bpf_task_release` at program `held_enqueue`, insn 17 (bpf_task_release(same); @ \
         held.bpf.c:85)",
    ),
    (
        // RELEASE_ARGUMENT
        "3",
        "program `held_enqueue`, insn 7 (bpf_task_release(p); @ held.bpf.c:79): \
         `bpf_task_release`: task_struct ADDR is not acquired",
    ),
    (
        // LEAK_CGROUP
        "4",
        "program `held_enqueue`, insn 23 (struct cgroup *root = bpf_cgroup_from_id(1); @ \
         held.bpf.c:92): cgroup ADDR, acquired here by `bpf_cgroup_from_id`, is not released \
         at the program's end",
    ),
    (
        // LEAK_MASK
        "5",
        "program `held_enqueue`, insn 41 (mask = bpf_cpumask_create(); @ held.bpf.c:106): \
         bpf_cpumask ADDR, acquired here by `bpf_cpumask_create`, is not released at the \
         program's end",
    ),
    (
        // RELEASE_MASK_TWICE
        "6",
        "program `held_enqueue`, insn 68 (if (old && mode != LEAK_KPTR) @ held.bpf.c:118): \
         `bpf_cpumask_release`: bpf_cpumask ADDR is not acquired any more: it was released by \
         `bpf_cpumask_release` at program `held_enqueue`, insn 55 (bpf_cpumask_release(mask); \
         @ held.bpf.c:113)",
    ),
    (
        // LEAK_IDLE_MASK
        "7",
        "program `held_enqueue`, insn 31 (const struct cpumask *idle = \
         scx_bpf_get_idle_cpumask(); @ held.bpf.c:100): cpumask ADDR, acquired here by \
         `scx_bpf_get_idle_cpumask`, is not released at the program's end",
    ),
    (
        // LEAK_LOCK
        "8",
        "program `held_enqueue`, insn 82 (if (bpf_res_spin_lock(&lock)) @ held.bpf.c:124): \
         bpf_res_spin_lock ADDR, locked here by `bpf_res_spin_lock`, is not unlocked at the \
         program's end",
    ),
    (
        // CALL_UNDER_LOCK
        "9",
        "program `held_enqueue`, insn 88 (scx_bpf_nr_cpu_ids(); @ held.bpf.c:127): \
         `scx_bpf_nr_cpu_ids`: not allowed while a lock is held: bpf_res_spin_lock ADDR, \
         locked by `bpf_res_spin_lock` at program `held_enqueue`, insn 82 (if \
         (bpf_res_spin_lock(&lock)) @ held.bpf.c:124)",
    ),
    (
        // LEAK_RCU
        "10",
        "program `held_enqueue`, insn 69 (bpf_rcu_read_lock(); @ held.bpf.c:158): RCU \
         section, entered here by `bpf_rcu_read_lock`, is not left at the program's end",
    ),
    (
        // SLEEP_IN_RCU
        "11",
        "program `held_init`, insn 7 (err = scx_bpf_create_dsq(QUEUE, -1); @ held.bpf.c:178): \
         `scx_bpf_create_dsq`: may sleep, which is not allowed inside RCU section, entered by \
         `bpf_rcu_read_lock` at program `held_init`, insn 4 (bpf_rcu_read_lock(); @ \
         held.bpf.c:177)",
    ),
    (
        // LEAK_ITER
        "12",
        "program `held_dispatch`, insn 8 (bpf_iter_scx_dsq_new(&it, QUEUE, 0); @ \
         held.bpf.c:137): bpf_iter_scx_dsq ADDR, created here by `bpf_iter_scx_dsq_new`, is \
         not destroyed at the program's end",
    ),
    (
        // DESTROY_ITER_TWICE
        "13",
        "program `held_dispatch`, insn 33 (bpf_iter_scx_dsq_destroy(&it); @ held.bpf.c:144): \
         `bpf_iter_scx_dsq_destroy`: bpf_iter_scx_dsq ADDR is not created any more: it was \
         destroyed by `bpf_iter_scx_dsq_destroy` at program `held_dispatch`, insn 28 \
         (bpf_iter_scx_dsq_destroy(&it); @ held.bpf.c:142)",
    ),
    (
        // USE_NO_ITER
        "14",
        "program `held_dispatch`, insn 11 (while (bpf_iter_scx_dsq_next(&it) && can_loop) @ \
         held.bpf.c:138): `bpf_iter_scx_dsq_next`: bpf_iter_scx_dsq ADDR is not created",
    ),
    (
        // LEAK_KPTR
        "15",
        "program `held_enqueue`, insn 60 (old = bpf_kptr_xchg(&stored, mask); @ \
         held.bpf.c:117): kptr ADDR, acquired here by `bpf_kptr_xchg`, is not released at the \
         program's end",
    ),
];

#[test]
fn what_is_not_released_or_not_acquired_ends_the_scheduler() {
    for (mode, message) in HELD {
        let (outcome, scheduler) = Run {
            sets: &[("mode", mode)],
            ms: 20,
            ..Run::mixed("tests/held")
        }
        .go();
        assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR, "{:?}", outcome.exit);
        let abort = scheduler.abort().unwrap().to_string();
        let said = &outcome.exit.message;
        assert!(said.ends_with(&abort), "{said}");
        assert_eq!(without_addresses(&abort), *message);
    }
}

/// A message with `ADDR` for every address.
fn without_addresses(message: &str) -> String {
    let mut parts = message.split("0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("ADDR");
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    text
}

#[test]
fn a_scheduler_that_releases_all_it_acquires_goes_on() {
    let (outcome, scheduler) = Run::mixed("tests/held").go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_UNREG, "{:?}", outcome.exit);
    assert!(int(&scheduler, "nr_rounds") > 0);
}

#[test]
fn a_lock_beside_a_tree_that_stays_locked_ends_the_scheduler() {
    let (outcome, scheduler) = Run {
        sets: &[("keep_lock", "true")],
        ..Run::mixed("tests/ranked")
    }
    .go();
    assert_eq!(outcome.exit.kind, scx::SCX_EXIT_ERROR, "{:?}", outcome.exit);
    let message = &outcome.exit.message;
    assert!(
        message.contains("program `ranked_enqueue`, insn "),
        "{message}"
    );
    assert!(
        message.contains(", locked here by `bpf_spin_lock`, is not unlocked at the program's end"),
        "{message}"
    );
    assert!(scheduler.abort().is_some());
}
