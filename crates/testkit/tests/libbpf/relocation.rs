//! Relocated instructions of all our objects.

use std::path::{Path, PathBuf};

use harena_bpf::Object;
use harena_bpf::btf::Btf;
use harena_kernel::Kernel;
use harena_testkit::libbpf::{is_refused, relocate, with_kernel_types};

use crate::compare::Sides;
use crate::kernel::{HZ, KCONFIG, types_of};

/// The objects of `bpf/`.
fn objects() -> Vec<PathBuf> {
    let bpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf");
    let mut found = Vec::new();
    for folder in [bpf.clone(), bpf.join("tests"), bpf.join("bench")] {
        let entries = std::fs::read_dir(folder).expect("it is committed");
        let files = entries.map(|entry| entry.expect("an entry").path());
        found.extend(files.filter(|file| file.extension() == Some("o".as_ref())));
    }
    found.sort();
    found
}

/// Parts of an object, which neither loads.
const PARTS: [&str; 3] = ["link_lib.bpf.o", "link_main.bpf.o", "link_table.bpf.o"];
/// What stops libbpf only when all instructions are as they will be: our kernel's types are not
/// those that it creates maps in.
const AFTERWARDS: &str = "failed to create";
/// What stops it in the midst of relocating, before Linux 6.19.
const NO_JUMP_TABLES: &str = "can't create jump table";

#[test]
fn our_objects_are_relocated_as_by_libbpf() {
    let kernel = Kernel::new(HZ);
    let file = types_of(&kernel);
    let types = Btf::parse(&std::fs::read(file.path()).expect("just written")).expect("valid");
    let mut differences = Vec::new();
    let mut compared = 0;
    for path in objects() {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(&path).expect("it is committed");
        let theirs = match with_kernel_types(file.path(), || relocate(&bytes, None, KCONFIG)) {
            Ok(theirs) => theirs,
            Err(reason) => return println!("skipped: libbpf cannot be given a kernel: {reason}"),
        };
        if PARTS.contains(&name.as_str()) {
            assert!(theirs.is_err(), "{name}");
            continue;
        }
        let theirs = theirs.unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(problem) = &theirs.problem {
            if is_refused(problem) {
                return println!("skipped: libbpf needs bpf(2): {problem}");
            }
            if problem.contains(NO_JUMP_TABLES) {
                println!("skipped: {name}: this kernel has no jump tables");
                continue;
            }
            assert!(problem.contains(AFTERWARDS), "{name}: {problem}");
        }
        let object = Object::parse(&name, &bytes).expect("our objects parse");
        let ours = object.link(&kernel).expect("our objects link");
        let sides = Sides {
            ours: &ours,
            theirs: &theirs,
            kernel: &kernel,
            types: &types,
        };
        let comparison = sides.compare();
        println!("{name}: {comparison}");
        compared += comparison.insns;
        let found = comparison.differences.into_iter();
        differences.extend(found.map(|difference| format!("{name}: {difference}")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 5000, "{compared} instructions");
}
