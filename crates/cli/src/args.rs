//! What was typed, and nothing about what it means: that is `plan`'s part.
//!
//! Help, usage errors and their exit code all come from these definitions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use harena_abi::Nanos;

use crate::failures::{self, Failing};
use crate::{duration, size, status};

/// Runs sched_ext schedulers that are compiled to BPF, on a simulated machine.
#[derive(Debug, Parser)]
#[command(name = "harena", version, after_help = status::HELP)]
pub(crate) struct LowArgs {
    #[command(subcommand)]
    pub(crate) command: LowCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LowCommand {
    Run(RunArgs),
    Inspect(InspectArgs),
    Prog(ProgArgs),
    /// Print the simulated kernel's types as a C header, for programs to include as vmlinux.h.
    Vmlinux,
    Link(LinkArgs),
}

/// Run a scheduler on a simulated machine under a workload, and report what it did.
///
/// Without OBJECT and options, harena's own arena scheduler `levels` runs a mixed workload
/// on 8 CPUs. Equal commands give equal digests.
#[derive(Debug, Args)]
#[command(after_help = status::HELP)]
pub(crate) struct RunArgs {
    /// Compiled scheduler (`.bpf.o`); several files are linked first [default: the embedded
    /// `levels`]
    #[arg(value_name = "OBJECT")]
    pub(crate) objects: Vec<PathBuf>,

    /// Workload file in the rt-app JSON grammar [default: an embedded mix]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) workload: Option<PathBuf>,

    /// Machine as nodes, LLCs per node, cores per LLC and threads per core, such as 2n4l8c2t
    /// or 8c, or a file that lists its CPUs
    #[arg(short, long, default_value = "8c")]
    pub(crate) topology: String,

    /// Simulated time, such as 500ms or 2m30s [default: the workload's own, or else 10s]
    #[arg(short, long, value_parser = duration::parse)]
    pub(crate) duration: Option<Nanos>,

    /// Number that all chance is drawn from
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Memory that the scheduler's arena may have in use, such as 64K, 16M or 1G: beyond it
    /// page allocations give NULL [default: all of the arena]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) arena_limit: Option<u64>,

    /// Make page allocations of the scheduler's arena fail on purpose: 5 (the fifth), 5+ (and all
    /// after it), every:100, or 1/1000 (at random, by the seed); the core's own are counted too
    #[arg(long, value_name = "WHICH", value_parser = failures::parse)]
    pub(crate) arena_fail: Option<Failing>,

    /// Attach this program too, although its section is marked `?`; may be repeated. All programs
    /// that look on (`tp_btf`, `fentry`, ...) and are not marked so are attached
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) attach: Vec<String>,

    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,

    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Print no report and no progress: only the exit code and the line about a failure
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

// What runs programs takes these. A doc comment would become the command's own.
#[derive(Debug, Args)]
pub(crate) struct ExecutionArgs {
    /// Set a global variable or an `ops` member before the run; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) settings: Vec<String>,

    /// How to execute programs; results are the same
    #[arg(long, value_enum, default_value_t = EngineName::Jit)]
    pub(crate) engine: EngineName,

    /// Compare every pointer of the programs' with what they were handed out, so that each wild
    /// one is reported; slower. Otherwise one that happens to lead to memory is not
    #[arg(long)]
    pub(crate) checked: bool,

    /// Write /tmp/perf-PID.map, from which Linux `perf` learns the names of machine code
    #[arg(long)]
    pub(crate) perf_map: bool,
}

/// List what an object holds and needs, and what of it is unsupported and why.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Compiled object (`.bpf.o`); several files are linked first [default: the embedded
    /// `levels`]
    #[arg(value_name = "OBJECT")]
    pub(crate) objects: Vec<PathBuf>,

    /// Show the programs' instructions too, and what keeps each memory access inside; with
    /// `--disasm=native` also the machine code of each, as it is on this machine
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "bpf"
    )]
    pub(crate) disasm: Option<Disasm>,

    /// Show them as they are with `harena run --checked`
    #[arg(long, requires = "disasm")]
    pub(crate) checked: bool,

    /// How to print the list
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Work with single programs.
#[derive(Debug, Args)]
pub(crate) struct ProgArgs {
    #[command(subcommand)]
    pub(crate) command: ProgCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProgCommand {
    Run(ProgRunArgs),
}

/// Run one `syscall` program, and print what it returned and did.
///
/// There is no scheduler, no task and no time behind it.
#[derive(Debug, Args)]
#[command(after_help = status::HELP)]
pub(crate) struct ProgRunArgs {
    /// Compiled object (`.bpf.o`)
    pub(crate) object: PathBuf,

    /// The program
    pub(crate) name: String,

    /// File with the program's context: as much as it touches, and at most 65535 bytes [default:
    /// none, NULL]
    #[arg(long, value_name = "FILE")]
    pub(crate) data_in: Option<PathBuf>,

    /// Write the context to this file when the program has ended, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) data_out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,

    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Link several objects to one, as `bpftool gen object` does.
///
/// Sections are appended, a strong symbol is preferred to weak ones, and what no object defines
/// stays an extern. The result loads like any object.
#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// Compiled objects (`.bpf.o`)
    #[arg(value_name = "OBJECT", required = true)]
    pub(crate) objects: Vec<PathBuf>,

    /// Where to write the result
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// An execution engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum EngineName {
    /// One instruction after the other: runs anywhere
    Interp,
    /// Machine code (x86-64 Linux; elsewhere as `interp`)
    Jit,
}

/// How far down to show instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Disasm {
    /// BPF instructions
    Bpf,
    /// And their machine code
    Native,
}

/// For whom the output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::LowArgs;

    #[test]
    fn definitions_are_consistent() {
        LowArgs::command().debug_assert();
    }
}
