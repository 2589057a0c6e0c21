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
