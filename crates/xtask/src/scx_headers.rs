//! `cargo xtask scx-headers`: our BPF sources against other people's headers.
//!
//! Schedulers in the wild are built against the headers and the `vmlinux.h` that the scx project
//! publishes in `scx_cargo`. Ours must compile against those too, and the objects must run here.
//! cargo fetches the crate into its own cache for a throw-away package; nothing of it is copied
//! into this repository, and none of its code runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::objects::{CLANG, STRIP, flags, sources};
use crate::run::{cargo, output, root, run};

const SCX_CARGO: &str = "1.1.4";
/// The kernel whose types are used.
const VMLINUX: &str = "vmlinux/arch/x86/vmlinux-v7.3-";
const WARNINGS: [&str; 2] = [
    "-Wno-compare-distinct-pointer-types",
    "-Wno-missing-declarations",
];

/// Compiles every source against the published headers and runs the schedulers among them.
pub(crate) fn check() -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("cannot make a directory for the headers")?;
    let headers = Headers::fetch(work.path())?;
    let bpf = root().join("bpf");
    let sources = sources(&bpf)?;
    let mut schedulers = Vec::new();
    for source in &sources {
        let name = source.file_stem().context("a source has no name")?;
        let object = work.path().join(name).with_extension("o");
        headers.compile(&bpf, source, &object)?;
        if source.parent() == Some(Path::new("")) {
            schedulers.push(object);
        }
    }
    println!(
        "{} sources compile against scx_cargo {SCX_CARGO}",
        sources.len()
    );
    for object in &schedulers {
        simulate(object)?;
    }
    println!("{} schedulers built that way run", schedulers.len());
    Ok(())
}

/// Runs a scheduler to the end of a short simulation.
fn simulate(object: &Path) -> anyhow::Result<()> {
    let run = [
        "run",
        "--quiet",
        "--package",
        "harena-cli",
        "--",
        "run",
        "-d",
        "500ms",
        "--format",
        "json",
    ];
    let results: serde_json::Value = serde_json::from_slice(&output(cargo(&run).arg(object))?)?;
    let (kind, sim_ns) = (&results["exit"]["kind"], &results["sim_ns"]);
    if kind != "SCX_EXIT_UNREG" || sim_ns != 500_000_000 {
        bail!("{} ended with {kind} after {sim_ns} ns", object.display());
    }
    Ok(())
}

/// Where the published headers are.
struct Headers {
    /// `bpf_h` of `scx_cargo`, in cargo's cache.
    scx: PathBuf,
    /// Holds `vmlinux.h`, and libbpf's headers below `bpf/`.
    own: PathBuf,
}

impl Headers {
    fn fetch(work: &Path) -> anyhow::Result<Self> {
        let package = work.join("fetch");
        fs::create_dir(&package)?;
        let manifest = package.join("Cargo.toml");
        fs::write(
            &manifest,
            format!(
                "[package]\nname = \"fetch\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
                 [dependencies]\nscx_cargo = \"={SCX_CARGO}\"\n[workspace]\n"
            ),
        )?;
        fs::write(package.join("lib.rs"), "")?;
        let metadata = output(Command::new("cargo").current_dir(&package).args([
            "metadata",
            "--format-version",
            "1",
            "--quiet",
        ]))?;
        let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
        let scx_cargo = folder_of(&metadata, "scx_cargo")?;
        let libbpf = folder_of(&metadata, "libbpf-sys")?.join("libbpf/src");

        let own = work.join("headers");
        fs::create_dir_all(own.join("bpf"))?;
        for entry in fs::read_dir(&libbpf).context("libbpf-sys brings no headers")? {
            let path = entry?.path();
            if let Some(name) = path
                .file_name()
                .filter(|_| path.extension() == Some("h".as_ref()))
            {
                fs::copy(&path, own.join("bpf").join(name))?;
            }
        }
        unpack_vmlinux(&scx_cargo.join("vmlinux.tar.zst"), &own.join("vmlinux.h"))?;
        Ok(Self {
            scx: scx_cargo.join("bpf_h"),
            own,
        })
    }

    fn compile(&self, bpf: &Path, source: &Path, object: &Path) -> anyhow::Result<()> {
        run(Command::new(CLANG)
            .current_dir(bpf)
            .args(flags(source))
            .args(WARNINGS)
            .args(["-DHARENA_SCX_HEADERS", "-D__TARGET_ARCH_x86"])
            .arg("-I")
            .arg(&self.own)
            .arg("-I")
            .arg(&self.scx)
            .arg("-I")
            .arg(self.scx.join("bpf-compat"))
            .arg("-Iinclude")
            .args(["-idirafter", "/usr/include"])
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(object))?;
        run(Command::new(STRIP).arg("-g").arg(object))
    }
}

/// Where cargo keeps the sources of the package `name`.
fn folder_of(metadata: &serde_json::Value, name: &str) -> anyhow::Result<PathBuf> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("cargo fetched no {name}"))?;
    Ok(Path::new(manifest)
        .parent()
        .context("a manifest has a folder")?
        .to_path_buf())
}

fn unpack_vmlinux(archive: &Path, to: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(archive).with_context(|| archive.display().to_string())?;
    let mut archive = tar::Archive::new(ruzstd::decoding::StreamingDecoder::new(file)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_string_lossy().starts_with(VMLINUX) {
            entry.unpack(to)?;
            return Ok(());
        }
    }
    bail!("{VMLINUX}*.h is not in the archive");
}
