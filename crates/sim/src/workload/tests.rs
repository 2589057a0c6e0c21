//! The workload reader: what it accepts, and that it names what it does not.

use harena_abi::Cpu;

use super::*;

fn parse(text: &str) -> Result<Workload, WorkloadError> {
    Workload::parse("t", text.as_bytes())
}

#[test]
fn a_published_style_file_is_read() {
    let text = r#"
    /* comments and trailing commas are json-c's */
    {
        "global": { "duration": 2, "calibration": "CPU0", "default_policy": "SCHED_BATCH", },
        "tasks": {
            "web": {
                "instance": 3, "delay": 1500, "priority": -4, "cpus": [0, 2],
                "phases": {
                    "load": { "loop": 5, "run0": 10, "sleepA": 20, "run0": 30 },
                    "idle": { "policy": "SCHED_IDLE",
                              "timer_x": { "ref": "unique1", "period": 40, "mode": "absolute" } },
                },
            },
            "hog": { "loop": 7, "runtime": 50, "timer": { "ref": "tick", "period": 60 } },
        },
    }"#;
    let w = parse(text).unwrap();
    assert_eq!(w.duration, Some(Nanos::from_ms(2000)));
    assert_eq!(w.instances(), 4);
    assert_eq!(w.notes.len(), 1);
    assert_eq!(w.notes[0].path, "global.calibration");
    let web = &w.tasks[0];
    assert_eq!(web.delay, Nanos::from_us(1500));
    assert_eq!(web.repeat, Repeat::Forever);
    assert_eq!(web.properties.policy, Some(Policy::Batch));
    assert_eq!(web.properties.nice, Some(-4));
    let cpus: CpuSet = [0, 2].map(Cpu::new).into_iter().collect();
    assert_eq!(web.properties.cpus, Some(cpus));
    let us = Nanos::from_us;
    let steps = [Step::Run(us(10)), Step::Sleep(us(20)), Step::Run(us(30))];
    assert_eq!(
        web.phases[0].steps, steps,
        "duplicate keys keep their order"
    );
    assert_eq!(web.phases[0].repeat, Repeat::Times(5));
    assert_eq!(web.phases[1].properties.policy, Some(Policy::Idle));
    let hog = &w.tasks[1];
    assert_eq!(
        hog.repeat,
        Repeat::Times(1),
        "without phases, loop is the phase's"
    );
    assert_eq!(hog.phases[0].repeat, Repeat::Times(7));
    let timer = |timer, period, mode| Step::Timer {
        timer: TimerId(timer),
        period: us(period),
        mode,
    };
    assert_eq!(web.phases[1].steps, [timer(0, 40, TimerMode::Absolute)]);
    assert_eq!(hog.phases[0].steps[1], timer(1, 60, TimerMode::Relative));
    assert_eq!([w.timers[0].shared, w.timers[1].shared], [false, true]);
}

#[test]
fn without_loop_a_task_goes_on_forever() {
    let w = parse(r#"{"tasks": {"t": {"run": 1}}, "global": {"duration": -1}}"#).unwrap();
    assert_eq!(w.duration, None);
    assert_eq!(w.tasks[0].repeat, Repeat::Forever);
    assert_eq!(w.tasks[0].phases[0].repeat, Repeat::Times(1));
}

/// Text, line, path and part of the message; `t:` stands for the inside of a task, `p:`
/// for that of a phase.
const BAD: &[(&str, usize, &str, &str)] = &[
    ("{}", 1, "tasks", "is missing"),
    ("{\"tasks\": {}}", 1, "tasks", "no task"),
    ("{\"tasks\": 3}", 1, "tasks", "an object, found a number"),
    ("{\n\"task\": {}}", 2, "task", "unknown key"),
    ("{\"tasks\": {},\n\"tasks\": {}}", 2, "tasks", "twice"),
    (
        "{\"global\": {\n\"durration\": 1}}",
        2,
        "global.durration",
        "unknown",
    ),
    (
        "{\"global\": {\"duration\": 1.5}}",
        1,
        "global.duration",
        "1.5",
    ),
    (
        "{\"global\": {\"duration\": 0}}",
        1,
        "global.duration",
        "time",
    ),
    ("t:", 1, "tasks.t", "no event"),
    ("t:\"run\": -1", 2, "tasks.t.run", "-1 is not in 0"),
    ("t:\"run\": 99999999999999", 2, "tasks.t.run", "is not in"),
    (
        "t:\"run\": 99999999999999999999",
        2,
        "tasks.t.run",
        "64 bits",
    ),
    ("t:\"run\": \"5\"", 2, "tasks.t.run", "found a string"),
    ("t:\"rum\": 5", 2, "tasks.t.rum", "unknown key"),
    (
        "t:\"lock0\": \"m\"",
        2,
        "tasks.t.lock0",
        "event `lock` is not supported",
    ),
    ("t:\"memrun\": 5", 2, "tasks.t.memrun", "`memrun`"),
    (
        "t:\"exec\": 5",
        2,
        "tasks.t.exec",
        "`exec` is not supported",
    ),
    (
        "t:\"taskgroup\": \"/a\"",
        2,
        "tasks.t.taskgroup",
        "not supported",
    ),
    (
        "t:\"policy\": \"SCHED_FIFO\"",
        2,
        "tasks.t.policy",
        "SCHED_FIFO",
    ),
    ("t:\"priority\": 20", 2, "tasks.t.priority", "-20 to 19"),
    ("t:\"cpus\": []", 2, "tasks.t.cpus", "names no CPU"),
    ("t:\"cpus\": [8192]", 2, "tasks.t.cpus", "8192"),
    ("t:\"loop\": 0", 2, "tasks.t.loop", "never run"),
    ("t:\"loop\": 1, \"loop\": 2", 2, "tasks.t.loop", "twice"),
    ("t:\"instance\": 0", 2, "tasks.t.instance", "is not in 1"),
    (
        "t:\"run\": 1, \"phases\": {\"p\": {\"run\": 1}}",
        1,
        "tasks.t",
        "both",
    ),
    ("t:\"phases\": {}", 2, "tasks.t.phases", "no phase"),
    ("p:", 2, "tasks.t.phases.p", "no event"),
    (
        "p:\"delay\": 1",
        3,
        "tasks.t.phases.p.delay",
        "belongs to a task",
    ),
    (
        "p:\"timer\": {\"ref\": \"a\"}",
        3,
        "tasks.t.phases.p.timer",
        "`period`",
    ),
    (
        "p:\"timer\": {\"period\": 1}",
        3,
        "tasks.t.phases.p.timer",
        "`ref`",
    ),
    (
        "p:\"timer\": {\"period\": 0}",
        3,
        "tasks.t.phases.p.timer.period",
        "0 is not",
    ),
    (
        "p:\"timer\": {\"mode\": \"x\"}",
        3,
        "tasks.t.phases.p.timer.mode",
        "`x`",
    ),
    (
        "p:\"timer\": {\"per\": 1}",
        3,
        "tasks.t.phases.p.timer.per",
        "unknown",
    ),
];

#[test]
fn what_is_wrong_is_named_with_path_and_line() {
    for &(short, at, path_is, part) in BAD {
        let text = match short.split_at_checked(2) {
            Some(("t:", inside)) => format!("{{\"tasks\": {{\"t\": {{\n{inside}\n}}}}}}"),
            Some(("p:", inside)) => {
                format!("{{\"tasks\": {{\"t\": {{\n\"phases\": {{\"p\": {{\n{inside}}}}}\n}}}}}}")
            }
            _ => short.to_owned(),
        };
        match parse(&text) {
            Err(WorkloadError::Key {
                line,
                path,
                problem,
            }) => {
                assert_eq!((line, path.as_str()), (at, path_is), "{text}");
                assert!(problem.contains(part), "{text}: {problem}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn text_that_is_no_json_is_an_error_with_its_line() {
    use crate::json::JsonError;
    for (text, at) in [
        (&b"{\n\"tasks\": "[..], 2),
        (b"", 1),
        (b"[]", 1),
        (b"{\"a\": NaN}", 1),
        (b"{a: 1}", 1),
        (b"{\"a\" 1}", 1),
        (b"{\"a\": 1}\n x", 2),
        (b"{\n/* never closed", 2),
        (b"{\"a\": \"\n\xff\"}", 2),
    ] {
        let shown = String::from_utf8_lossy(text);
        match Workload::parse("t", text) {
            Err(WorkloadError::Json(
                JsonError::Utf8 { line }
                | JsonError::Syntax { line, .. }
                | JsonError::NoObject { line },
            )) => assert_eq!(line, at, "{shown}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!("{{\"tasks\": {}", "[".repeat(10_000));
    assert!(matches!(parse(&deep), Err(WorkloadError::Json(_))));
    let events: String = (0..1_000_000).map(|i| format!("\"run{i}\":1,")).collect();
    let w = parse(&format!("{{\"tasks\": {{\"t\": {{{events}}}}}}}")).unwrap();
    assert_eq!(w.tasks[0].phases[0].steps.len(), 1_000_000);
    let many: String = (0..5)
        .map(|i| format!("\"t{i}\":{{\"instance\":1000000,\"run\":1}},"))
        .collect();
    assert_eq!(
        parse(&format!("{{\"tasks\": {{{many}}}}}")),
        Err(WorkloadError::TooMany {
            instances: 5_000_000
        })
    );
}

#[test]
fn no_prefix_of_a_file_panics() {
    let text = include_bytes!("../../workloads/mixed.json");
    for end in 0..text.len() - 2 {
        assert!(Workload::parse("t", &text[..end]).is_err(), "{end}");
    }
}

#[test]
fn the_embedded_workload_scales() {
    let mixed = Workload::mixed();
    assert_eq!(mixed.duration, Some(Nanos::from_ms(10_000)));
    assert!(mixed.notes.is_empty());
    let all = mixed.instances();
    assert_eq!(mixed.clone().scaled_to(8), mixed);
    assert_eq!(mixed.clone().scaled_to(64).instances(), all * 8);
    let tiny = mixed.scaled_to(1);
    assert!(tiny.tasks.iter().all(|t| t.instances >= 1));
    let cpu0: CpuSet = std::iter::once(Cpu::new(0)).collect();
    let pinned = tiny.tasks.iter().filter_map(|t| t.properties.cpus.as_ref());
    assert!(pinned.into_iter().all(|set| *set == cpu0));
}

#[test]
fn no_mutation_of_a_file_panics() {
    let text = include_bytes!("../../workloads/mixed.json");
    let mut stream = crate::random::Stream::new(1, "mutations");
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = text.to_vec();
        for _ in 0..=stream.up_to(3) {
            let at = usize::try_from(stream.up_to(text.len() as u64 - 1)).unwrap();
            bytes[at] = stream.next().to_le_bytes()[0];
        }
        refused += u32::from(Workload::parse("t", &bytes).is_err());
    }
    assert!(refused > 1000, "{refused}");
}
