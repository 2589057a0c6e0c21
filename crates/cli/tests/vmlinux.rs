//! Goal: what `harena vmlinux` prints is all that a program needs to know of the kernel's types.
//! Method: compile a scheduler that includes nothing else, load and run it.

mod harena;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harena::{harena, json};

/// Reads a task's fields as `BPF_CORE_READ` does, and one directly.
const SOURCE: &str = r#"
#include "vmlinux.h"
#define SEC(name) __attribute__((section(name), used))

static long (*const bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
extern void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice, u64 flags)
    __attribute__((section(".ksyms")));

#define CORE_READ(dst, src, field) \
    bpf_probe_read_kernel(&(dst), sizeof(dst), __builtin_preserve_access_index(&(src)->field))

u64 nr_equal;
u64 nr_other;

SEC("struct_ops/enqueue")
void enqueue(u64 *ctx)
{
    struct task_struct *p = (struct task_struct *)ctx[0];
    u32 weight = 0;
    s32 pid = 0;

    CORE_READ(weight, p, scx.weight);
    CORE_READ(pid, p, pid);
    if (weight == p->scx.weight && pid == p->pid && pid > 0)
        nr_equal++;
    else
        nr_other++;
    scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, ctx[1]);
}

SEC(".struct_ops.link")
struct sched_ext_ops ops = {
    .enqueue = (void *)enqueue,
    .name = "vmlinux",
};

char _license[] SEC("license") = "GPL";
"#;

fn folder() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vmlinux");
    fs::create_dir_all(&dir).expect("cargo gives a writable directory");
    dir
}

/// Compiles the file beside the header; whether there is a compiler.
fn compile(dir: &Path) -> bool {
    let clang = Command::new("clang-22")
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"])
        .args(["-c", "sched.bpf.c", "-o", "sched.bpf.o"])
        .current_dir(dir)
        .output();
    let Ok(output) = clang else {
        return false;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    true
}

#[test]
fn a_scheduler_that_includes_the_header_reads_the_tasks_it_is_given() {
    let printed = harena(&["vmlinux"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let dir = folder();
    fs::write(dir.join("vmlinux.h"), printed.stdout).unwrap();
    fs::write(dir.join("sched.bpf.c"), SOURCE).unwrap();
    if !compile(&dir) {
        return println!("skipped: clang-22 is not installed");
    }
    let object = dir.join("sched.bpf.o").display().to_string();
    let inspected = harena(&["inspect", &object, "--format", "json"]);
    assert_eq!(json(&inspected)["unsupported"], serde_json::json!([]));
    let run = harena(&["run", &object, "-d", "100ms", "--format", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    let results = json(&run);
    let stats = &results["scheduler"]["stats"];
    assert!(stats["nr_equal"].as_u64().unwrap() > 100, "{stats}");
    assert_eq!(stats["nr_other"], 0, "{stats}");
    assert_eq!(results["violations"], serde_json::json!([]));
}
