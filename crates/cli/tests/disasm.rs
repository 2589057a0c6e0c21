//! Goal: `harena inspect --disasm` shows every instruction, and for each memory access what the
//! compiler does about it.
//! Method: start the built binary on our objects; compare parts of the list with what is known of
//! their sources, and the list as a whole with itself.

mod harena;

use std::collections::BTreeMap;

use harena::{harena, json, object};
use serde_json::Value;

fn code(args: &[&str]) -> Vec<Value> {
    let more = ["inspect", "--format", "json"];
    let run = harena(&[&more[..], args].concat());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?}");
    let code = &json(&run)["code"];
    code.as_array().expect("it was asked for").clone()
}

fn insns(program: &Value) -> &Vec<Value> {
    program["insns"].as_array().expect("a documented key")
}

/// How many accesses there are of each sort.
fn accesses(programs: &[Value]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for insn in programs.iter().flat_map(insns) {
        if let Some(access) = insn["access"].as_str() {
            *counts.entry(access.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn an_instruction_has_its_text_names_line_and_access() {
    let run = harena(&["inspect", "--disasm", &object("tests/syscall")]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let expected = "
code        add

  add: 0 bytes of stack
  ; ./bpf/tests/syscall.bpf.c:21: ctx->out = ctx->in + step;
     [9]     0  r2 = *(u64 *)(r1 + 0)                     proven
             1  r3 = map_value(0, 0) ll                   # step
             3  r4 = *(u64 *)(r3 + 0)                     proven
             4  r4 += r2
             5  *(u64 *)(r1 + 8) = r4                     proven
  ; ./bpf/tests/syscall.bpf.c:22: bpf_trace_printk(format, sizeof(format), step);
             6  r3 = *(u64 *)(r3 + 0)                     proven
             7  r1 = map_value(0, 8) ll                   # add.format
             9  w2 = 11
            10  call 6                                    # bpf_trace_printk
  ; ./bpf/tests/syscall.bpf.c:23: return -22;
     [2]    11  w0 = -22
            12  exit
";
    assert!(run.stdout.contains(expected), "{}", run.stdout);
    for part in [
        "  endless: 0 bytes of stack\n",
        "     [1]     1  goto -1                                   # to 1\n",
        "  # scx_bpf_dsq_insert\n",
        "\nunsupported 2\n",
    ] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
}

#[test]
fn accesses_are_contained_as_the_containment_says() {
    let levels = object("levels");
    let masked = accesses(&code(&["--disasm", &levels]));
    let checked = accesses(&code(&["--disasm", "--checked", &levels]));
    assert!(masked["arena"] > 100, "{masked:?}");
    assert!(masked["frame"] > 10, "{masked:?}");
    assert!(masked["proven"] > 10, "{masked:?}");
    assert_eq!(masked["masked"], checked["bound"]);
    assert!(!masked.contains_key("bound"), "{masked:?}");
    assert!(!checked.contains_key("masked"), "{checked:?}");
    for same in ["arena", "frame", "proven"] {
        assert_eq!(masked[same], checked[same], "{same}");
    }
    // Fetching bit operations are loops on this machine: the host makes them.
    let faults = accesses(&code(&["--disasm", &object("tests/arena_fault")]));
    assert!(faults["host"] > 0, "{faults:?}");
}

#[test]
fn each_slot_is_listed_once_and_blocks_hold_them_all() {
    for name in ["levels", "wild", "tests/arena_slab"] {
        for program in code(&["--disasm", &object(name)]) {
            let of_blocks = |insn: &Value| insn["block"].as_u64().unwrap_or(0);
            let in_blocks: u64 = insns(&program).iter().map(of_blocks).sum();
            // The last block ends where execution would fall off.
            let count = insns(&program).len() as u64;
            assert!((count..=count + 1).contains(&in_blocks), "{name}");
            for function in program["functions"].as_array().unwrap() {
                assert!(function["stack"].as_u64().unwrap() <= 512, "{name}");
                let at = |insn: &&Value| insn["slot"] == function["start"];
                let first = insns(&program).iter().find(at).unwrap();
                assert!(first["block"].is_number(), "{name}: {function}");
            }
        }
    }
}

#[test]
fn machine_code_is_whole_and_the_same_each_time() {
    let args = ["--disasm=native", &object("levels")];
    let first = code(&args);
    assert_eq!(first, code(&args));
    for program in &first {
        let outside = &program["native"];
        let mut parts = vec![&outside["entry"], &outside["shared"]];
        for insn in insns(program) {
            parts.push(&insn["native"]["code"]);
            parts.push(&insn["native"]["rare"]);
        }
        let all = parts.iter().flat_map(|part| part.as_array().unwrap());
        let mut ranges: Vec<(u64, u64)> = all
            .map(|insn| {
                let len = insn["bytes"].as_str().unwrap().len() as u64 / 2;
                (insn["offset"].as_u64().unwrap(), len)
            })
            .collect();
        ranges.sort_unstable();
        assert_eq!(ranges[0].0, 0, "code begins at the entry");
        let gaps = ranges
            .windows(2)
            .filter(|two| two[0].0 + two[0].1 != two[1].0);
        // What lies behind the last instruction of a program belongs to none of the list.
        assert!(gaps.count() <= 2);
    }
}

#[test]
fn wrong_uses_are_refused() {
    let run = harena(&["inspect", "--checked", &object("fifo")]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--disasm"), "{}", run.stderr);
    let path = object("fifo");
    assert_eq!(harena(&["inspect", "--disasm=x86", &path]).code, 2);
}
