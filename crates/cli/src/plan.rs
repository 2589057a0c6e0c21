//! What the arguments mean: every file read, every default decided, every value checked.
//!
//! A plan needs nothing else of the outside world. Whatever is wrong with the command line
//! or its files is found here or while loading, before anything runs.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use harena_abi::Nanos;
use harena_scx::Topology;
use harena_sim::Workload;

use crate::args::{Format, InspectArgs, RunArgs};

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

    /// The file at `path`, or the embedded object.
    fn object(path: Option<&Path>) -> anyhow::Result<Self> {
        match path {
            Some(path) => Self::read(path, "object"),
            None => Ok(Self {
                name: "embedded levels.bpf.o".to_owned(),
                bytes: include_bytes!("../../../bpf/levels.bpf.o").to_vec(),
            }),
        }
    }
}

/// A value for a global variable or a member of the ops table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: String,
    /// Any `u64` or `i64`.
    pub(crate) value: i128,
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
        let Some(number) = integer(value) else {
            bail!("--set `{name}`: `{value}` is no integer, `true` or `false`");
        };
        if number < i128::from(i64::MIN) || number > i128::from(u64::MAX) {
            bail!("--set `{name}`: {value} does not fit in 64 bits");
        }
        Ok(Self {
            name: name.to_owned(),
            value: number,
        })
    }
}

/// Decimal or `0x` hexadecimal with an optional sign and `_` between digits, or a truth value.
fn integer(text: &str) -> Option<i128> {
    match text {
        "true" => return Some(1),
        "false" => return Some(0),
        _ => {}
    }
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !magnitude.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = magnitude.replace('_', "");
    let number = match plain.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            i128::from_str_radix(hex, 16)
        }
        Some(_) => return None,
        None => plain.parse(),
    };
    let number = number.ok()?;
    Some(if negative { -number } else { number })
}

/// A run, decided in every detail.
#[derive(Debug)]
pub(crate) struct RunPlan {
    /// The scheduler.
    pub(crate) object: Source,
    /// The load.
    pub(crate) workload: Workload,
    /// The machine.
    pub(crate) machine: Machine,
    /// Simulated time.
    pub(crate) duration: Nanos,
    /// Where all chance comes from.
    pub(crate) seed: u64,
    /// Values to set before the run, in the order given.
    pub(crate) settings: Vec<Setting>,
    /// How to report.
    pub(crate) report: Report,
}

/// A machine and how it was named.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its short form, or the path of its file.
    pub(crate) name: String,
    /// Its CPUs.
    pub(crate) topology: Topology,
}

/// How long a workload runs that does not say so itself.
const DURATION_DEFAULT: Nanos = Nanos::from_ms(10_000);

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
        let settings = args.settings.iter().map(|text| Setting::parse(text));
        let settings = settings.collect::<anyhow::Result<_>>()?;
        let machine = Machine::named(args.topology)?;
        let workload = workload(args.workload.as_deref(), &machine.topology)?;
        Ok(Self {
            object: Source::object(args.object.as_deref())?,
            duration: args
                .duration
                .or(workload.duration)
                .unwrap_or(DURATION_DEFAULT),
            workload,
            machine,
            seed: args.seed,
            settings,
            report: if args.quiet {
                Report::Nothing
            } else {
                Report::Results(args.format)
            },
        })
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

impl Machine {
    /// A name that looks like a path is one: short forms hold letters and digits only.
    fn named(name: String) -> anyhow::Result<Self> {
        let path = Path::new(&name);
        let is_short = name.chars().all(|c| c.is_ascii_alphanumeric()) && !path.is_file();
        let topology = if is_short {
            harena_sim::parse_topology(&name)?
        } else {
            let source = Source::read(path, "topology")?;
            harena_sim::parse_topology_file(&source.bytes)
                .with_context(|| format!("topology `{name}`"))?
        };
        Ok(Self { name, topology })
    }
}

/// An inspection.
#[derive(Debug)]
pub(crate) struct InspectPlan {
    /// What to inspect.
    pub(crate) object: Source,
    /// How to report.
    pub(crate) format: Format,
}

impl InspectPlan {
    /// The plan that `args` amount to.
    pub(crate) fn new(args: &InspectArgs) -> anyhow::Result<Self> {
        Ok(Self {
            object: Source::object(args.object.as_deref())?,
            format: args.format,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn settings_take_integers_and_truth_values() {
        for (text, name, value) in [
            ("slice_ns=5000000", "slice_ns", 5_000_000),
            ("ops.flags=0x1f", "ops.flags", 31),
            ("a = -3", "a", -3),
            ("on=true", "on", 1),
            ("off=false", "off", 0),
            (
                "big=18_446_744_073_709_551_615",
                "big",
                i128::from(u64::MAX),
            ),
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
        for (text, why) in [
            ("slice_ns", "has no `=`"),
            ("=1", "has no name"),
            ("a=", "`` is no integer"),
            ("a=b", "`b` is no integer"),
            ("a=--1", "`--1` is no integer"),
            ("a=0x-1", "`0x-1` is no integer"),
            ("a=0x", "`0x` is no integer"),
            ("a=+1", "`+1` is no integer"),
            ("a=18446744073709551616", "does not fit"),
            ("a=-9223372036854775809", "does not fit"),
        ] {
            let error = Setting::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
