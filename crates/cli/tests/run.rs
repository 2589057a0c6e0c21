//! Goal: the command does what the README and `docs/` promise, for good and bad input.
//! Method: start the built binary as a user does, look at its output and exit code.

mod harena;

use harena::{harena, json, object, seconds};

/// The documented top-level keys (`docs/json.md`), in alphabetical order.
const KEYS: [&str; 15] = [
    "arena",
    "callbacks",
    "cpus",
    "digest",
    "events",
    "exit",
    "groups",
    "machine",
    "scheduler",
    "seed",
    "sim_ns",
    "tracing",
    "violations",
    "wall_ns",
    "workload",
];

/// What the same short default run must hash to in every build on every machine.
const GOLDEN_DIGEST: &str = "979995359f77c43b2aff8b0fe9242648";

#[test]
fn the_default_run_is_fine_and_shows_every_part() {
    let run = harena(&["run", "-d", "300ms"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr, "", "no progress line without a terminal");
    for part in [
        "scheduler   levels (cid form, embedded levels.bpf.o)",
        "machine     ",
        "workload    ",
        "seed        0\n",
        "time        0.300 s simulated in ",
        " events (",
        "latency p50",
        "CPUs ran tasks ",
        "callbacks   ",
        "statistics  ",
        "nr_direct ",
        "arena       ",
        "violations  none",
        "exit        SCX_EXIT_",
        "digest      ",
    ] {
        assert!(
            run.stdout.contains(part),
            "`{part}` is missing in\n{}",
            run.stdout
        );
    }
}

#[test]
fn each_of_our_schedulers_gives_the_documented_json() {
    for name in ["fifo", "vtime", "levels", "wild"] {
        let path = object(name);
        let run = harena(&["run", &path, "-d", "200ms", "--format", "json"]);
        assert_eq!(run.code, 0, "{name}: {}", run.stderr);
        let results = json(&run);
        let keys: Vec<&String> = results.as_object().unwrap().keys().collect();
        assert_eq!(keys, KEYS, "{name}");
        assert_eq!(results["scheduler"]["name"], name);
        assert_eq!(results["scheduler"]["object"], path.as_str());
        assert_eq!(results["machine"]["cpus"], 8, "{name}");
        assert_eq!(results["sim_ns"], 200_000_000, "{name}");
        assert_eq!(results["exit"]["code"], 0, "{name}");
        assert_eq!(results["exit"]["message"], "", "{name}");
        assert!(results["events"].as_u64().unwrap() > 1_000, "{name}");
        assert!(
            results["callbacks"]["dispatch"].as_u64().unwrap() > 0,
            "{name}"
        );
        let violations = results["violations"].as_array().unwrap().len();
        assert_eq!(
            violations > 0,
            name == "wild",
            "{name}: {violations} violations"
        );
        assert_eq!(
            results["arena"]["pages"].as_u64().unwrap() > 0,
            !matches!(name, "fifo" | "vtime")
        );
    }
}

#[test]
fn wild_survives_each_of_its_misdeeds_and_all_are_reported() {
    let run = harena(&["run", &object("wild"), "-d", "300ms", "--format", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let results = json(&run);
    let stats = &results["scheduler"]["stats"];
    assert_eq!(stats["nr_surprises"], 0, "{stats}");
    for counter in [
        "nr_loads",
        "nr_stores",
        "nr_atomics",
        "nr_straddles",
        "nr_kfuncs",
    ] {
        assert!(stats[counter].as_u64().unwrap() > 0, "{counter} in {stats}");
    }
    assert!(results["arena"]["faults_recovered"].as_u64().unwrap() > 0);
    let violations = results["violations"].as_array().unwrap();
    let lines: std::collections::BTreeSet<u64> = violations
        .iter()
        .map(|v| {
            v["source"]["line"]
                .as_u64()
                .expect("every misdeed has a source line")
        })
        .collect();
    assert!(
        lines.len() >= 5,
        "one line for each kind of misdeed: {lines:?}"
    );
    for v in violations {
        assert_eq!(v["program"], "wild_enqueue", "{v}");
        assert!(
            v["source"]["file"]
                .as_str()
                .unwrap()
                .ends_with("wild.bpf.c"),
            "{v}"
        );
        assert!(v["address"].is_u64(), "{v}");
    }
    let output = &results["scheduler"]["output"][0];
    assert_eq!(output["program"], "wild_enqueue", "{output}");
    assert_eq!(output["stream"], "stderr", "{output}");
    let first = output["text"].as_str().unwrap();
    assert!(
        first.starts_with("ERROR: Arena READ access at unmapped address 0x"),
        "{first}"
    );
}

#[test]
fn a_scheduler_that_gives_up_ends_with_43_and_its_message() {
    let wild = object("wild");
    let args = [
        "run",
        &wild,
        "-d",
        "1s",
        "--seed",
        "7",
        "--set",
        "wild_error=1",
    ];
    let message = "wild gives up after 100 enqueues";
    let run = harena(&[&args[..], &["--format", "json"]].concat());
    let exit = &json(&run)["exit"];
    assert_eq!(exit["kind"], "SCX_EXIT_ERROR_BPF");
    assert_eq!(exit["message"], message);
    let at = seconds(&exit["at_ns"]);
    let line = format!(
        "scheduler `wild`: scx_bpf_error: {message} (SCX_EXIT_ERROR_BPF after {at}, seed 7)"
    );
    run.ends_saying(43, &line);
    let text = harena(&args);
    text.ends_saying(43, &line);
    let [short, end] = [
        "exit        SCX_EXIT_ERROR_BPF (scx_bpf_error) after ",
        message,
    ];
    let is_exit = |line: &&str| line.starts_with(short) && line.ends_with(&format!(" s: {end}"));
    assert_eq!(
        text.stdout.lines().filter(is_exit).count(),
        1,
        "{}",
        text.stdout
    );
}

#[test]
fn a_dropped_task_ends_with_42_at_exactly_the_watchdogs_time() {
    let drop = object("tests/drop");
    let args = ["run", &drop, "-d", "60s", "--set", "ops.timeout_ms=2000"];
    let run = harena(&[&args[..], &["--format", "json"]].concat());
    assert_eq!(run.code, 42, "{}", run.stderr);
    let results = json(&run);
    let exit = &results["exit"];
    assert_eq!(exit["kind"], "SCX_EXIT_ERROR_STALL");
    // The watchdog looks every half timeout, and finds what waited longer than a whole one.
    let (at, waited) = (exit["at_ns"].as_u64(), exit["stall"]["waited_ns"].as_u64());
    let (at, waited) = (at.expect("a time"), waited.expect("an age"));
    assert_eq!(at % 1_000_000_000, 0, "{exit}");
    assert!(waited > 2_000_000_000 && waited <= 3_000_000_000, "{exit}");
    assert_eq!(exit["stall"]["dsq"], serde_json::Value::Null, "{exit}");
    let nr_dropped = &results["scheduler"]["stats"]["nr_dropped"];
    assert!(nr_dropped.as_u64().unwrap() > 0);
    let comm = exit["stall"]["comm"].as_str().expect("a name");
    let (at, ms) = (seconds(&exit["at_ns"]), waited / 1_000_000);
    let age = format!("{}.{:03}", ms / 1000, ms % 1000);
    let message = exit["message"].as_str().expect("a text");
    assert!(message.starts_with(&format!("{comm}[")), "{exit}");
    assert!(
        message.ends_with(&format!("] failed to run for {age}s")),
        "{exit}"
    );
    let task = message.split(' ').next().expect("just compared");
    run.ends_saying(
        42,
        &format!(
            "scheduler `drop`: runnable task stall: {message}, task {task} on CPU 0 in no DSQ (the \
             scheduler was given it and keeps it) waited {age} s (SCX_EXIT_ERROR_STALL after {at}, \
             seed 0)"
        ),
    );
}

#[test]
fn a_scheduler_that_leaves_by_itself_ends_with_44_and_its_code() {
    let probe = object("tests/probe");
    let args = [
        "run",
        &probe,
        "-d",
        "1s",
        "--set",
        "leave_at=20",
        "--format",
        "json",
    ];
    let run = harena(&args);
    let exit = &json(&run)["exit"];
    assert_eq!(exit["kind"], "SCX_EXIT_UNREG_BPF");
    assert_eq!(exit["code"], 7);
    let line = format!(
        "scheduler `probe`: unregistered from BPF: probe leaves at enqueue 20 (SCX_EXIT_UNREG_BPF \
         after {}, seed 0)",
        seconds(&exit["at_ns"])
    );
    run.ends_saying(44, &line);
}

#[test]
fn equal_commands_give_equal_digests_and_another_seed_another() {
    let digest = |seed: &str| {
        let run = harena(&["run", "-d", "200ms", "--format", "json", "--seed", seed]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        json(&run)["digest"].as_str().unwrap().to_owned()
    };
    let first = digest("0");
    assert_eq!(first, digest("0"));
    assert_ne!(first, digest("1"));
    assert_eq!(
        first, GOLDEN_DIGEST,
        "the digest is the same in debug and release builds; if the simulation was changed on \
         purpose, so is this constant"
    );
}

#[test]
fn settings_change_the_run() {
    let slices = |set: &[&str]| {
        let run = harena(&[&["run", "-d", "200ms", "--format", "json"], set].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        json(&run)["digest"].as_str().unwrap().to_owned()
    };
    assert_ne!(slices(&[]), slices(&["--set", "slice_ns=1000000"]));
}

#[test]
fn quiet_prints_nothing_and_keeps_the_exit_code() {
    let run = harena(&["run", "-d", "50ms", "--quiet"]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "", "")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let code = harena::with_closed_stdout(&["run", "-d", "50ms"]);
    assert_eq!(code, 0);
}

#[test]
fn inspect_lists_what_an_object_holds_and_what_stands_in_its_way() {
    let list = |name: &str| {
        let run = harena(&["inspect", &object(name), "--format", "json"]);
        assert_eq!(run.code, 0, "{name}: {}", run.stderr);
        json(&run)
    };
    let levels = list("levels");
    assert_eq!(levels["ops"][0]["type"], "sched_ext_ops_cid");
    assert_eq!(levels["ops"][0]["members"][0]["value"], "levels_select_cid");
    assert_eq!(levels["arenas"][0]["pages"], 4096);
    assert_eq!(levels["unsupported"].as_array().map(Vec::len), Some(0));
    assert_eq!(
        list("tests/context")["unsupported"][0]["why"],
        "program `context_running`, insn 5 (scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, \
         SCX_SLICE_DFL_NS, 0); @ context.bpf.c:10): calling kernel function scx_bpf_dsq_insert is \
         not allowed in ops.running"
    );
    assert_eq!(
        list("tests/no_arena")["unsupported"][0]["why"],
        "sched_ext: cid-form scheduler must use a BPF arena map"
    );
}

#[test]
fn what_is_absent_and_asked_for_first_is_not_unsupported() {
    let path = object("tests/weak");
    let list = json(&harena(&["inspect", &path, "--format", "json"]));
    let whats = |key: &str| {
        let entries = list[key].as_array().expect("a documented key").iter();
        let whats = entries.map(|entry| entry["what"].as_str().expect("a text"));
        whats.map(str::to_owned).collect::<Vec<_>>()
    };
    let place = |program, insn, line| {
        format!("program `{program}`, insn {insn} (./bpf/tests/weak.bpf.c:{line})")
    };
    let guarded = [(6, 29), (10, 33), (24, 20)];
    let guarded = guarded.map(|(insn, line)| place("weak_enqueue", insn, line));
    assert_eq!(whats("absent"), guarded);
    assert_eq!(whats("unsupported"), [place("weak_running", 3, 41)]);
    assert_eq!(
        list["absent"][0]["why"],
        "kfunc `scx_bpf_never_was` does not exist in this kernel"
    );
    // A run, which would end there, agrees.
    let run = harena(&["run", &path, "-d", "100ms", "-q"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn keys_of_a_workload_without_effect_are_noted() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/noted.json");
    let text = r#"{"global": {"calibration": "CPU0"}, "tasks": {"a": {"run": 10, "sleep": 10}}}"#;
    std::fs::write(path, text).expect("cargo gives a writable directory");
    let run = harena(&["run", "-w", path, "-d", "10ms"]);
    let note = "`global.calibration`: has no effect in a simulation";
    run.ends_saying(0, &format!("note: workload `{path}`, line 1: {note}"));
}

#[test]
fn allocations_fail_on_purpose_as_the_seed_decides() {
    let run = |which: &str, seed: &str| {
        let options = ["--arena-fail", which, "--seed", seed];
        let fixed = ["run", "-d", "50ms", "--format", "json"];
        harena(&[&fixed[..], &options[..]].concat())
    };
    // The arena's globals, the core's cmasks, and one of `levels`' own at a task's start.
    let globals = "object `embedded levels.bpf.o`: cannot load the object: map `arena`: E2BIG: \
                   globals: allocation 1 was injected to fail";
    run("1", "0").ends_saying(2, globals);
    for (which, message) in [
        ("2", "scx_root_enable() failed (-12)"),
        ("3", "ops.init_task() failed (-12) for interactive-0[1]"),
        ("3+", "ops.init_task() failed (-12) for interactive-0[1]"),
    ] {
        let failed = run(which, "0");
        failed.ends_saying(43, &not_enabled(message));
        assert_eq!(json(&failed)["arena"]["allocs_failed"], 1, "{which}");
    }
    // Beyond the last one nothing changes.
    let beyond = json(&run("1000000", "0"));
    assert_eq!(beyond["digest"], json(&run("1/1000000", "0"))["digest"]);
    assert_eq!(beyond["arena"]["allocs_failed"], 0);
    // Seed 7 refuses the first one.
    run("1/2", "7").ends_saying(2, globals);
    refuses_usage(
        &run("none", "0"),
        "invalid value 'none' for '--arena-fail <WHICH>': `none` names no allocations; try 5, 5+, \
         every:100 or 1/1000",
    );
}

/// What is said where `levels` cannot be enabled.
fn not_enabled(message: &str) -> String {
    format!(
        "scheduler `levels`: runtime error: {message} (SCX_EXIT_ERROR after 0.000000000 s, seed 0)"
    )
}

fn refuses_usage(run: &harena::Run, error: &str) {
    let expected = format!("error: {error}\n\nFor more information, try '--help'.\n");
    assert_eq!((run.code, run.stderr.as_str()), (2, &*expected));
}

#[test]
fn an_arena_limit_is_kept_and_reported() {
    let free = json(&harena(&["run", "-d", "50ms", "--format", "json"]));
    let arena = &free["arena"];
    assert_eq!(arena["limit_pages"], arena["max_pages"]);
    assert_eq!(arena["reports_dropped"], 0);
    let pages = arena["pages"].as_u64().unwrap();
    let run = |limit: &str| {
        let args = [
            "run",
            "-d",
            "50ms",
            "--format",
            "json",
            "--arena-limit",
            limit,
        ];
        harena(&args)
    };
    // What it needs is enough; with less, page allocations give NULL.
    let enough = json(&run(&(pages * 4096).to_string()));
    assert_eq!(enough["digest"], free["digest"]);
    assert_eq!(enough["arena"]["limit_pages"], pages);
    assert_eq!(enough["arena"]["pages"], pages);
    let scarce = run(&format!("{}K", (pages - 1) * 4));
    scarce.ends_saying(
        43,
        &not_enabled("ops.init_task() failed (-12) for hog-heavy-0[33]"),
    );
    let scarce = json(&scarce);
    assert_eq!(scarce["arena"]["pages"], pages - 1);
    assert_ne!(scarce["digest"], free["digest"]);
    run("1").ends_saying(
        2,
        "object `embedded levels.bpf.o`: cannot load the object: map `arena`: E2BIG: globals: 7 \
         pages more exceed the byte limit",
    );
    refuses_usage(
        &run("64X"),
        "invalid value '64X' for '--arena-limit <SIZE>': unknown unit `X` (K, M, G)",
    );
}

#[test]
fn both_engines_give_the_same_results_however_pointers_are_contained() {
    for name in ["fifo", "vtime", "levels", "wild"] {
        let path = object(name);
        let ways: [&[&str]; 4] = [
            &["--engine", "interp"],
            &["--engine", "jit"],
            &["--engine", "interp", "--checked"],
            &["--engine", "jit", "--checked"],
        ];
        let [first, others @ ..] = ways.map(|way| {
            let common = ["run", &path, "-d", "200ms", "--format", "json"];
            let run = harena(&[&common, way].concat());
            assert_eq!(run.code, 0, "{name}, {way:?}: {}", run.stderr);
            assert_eq!(run.stderr, "", "{name}, {way:?}");
            let mut results = json(&run);
            results["wall_ns"] = 0.into();
            results
        });
        for (other, way) in others.iter().zip(&ways[1..]) {
            assert_eq!(first, *other, "{name}, {way:?}");
        }
    }
}

#[test]
fn programs_that_look_on_are_counted_and_those_that_never_fire_are_named() {
    let of = object("tests/trace");
    let args = ["run", &of, "-d", "100ms", "-t", "2c"];
    let run = harena(&args);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let rename = "harena: note: program `on_rename` (tp_btf/task_rename) never fires: \
        the simulation has no tracepoint `task_rename`\n";
    let read = "harena: note: program `on_read` (fentry/vfs_read) never fires: \
        the simulation has no event in function `vfs_read`\n";
    assert_eq!(run.stderr, [rename, read].concat());
    assert!(
        run.stdout.contains("\ntracing     on_switch "),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("\nmissed      on_event 1  on_kfunc "),
        "{}",
        run.stdout
    );
    let quiet = harena(&[&args[..], &["-q"]].concat());
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));

    let attached = harena(
        &[
            &args[..],
            &["--attach", "on_switch_too", "--format", "json"],
        ]
        .concat(),
    );
    let tracing = &json(&attached)["tracing"];
    let of_program = |name: &str| {
        let mut all = tracing.as_array().unwrap().iter();
        all.find(|used| used["program"] == name).unwrap().clone()
    };
    let (first, second) = (of_program("on_switch"), of_program("on_switch_too"));
    assert_eq!(second["section"], "?tp_btf/sched_switch");
    assert!(second["runs"].as_u64().unwrap() > 10);
    assert_eq!(
        (&second["runs"], &second["missed"]),
        (&first["runs"], &first["missed"])
    );
}

#[test]
fn one_that_misbehaves_ends_the_run_as_a_scheduler_error() {
    let of = object("tests/onlookers");
    let run = harena(&["run", &of, "--attach", "leaks", "-d", "1s"]);
    assert_eq!(run.code, 43);
    assert!(
        run.stderr
            .contains("?tp_btf/sched_wakeup: program `leaks`, insn"),
        "{}",
        run.stderr
    );
    // The exit is not its own: the scheduler was unregistered at the end.
    let late = ["run", &of, "--attach", "leaks_late", "-d", "100ms"];
    let run = harena(&late);
    assert_eq!(run.code, 43);
    assert!(run.stdout.contains("SCX_EXIT_UNREG"), "{}", run.stdout);
    let said = "harena: scheduler `onlookers`: program `leaks_late`, insn";
    assert!(run.stderr.starts_with(said), "{}", run.stderr);
    harena(&["run", &of, "--attach", "onlookers_enqueue"]).ends_saying(
        2,
        &format!(
            "object `{of}`: cannot attach `onlookers_enqueue`: programs of type `struct_ops` are \
            attached to nothing"
        ),
    );
}

#[test]
fn inspect_says_where_programs_fire() {
    let of = object("tests/trace");
    let list = json(&harena(&["inspect", &of, "--format", "json"]));
    let programs = list["programs"].as_array().unwrap();
    let program = |name: &str| programs.iter().find(|p| p["name"] == name).unwrap();
    for (name, at) in [
        ("on_switch", "sched_switch"),
        ("on_record_idle", "cpu_idle"),
        ("on_ttwu", "try_to_wake_up is called"),
        ("on_ttwu_probe_returned", "try_to_wake_up returns"),
        ("on_kfunc", "scx_bpf_nr_cpu_ids is called"),
        ("on_switch_too", "sched_switch"),
    ] {
        assert_eq!(program(name)["fires"], at, "{name}");
        assert!(program(name)["never_fires"].is_null(), "{name}");
    }
    let why = "the simulation has no tracepoint `task_rename`";
    assert_eq!(program("on_rename")["never_fires"], why);
    assert!(program("trace_enqueue")["fires"].is_null());
    let unsupported = list["unsupported"].as_array().unwrap();
    let whats: Vec<_> = unsupported.iter().map(|u| &u["what"]).collect();
    assert_eq!(whats, ["program `on_rename`", "program `on_read`"]);
    assert_eq!(unsupported[0]["why"], format!("it never fires: {why}"));
    let text = harena(&["inspect", &of]).stdout;
    let line = text
        .lines()
        .find(|line| line.contains("on_rename"))
        .unwrap();
    assert!(line.ends_with("never"), "{line}");
}
