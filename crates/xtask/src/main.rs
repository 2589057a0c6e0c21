//! `cargo xtask`: the commands that develop harena, one module each.
//!
//! They only start other programs (cargo, clang) and look at files; nothing here is part of what
//! harena does. A command that fails says which step and why, and ends with a non-zero code.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line tool reports on its standard output"
)]

mod bench;
mod fuzz;
mod objects;
mod run;
mod scx_headers;
mod soak;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "harena's development commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check and test there is, in the order cheap to dear.
    Test,
    /// Check the house style that the compiler and clippy cannot.
    Tidy,
    /// Build the BPF objects beside their sources.
    Objects {
        /// Only compare: fail if an object differs from what its source compiles to.
        #[arg(long)]
        check: bool,
    },
    /// Measure against peers: `bench arena [--format text|json] [--small] [--filter CASE]`.
    Bench {
        /// A suite and its options.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run all operations from many threads at random against a model:
    /// `soak arena [--minutes N] [--seed S] [--threads T]`.
    Soak {
        /// What to soak, which is `arena`.
        subject: Subject,
        /// Its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run random programs by both engines, and by this kernel where `bpf(2)` works, and compare
    /// all that can be seen at their ends.
    Fuzz {
        /// What to compare, which is `engines`.
        target: Target,
        /// How many programs.
        #[arg(long, default_value = "100000")]
        count: u64,
        /// Where they begin, decimal or 0x…: equal seeds give equal programs.
        #[arg(long)]
        seed: Option<String>,
    },
    /// Build our BPF sources against the headers that the scx project publishes.
    ScxHeaders,
}

/// What can be fuzzed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Target {
    /// Interpreter and machine code.
    Engines,
}

/// What can be soaked.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Subject {
    /// `harena-arena`.
    Arena,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Test => test::test(),
        Command::Tidy => tidy::tidy(),
        Command::Objects { check: false } => objects::build(),
        Command::Objects { check: true } => objects::check(),
        Command::Bench { arguments } => bench::bench(&arguments),
        Command::Soak {
            subject: Subject::Arena,
            options,
        } => soak::soak(&options),
        Command::Fuzz {
            target: Target::Engines,
            count,
            seed,
        } => fuzz::engines(count, seed.as_deref()),
        Command::ScxHeaders => scx_headers::check(),
    }
}
