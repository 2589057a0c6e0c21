//! What is refused at load, and in which words.

use harena_abi::Errno;
use harena_bpf::KernelSymbols;
use harena_kernel::{BpfScheduler, Kernel, LoadError, LoadOptions, LoadedObject, vmlinux_h};
use harena_sim::parse_topology;

use crate::support::{load_error, object, options};

#[test]
fn every_scheduler_of_ours_loads() {
    let topology = parse_topology("1n1l4c2t").unwrap();
    for name in [
        "fifo",
        "vtime",
        "levels",
        "wild",
        "tests/drop",
        "tests/probe",
        "tests/cmask",
    ] {
        let loaded = BpfScheduler::load(object(name), &LoadOptions::default(), &topology);
        let (scheduler, _image) = loaded.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(scheduler.never_called(), [""; 0], "{name}");
    }
}

#[test]
fn a_cid_form_scheduler_without_an_arena_is_refused() {
    let error = load_error("tests/no_arena");
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    assert_eq!(
        error.to_string(),
        "sched_ext: cid-form scheduler must use a BPF arena map"
    );
}

#[test]
fn a_kfunc_in_the_wrong_callback_is_refused_with_its_line() {
    let error = load_error("tests/context");
    assert!(matches!(error, LoadError::Verify(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("program `context_running`"), "{text}");
    assert!(
        text.contains("calling kernel function scx_bpf_dsq_insert is not allowed in ops.running"),
        "{text}"
    );
    assert!(text.contains("context.bpf.c:"), "{text}");
}

#[test]
fn settings_of_unknown_names_are_refused() {
    let topology = parse_topology("1n1l1c1t").unwrap();
    let options = options(&[("no_such_global", "1")]);
    let error = BpfScheduler::load(object("fifo"), &options, &topology).expect_err("must fail");
    assert!(matches!(&error, LoadError::Set { path, .. } if path == "no_such_global"));
}

#[test]
fn the_header_declares_what_programs_are_linked_against() {
    let header = vmlinux_h();
    for text in [
        "struct task_struct {",
        "struct sched_ext_entity scx;",
        "SCX_DSQ_LOCAL_ON = 0xc000000000000000",
        "int (*select_cpu)(struct task_struct *p, int prev_cpu, unsigned long wake_flags);",
    ] {
        assert!(header.contains(text), "`{text}` is missing from:\n{header}");
    }
}

#[test]
fn kernel_configuration_is_that_of_7_3() {
    use harena_bpf::KconfigValue::{No, Number, Yes};
    let kernel = Kernel::new(250);
    assert_eq!(
        kernel.kconfig("LINUX_KERNEL_VERSION"),
        Some(Number(0x07_0300))
    );
    assert_eq!(kernel.kconfig("CONFIG_HZ"), Some(Number(250)));
    assert_eq!(kernel.kconfig("CONFIG_X86_64"), Some(Yes));
    assert_eq!(kernel.kconfig("CONFIG_PREEMPT_RCU"), Some(No));
    assert_eq!(kernel.kconfig("CONFIG_NO_SUCH_THING"), None);
}

#[test]
fn programs_with_objects_dynptrs_and_strings_load() {
    for name in ["owned", "disowned", "dynptr", "strings"] {
        let object = object(&format!("tests/{name}"));
        let loaded = LoadedObject::load(object, &LoadOptions::default()).unwrap();
        assert!(loaded.programs().count() > 0);
    }
}

#[test]
fn the_header_compiles() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let source = format!(
        "{}\nu64 f(struct task_struct *p) {{ return p->scx.slice + sizeof(struct rq); }}\n",
        vmlinux_h()
    );
    let clang = Command::new("clang-22")
        .args([
            "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-x", "c", "-",
        ])
        .args(["-S", "-o", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut clang) = clang else {
        println!("skipped: clang-22 is not installed");
        return;
    };
    let mut stdin = clang.stdin.take().unwrap();
    stdin.write_all(source.as_bytes()).unwrap();
    drop(stdin);
    let output = clang.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
