//! `cargo xtask objects`: the BPF objects of `bpf/`, which are committed beside their sources.
//!
//! They are committed so that the first `harena run` needs no clang, so they must be reproducible:
//! one clang version, paths relative to the repository, no DWARF. BTF stays, with
//! source lines and their text: clang reads that from the file, so it must be started where the
//! name it records (`./bpf/levels.bpf.c`) leads to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, bail};

use crate::run::{root, run};

/// The compiler whose output is committed.
pub(crate) const CLANG: &str = "clang-22";
/// Removes DWARF, leaves BTF; of the compiler's version.
pub(crate) const STRIP: &str = "llvm-strip-22";

/// What every build of our sources needs.
const FLAGS: [&str; 6] = ["-target", "bpf", "-mcpu=v4", "-g", "-O2", "-Wall"];
/// `gotox` (jump tables) is younger than the kernels that the objects should run on.
const NO_GOTOX: [&str; 2] = ["-mllvm", "-disable-gotox"];
/// The source that is about nothing else, and has it for short `switch` statements, too.
const GOTOX: &str = "tests/jump_tables.bpf.c";
const MORE_GOTOX: [&str; 2] = ["-mllvm", "-bpf-min-jump-table-entries=4"];
const OWN_HEADER_FLAGS: [&str; 5] = [
    "-Wextra",
    "-Wno-unused-parameter",
    "-Werror",
    "-ffile-compilation-dir=.",
    "-Ibpf/include",
];

/// Peers in benchmarks know no later instructions.
const BENCH_FLAG: &str = "-mcpu=v3";

/// Builds every object beside its source.
pub(crate) fn build() -> anyhow::Result<()> {
    let bpf = root().join("bpf");
    for source in sources(&bpf)? {
        let object = object_of(&source);
        compile(&source, &bpf.join(&object))?;
        println!("bpf/{}", object.display());
    }
    Ok(())
}

/// Builds every object elsewhere and fails if one differs from the committed one.
pub(crate) fn check() -> anyhow::Result<()> {
    let bpf = root().join("bpf");
    let built = tempfile::tempdir().context("cannot make a directory for the objects")?;
    let rebuilt = built.path().join("object.o");
    let mut stale = Vec::new();
    let sources = sources(&bpf)?;
    for source in &sources {
        let object = object_of(source);
        compile(source, &rebuilt)?;
        let committed = match fs::read(bpf.join(&object)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| object.display().to_string()),
        };
        if committed != fs::read(&rebuilt).context("cannot read the rebuilt object")? {
            stale.push(format!("bpf/{}", object.display()));
        }
    }
    if !stale.is_empty() {
        bail!(
            "not what the source compiles to (run cargo xtask objects): {}",
            stale.join(", ")
        );
    }
    println!(
        "{} objects are what their sources compile to",
        sources.len()
    );
    Ok(())
}

/// The sources, relative to `bpf`, in a fixed order.
pub(crate) fn sources(bpf: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["", "bench", "tests"] {
        let path = bpf.join(folder);
        let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
        for entry in entries {
            let name = PathBuf::from(entry.context("cannot read a directory entry")?.file_name());
            if name.to_string_lossy().ends_with(".bpf.c") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a source, named from `bpf`, is compiled with whatever its headers are.
pub(crate) fn flags(source: &Path) -> impl Iterator<Item = &'static str> {
    let tables = if source == Path::new(GOTOX) {
        MORE_GOTOX
    } else {
        NO_GOTOX
    };
    FLAGS.into_iter().chain(tables)
}

fn object_of(source: &Path) -> PathBuf {
    source.with_extension("o")
}

fn compile(source: &Path, object: &Path) -> anyhow::Result<()> {
    run(Command::new(CLANG)
        .current_dir(root())
        .args(flags(source))
        .args(OWN_HEADER_FLAGS)
        .args(source.starts_with("bench").then_some(BENCH_FLAG))
        .arg("-c")
        .arg(Path::new("bpf").join(source))
        .arg("-o")
        .arg(object))?;
    run(Command::new(STRIP).arg("-g").arg(object))
}
