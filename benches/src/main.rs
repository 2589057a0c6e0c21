//! `harena-bench`: runs a suite and prints what it found.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool prints its results"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use harena_bench::{BenchError, Row, Scale, Suite, arena, bpf, json, text};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Benchmarks against peers, measured side by side"
)]
struct Arguments {
    #[command(subcommand)]
    suite: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Arenas: access, recovery, pages, slab, budgets.
    Arena(Options),
    /// BPF: machine code and interpreter, calls, compiling.
    Bpf(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// How results are printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Few operations, as the tests do: results are checked, times mean nothing.
    #[arg(long)]
    small: bool,
    /// Only cases whose name contains this.
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let (name, suite, options): (_, RunSuite, _) = match Arguments::parse().suite {
        Which::Arena(options) => ("arena", arena::run, options),
        Which::Bpf(options) => ("bpf", bpf::run, options),
    };
    match run(name, suite, &options) {
        Ok(rows) => {
            match options.format {
                Format::Text => print!("{}", text(&rows)),
                Format::Json => println!("{}", json(&rows)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Adds a suite's rows.
type RunSuite = fn(&mut Suite) -> Result<(), BenchError>;

fn run(name: &'static str, run: RunSuite, options: &Options) -> Result<Vec<Row>, BenchError> {
    let scale = if options.small {
        Scale::Small
    } else {
        Scale::Full
    };
    let mut suite = Suite::new(name, scale, options.filter.clone());
    run(&mut suite)?;
    Ok(suite.into_rows())
}
