//! Goal: the reports read as documented, and no string of a foreign file reaches the
//! terminal raw.
//! Method: one small invented run and object, compared with their committed text and JSON.

use harena_report::{
    ArenaInfo, ArenaUse, Counts, CpuUse, Exit, ExternInfo, Group, Inspection, Latency, Machine,
    MapInfo, OpInfo, OpsInfo, Output, ProgramInfo, Results, Scheduler, SourceLine, Stall, Tracing,
    Unsupported, Violation, Workload,
};

const KEYS: [&str; 15] = [
    "scheduler",
    "machine",
    "workload",
    "seed",
    "exit",
    "digest",
    "events",
    "sim_ns",
    "wall_ns",
    "groups",
    "cpus",
    "callbacks",
    "tracing",
    "arena",
    "violations",
];

/// A program that looks on, or never runs.
fn onlooker(fires: Option<&str>, never_fires: Option<&str>) -> ProgramInfo {
    ProgramInfo {
        name: "looks".to_owned(),
        section: "?tp_btf/looks".to_owned(),
        kind: "tracing".to_owned(),
        insns: Some(2),
        autoload: false,
        fires: fires.map(str::to_owned),
        never_fires: never_fires.map(str::to_owned),
    }
}

fn counts(of: &[(&str, u64)]) -> Counts {
    Counts(of.iter().map(|&(name, n)| (name.to_owned(), n)).collect())
}

fn cpu(cpu: u32, cpus_per_llc: u32, busy_ns: u64) -> CpuUse {
    let (core, llc) = (cpu / 2, cpu / cpus_per_llc);
    CpuUse {
        cpu,
        core,
        llc,
        node: 0,
        task_ns: busy_ns,
        overhead_ns: 12_300_000,
        switches: 1_000 + u64::from(cpu),
        ticks: 1_000,
        ipis: 77,
    }
}

fn groups() -> Vec<Group> {
    vec![
        Group {
            name: "web".to_owned(),
            tasks: 4,
            exited: 1,
            forks_failed: 0,
            runtime_ns: 812_345_678,
            wakeups: 40_000,
            wakeup_latency: Latency {
                count: 40_000,
                mean_ns: 5_000,
                p50_ns: 3_210,
                p90_ns: 9_990,
                p99_ns: 120_500,
                p999_ns: 2_000_000,
                max_ns: 20_100_000,
            },
            switches: 41_000,
            migrations: 512,
        },
        Group {
            name: "batch".to_owned(),
            tasks: 2,
            runtime_ns: 1_500_000_000,
            switches: 101,
            ..Group::default()
        },
    ]
}

fn results() -> Results {
    Results {
        scheduler: Scheduler {
            name: "levels".to_owned(),
            object: "embedded".to_owned(),
            form: "cid".to_owned(),
            flags: 0x102,
            timeout_ms: 5_000,
            insns: 1_234_567,
            stats: counts(&[("nr_direct", 1_200), ("nr_stolen", 34)]),
            core_events: counts(&[("SCX_EV_REFILL_SLICE_DFL", 3)]),
            violations_dropped: 0,
            output: Vec::new(),
        },
        machine: Machine {
            topology: "1n1l2c2t".to_owned(),
            nodes: 1,
            llcs: 1,
            cores: 2,
            cpus: 4,
        },
        workload: Workload {
            name: "mixed".to_owned(),
            groups: 2,
            tasks: 6,
        },
        seed: 42,
        exit: Exit {
            kind: "SCX_EXIT_UNREG".to_owned(),
            reason: "unregistered from user space".to_owned(),
            at_ns: 1_000_000_000,
            ..Exit::default()
        },
        digest: "0123456789abcdef0123456789abcdef".to_owned(),
        events: 250_000,
        sim_ns: 1_000_000_000,
        wall_ns: 500_000_000,
        groups: groups(),
        cpus: (0..4)
            .map(|n| cpu(n, 4, 578_000_000 + u64::from(n)))
            .collect(),
        callbacks: counts(&[
            ("select_cid", 40_000),
            ("enqueue", 1_234),
            ("dispatch", 8_192),
        ]),
        tracing: [("on_switch", 2_400, 0), ("on_tick", 12, 3)]
            .map(|(program, runs, missed)| Tracing {
                program: program.to_owned(),
                section: format!("tp_btf/{program}"),
                runs,
                missed,
            })
            .to_vec(),
        arena: ArenaUse {
            pages: 12,
            max_pages: 65_536,
            faults_recovered: 0,
            limit_pages: 65_536,
            reports_dropped: 0,
            allocs_failed: 0,
        },
        violations: Vec::new(),
    }
}

fn hostile() -> Results {
    let evil = "\x1b[2Jx\r\n\u{202e}y";
    let mut r = results();
    r.scheduler.name = evil.to_owned();
    r.scheduler.object = evil.to_owned();
    r.scheduler.stats = counts(&[(evil, 1)]);
    r.workload.name = evil.to_owned();
    r.groups[0].name = evil.to_owned();
    r.exit = Exit {
        kind: "SCX_EXIT_ERROR_BPF".to_owned(),
        code: 7,
        message: evil.to_owned(),
        reason: "scx_bpf_error".to_owned(),
        at_ns: 123_456_789,
        stall: Some(Stall {
            task: 12,
            comm: evil.to_owned(),
            cpu: 3,
            dsq: None,
            waited_ns: 2_001_000_000,
        }),
        dump: format!("CPU states\n----------\n\x1b[31m{evil}"),
    };
    r.arena.faults_recovered = 9;
    r.violations = vec![Violation {
        program: evil.to_owned(),
        function: evil.to_owned(),
        kind: "arena".to_owned(),
        access: "WRITE".to_owned(),
        address: 0x1_0000_7008,
        insn: 17,
        source: Some(SourceLine {
            file: evil.to_owned(),
            line: 33,
            text: format!("\t{evil}"),
        }),
        count: 9,
    }];
    r
}

fn assert_no_controls(text: &str) {
    let controls = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert_eq!(text.find(controls), None, "{text:?}");
}

#[test]
fn text_of_a_fine_run() {
    insta::assert_snapshot!(results().to_text());
}

#[test]
fn text_of_a_hostile_run_holds_no_control_characters() {
    let text = hostile().to_text();
    assert_no_controls(&text);
    insta::assert_snapshot!(text);
}

#[test]
fn many_cpus_are_summed_by_llc() {
    let mut r = results();
    r.cpus = (0..64)
        .map(|n| cpu(n, 16, u64::from(n) * 10_000_000))
        .collect();
    insta::assert_snapshot!(r.to_text());
}

#[test]
fn many_violations_are_cut_in_text_and_whole_in_json() {
    let mut r = hostile();
    let one = r.violations[0].clone();
    r.violations = vec![one; 25];
    r.scheduler.violations_dropped = 1_234;
    assert!(
        r.to_text()
            .contains("… and 5 more places; --format json lists them")
    );
    assert!(r.to_text().contains("… and 1,234 at places beyond these"));
    let json: serde_json::Value = serde_json::from_str(&r.to_json()).unwrap();
    assert_eq!(json["violations"].as_array().unwrap().len(), 25);
}

#[test]
fn what_programs_printed_is_quoted_and_cut() {
    let mut r = results();
    let lines: String = (0..30).map(|n| format!("line {n}\n")).collect();
    r.scheduler.output = vec![
        Output {
            program: "levels_enqueue".to_owned(),
            stream: "stderr".to_owned(),
            text: lines,
        },
        Output {
            program: String::new(),
            stream: "trace".to_owned(),
            text: "hello \x1b[31m".to_owned(),
        },
    ];
    let text = r.to_text();
    assert!(text.contains("\noutput      stderr of levels_enqueue\n  | line 0\n"));
    assert!(text.contains("  | line 11\n  … and 18 more lines; --format json has all\n"));
    assert!(text.contains("\noutput      trace\n  | hello "));
    assert!(!text.contains('\x1b'));
    assert!(r.to_json().contains("line 29"));
}

#[test]
fn a_long_dump_is_cut_in_text() {
    let mut r = hostile();
    r.exit.dump = "line\n".repeat(100);
    let text = r.to_text();
    assert_eq!(text.matches("  | line\n").count(), 40);
    assert!(text.contains("… and 60 more lines; --format json has all"));
}

#[test]
fn json_has_the_documented_keys_in_order() {
    let json = results().to_json();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), KEYS.len());
    assert!(KEYS.iter().all(|key| object.contains_key(*key)));
    for (key, subkeys) in [
        ("exit", &["kind", "code", "message"][..]),
        ("arena", &["pages", "faults_recovered"]),
    ] {
        for subkey in subkeys {
            assert!(value[key].get(subkey).is_some(), "{key}.{subkey}");
        }
    }
    insta::assert_snapshot!(json);
}

#[test]
fn results_of_nothing_can_be_shown() {
    let nothing = Results::default();
    assert!(nothing.to_text().contains("violations  none"));
    assert_no_controls(&nothing.to_json());
}

fn inspection() -> Inspection {
    let op = |member: &str, value: &str| OpInfo {
        member: member.to_owned(),
        value: value.to_owned(),
    };
    Inspection {
        absent: Vec::new(),
        code: None,
        object: "x\x1b[31m.bpf.o".to_owned(),
        license: "GPL".to_owned(),
        ops: vec![OpsInfo {
            variable: "levels_ops".to_owned(),
            type_name: "sched_ext_ops_cid".to_owned(),
            scalars: vec![op("name", "\"levels\""), op("timeout_ms", "5000")],
            members: vec![op("select_cid", "levels_select_cid")],
        }],
        programs: vec![ProgramInfo {
            name: "levels_select_cid".to_owned(),
            section: "struct_ops/levels_select_cid".to_owned(),
            kind: "struct_ops".to_owned(),
            insns: Some(1_234),
            autoload: true,
            ..ProgramInfo::default()
        }]
        .into_iter()
        .chain([
            onlooker(Some("sched_switch"), None),
            onlooker(None, Some("no such place")),
        ])
        .collect(),
        maps: vec![MapInfo {
            name: "arena".to_owned(),
            kind: "arena".to_owned(),
            max_entries: 65_536,
            flags: 0x400,
            ..MapInfo::default()
        }],
        arenas: vec![ArenaInfo {
            map: "arena".to_owned(),
            pages: 65_536,
            user_vm_start: 0x1_0000_0000,
            globals_size: 4_096,
        }],
        kfuncs: vec![ExternInfo {
            name: "scx_bpf_kick_cid".to_owned(),
            weak: true,
            resolved: true,
        }],
        externs: vec![ExternInfo {
            name: "LINUX_KERNEL_VERSION".to_owned(),
            weak: false,
            resolved: true,
        }],
        unsupported: vec![Unsupported {
            what: "program `probe`".to_owned(),
            why: "type `kprobe` is not run here; it is left out".to_owned(),
        }],
    }
}

#[test]
fn inspection_as_text_and_json() {
    let text = inspection().to_text();
    assert_no_controls(&text);
    insta::assert_snapshot!(text);
    let json: serde_json::Value = serde_json::from_str(&inspection().to_json()).unwrap();
    assert_eq!(json["programs"][0]["type"], "struct_ops");
    assert_eq!(json["ops"][0]["type"], "sched_ext_ops_cid");
}

#[test]
fn an_empty_inspection_can_be_shown() {
    assert!(Inspection::default().to_text().contains("unsupported none"));
}

#[test]
fn a_limit_and_dropped_reports_are_shown_if_there_are_any() {
    let mut r = results();
    r.arena.limit_pages = 100;
    r.arena.reports_dropped = 1_234;
    r.arena.allocs_failed = 1;
    let expected = "arena       12 of 65,536 pages in use, 0 faults recovered, \
        1,234 reports dropped, 1 allocation failed on purpose, limit 100 pages\n";
    assert!(r.to_text().contains(expected), "{}", r.to_text());
}
