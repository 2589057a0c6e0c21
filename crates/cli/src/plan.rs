//! What the arguments mean: every file read, every default decided, every value checked.
//!
//! A plan needs nothing else of the outside world. Whatever is wrong with the command line
//! or its files is found here or while loading, before anything runs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use harena_arena::FailedAllocs;
use harena_bpf::{GlobalValue, ObjectFile, link_objects};
use harena_scx::Topology;
use harena_sim::{SimConfig, Workload};
use harena_vm::{Containment, Engine};

use crate::args::{
    Disasm, EngineName, ExecutionArgs, Format, InspectArgs, LinkArgs, ProgRunArgs, RunArgs,
};
use crate::failures::Failing;

/// Larger files are no objects, workloads or topologies, and would only fill the memory.
const FILE_SIZE_MAX: u64 = 64 << 20;

/// A file's contents and what to call it.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path, or a word that says it is embedded.
    pub(crate) name: String,
    /// Its contents.
    pub(crate) bytes: Vec<u8>,
}

impl Source {
    fn read(path: &Path, what: &str) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let cannot_read = || format!("cannot read {what} `{name}`");
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes))
            .with_context(cannot_read)?;
        if bytes.len() as u64 > FILE_SIZE_MAX {
            bail!("{what} `{name}` is larger than {} MiB", FILE_SIZE_MAX >> 20);
        }
        Ok(Self { name, bytes })
    }

    /// The file at the only path, what the files at several become, or the embedded object.
    fn object(paths: &[PathBuf]) -> anyhow::Result<Self> {
        match paths {
            [path] => Self::read(path, "object"),
            [] => Ok(Self {
                name: "embedded levels.bpf.o".to_owned(),
                bytes: include_bytes!("../../../bpf/levels.bpf.o").to_vec(),
            }),
            several => Self::linked(several),
        }
    }

    /// The files at these paths, linked to one object.
    fn linked(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let sources = paths.iter().map(|path| Self::read(path, "object"));
        let sources = sources.collect::<anyhow::Result<Vec<_>>>()?;
        let files: Vec<_> = sources
            .iter()
            .map(|Self { name, bytes }| ObjectFile { name, bytes })
            .collect();
        let names: Vec<_> = files.iter().map(|file| file.name).collect();
        Ok(Self {
            bytes: link_objects(&files).context("objects cannot be linked")?,
            name: names.join(" + "),
        })
    }
}

/// A value for a global variable or a member of the ops table. Whether there is such a
/// name, and whether the value fits, only the object can say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    /// Its name, with members and indices: `topo.nr_cpus`, `weights[3]`, `ops.flags`.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: GlobalValue,
}

impl Setting {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((name, value)) = text.split_once('=') else {
            bail!("--set `{text}` has no `=`; try --set slice_ns=5000000");
        };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() {
            bail!("--set `{text}` has no name before its `=`");
        }
        Ok(Self {
            name: name.to_owned(),
            value: GlobalValue::from_text(value),
        })
    }
}

/// A run, decided in every detail.
#[derive(Debug)]
pub(crate) struct RunPlan {
    /// The scheduler.
    pub(crate) object: Source,
    /// What the machine is called: its short form, or the path of its file.
    pub(crate) topology: String,
    /// Machine, load, simulated time and seed.
    pub(crate) sim: SimConfig,
    /// Bytes that the arena may have in use.
    pub(crate) arena_limit: Option<u64>,
    /// Allocations of the arena that fail on purpose.
    pub(crate) arena_fail: FailedAllocs,
    /// Programs to attach that are marked not to be.
    pub(crate) attach: Vec<String>,
    /// How its programs are executed.
    pub(crate) execution: Execution,
    /// How to report.
    pub(crate) report: Report,
}

/// How the programs of an object are executed.
#[derive(Debug)]
pub(crate) struct Execution {
    /// Values to set before, in the order given.
    pub(crate) settings: Vec<Setting>,
    /// What executes them.
    pub(crate) engine: Engine,
    /// What keeps their accesses inside.
    pub(crate) containment: Containment,
    /// Whether `perf` is told.
    pub(crate) perf_map: PerfMap,
}

impl Execution {
    fn new(args: &ExecutionArgs) -> anyhow::Result<Self> {
        let settings = args.settings.iter().map(|text| Setting::parse(text));
        Ok(Self {
            settings: settings.collect::<anyhow::Result<_>>()?,
            engine: match args.engine {
                EngineName::Interp => Engine::Interpreter,
                EngineName::Jit => Engine::Jit,
            },
            containment: containment(args.checked),
            perf_map: if args.perf_map {
                PerfMap::Write
            } else {
                PerfMap::None
            },
        })
    }
}

/// Whether to tell `perf` where machine code lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PerfMap {
    /// It is not asked for.
    None,
    /// Write the file.
    Write,
}

/// What to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    /// Failures only.
    Nothing,
    /// Results.
    Results(Format),
}

impl RunPlan {
    /// The plan that `args` amount to.
    pub(crate) fn new(args: RunArgs) -> anyhow::Result<Self> {
        let execution = Execution::new(&args.execution)?;
        let topology = topology(&args.topology)?;
        let workload = workload(args.workload.as_deref(), &topology)?;
        let mut sim = SimConfig::new(topology, workload);
        sim.seed = args.seed;
        sim.duration = args.duration.unwrap_or(sim.duration);
        Ok(Self {
            object: Source::object(&args.objects)?,
            topology: args.topology,
            sim,
            arena_limit: args.arena_limit,
            arena_fail: match args.arena_fail {
                None => FailedAllocs::None,
                Some(Failing::Nth(number)) => FailedAllocs::Nth(number),
                Some(Failing::From(number)) => FailedAllocs::From(number),
                Some(Failing::Every(count)) => FailedAllocs::Every(count),
                Some(Failing::OneIn(count)) => FailedAllocs::OneIn {
                    count,
                    seed: args.seed,
                },
            },
            attach: args.attach,
            execution,
            report: if args.quiet {
                Report::Nothing
            } else {
                Report::Results(args.format)
            },
        })
    }
}

const fn containment(checked: bool) -> Containment {
    if checked {
        Containment::Check
    } else {
        Containment::Mask
    }
}

/// The workload in the file at `path`, or the embedded one in the machine's size.
fn workload(path: Option<&Path>, topology: &Topology) -> anyhow::Result<Workload> {
    let Some(path) = path else {
        return Ok(Workload::mixed().scaled_to(topology.nr_cpus()));
    };
    let source = Source::read(path, "workload")?;
    Workload::parse(&source.name, &source.bytes)
        .with_context(|| format!("workload `{}`", source.name))
}

/// The machine of this name. What looks like a path is one: short forms hold letters and
/// digits only.
fn topology(name: &str) -> anyhow::Result<Topology> {
    let path = Path::new(name);
    if name.chars().all(|c| c.is_ascii_alphanumeric()) && !path.is_file() {
        return Ok(harena_sim::parse_topology(name)?);
    }
    let source = Source::read(path, "topology")?;
    harena_sim::parse_topology_file(&source.bytes).with_context(|| format!("topology `{name}`"))
}

/// A run of one program.
#[derive(Debug)]
pub(crate) struct ProgRunPlan {
    /// The object.
    pub(crate) object: Source,
    /// The program in it.
    pub(crate) program: String,
    /// What it is given.
    pub(crate) context: Vec<u8>,
    /// Where to write what it made of that: created before anything runs.
    pub(crate) context_to: Option<(String, File)>,
    /// How it is executed.
    pub(crate) execution: Execution,
    /// How to report.
    pub(crate) format: Format,
}

impl ProgRunPlan {
    /// The plan that `args` amount to.
    pub(crate) fn new(args: ProgRunArgs) -> anyhow::Result<Self> {
        let execution = Execution::new(&args.execution)?;
        let object = Source::object(std::slice::from_ref(&args.object))?;
        let context = match &args.data_in {
            None => Vec::new(),
            Some(path) => Source::read(path, "context")?.bytes,
        };
        let create = |path: &Path| {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("cannot write `{name}`"))?;
            anyhow::Ok((name, file))
        };
        Ok(Self {
            object,
            program: args.name,
            context,
            context_to: args.data_out.as_deref().map(create).transpose()?,
            execution,
            format: args.format,
        })
    }
}

/// An inspection.
#[derive(Debug)]
pub(crate) struct InspectPlan {
    /// What to inspect.
    pub(crate) object: Source,
    /// Whether to show instructions, and how far down.
    pub(crate) disasm: Option<Disasm>,
    pub(crate) containment: Containment,
    /// How to report.
    pub(crate) format: Format,
}

impl InspectPlan {
    /// The plan that `args` amount to.
    pub(crate) fn new(args: &InspectArgs) -> anyhow::Result<Self> {
        Ok(Self {
            object: Source::object(&args.objects)?,
            disasm: args.disasm,
            containment: containment(args.checked),
            format: args.format,
        })
    }
}

/// Objects to link.
#[derive(Debug)]
pub(crate) struct LinkPlan {
    /// What they become.
    pub(crate) object: Source,
    /// Where to write it.
    pub(crate) output: PathBuf,
}

impl LinkPlan {
    /// The plan that `args` amount to.
    pub(crate) fn new(args: LinkArgs) -> anyhow::Result<Self> {
        Ok(Self {
            object: Source::linked(&args.objects)?,
            output: args.output,
        })
    }
}

#[cfg(test)]
mod tests {
    use harena_bpf::GlobalValue;

    use super::Setting;

    #[test]
    fn settings_are_names_and_values() {
        for (text, name, value) in [
            (
                "slice_ns=5_000_000",
                "slice_ns",
                GlobalValue::Int(5_000_000),
            ),
            ("ops.flags=0x1f", "ops.flags", GlobalValue::Int(31)),
            ("a = -3", "a", GlobalValue::Int(-3)),
            ("on=true", "on", GlobalValue::Bool(true)),
            ("text=a=b", "text", GlobalValue::Text("a=b".to_owned())),
        ] {
            let expected = Setting {
                name: name.to_owned(),
                value,
            };
            assert_eq!(Setting::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn refused_settings_are_named() {
        for (text, why) in [("slice_ns", "has no `=`"), ("=1", "has no name")] {
            let error = Setting::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
