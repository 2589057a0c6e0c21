//! `harena-conformance`: a plugin of the BPF conformance tests (`bpf_conformance`).
//!
//! ```text
//! harena-conformance [MEMORY] [--engine jit|interp] [--checked] [--elf]  < PROGRAM
//! harena-conformance --program PROGRAM [MEMORY] …
//! ```
//!
//! MEMORY and PROGRAM are hexadecimal bytes with white space anywhere. Standard output gets r0 in
//! hexadecimal.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | r0 is on standard output |
//! | 1 | the program has no result; standard error says why |
//! | 2 | the arguments, or the hexadecimal bytes, are wrong |
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use harena_conformance::{Format, HexError, Request, RunError, decode_hex, run};
use harena_vm::{Containment, Engine};

/// Bytes of standard input that are read: the longest program, in the tests' way of writing it.
const INPUT_MAX: u64 = 64 << 20;

/// Runs one BPF program over MEMORY and prints r0 in hexadecimal.
#[derive(Debug, Parser)]
#[command(name = "harena-conformance", version)]
struct Arguments {
    /// What r1 points to and r2 is the length of, in hexadecimal.
    memory: Option<String>,
    /// The program in hexadecimal, instead of standard input.
    #[arg(long, value_name = "HEX")]
    program: Option<String>,
    /// The program is an ELF object: run its function `main`.
    #[arg(long)]
    elf: bool,
    /// What executes the program.
    #[arg(long, value_enum, default_value = "jit")]
    engine: EngineName,
    /// Compare addresses of unknown origin with what was handed out, instead of cutting them.
    #[arg(long)]
    checked: bool,
}

/// Engines, as users name them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    /// Machine code.
    Jit,
    /// The interpreter.
    Interp,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the program: {0}")]
    Program(HexError),
    #[error("the memory: {0}")]
    Memory(HexError),
    #[error("cannot read the program from standard input: {0}")]
    Input(io::Error),
    #[error("the program on standard input is longer than {INPUT_MAX} bytes of text")]
    TooLong,
    #[error("there is no program")]
    NoProgram,
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot print the result: {0}")]
    Output(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Program(_) | Self::Memory(_) | Self::TooLong | Self::NoProgram => 2.into(),
            Self::Input(_) | Self::Run(_) | Self::Output(_) => 1.into(),
        }
    }
}

fn main() -> ExitCode {
    // Options that are split on spaces leave empty arguments where two spaces were.
    let arguments = std::env::args_os().filter(|argument| !argument.is_empty());
    // Usage errors end here, with exit code 2.
    match result(&Arguments::parse_from(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If that fails there is nobody left to tell, and the exit code still says it.
            let _unheard = writeln!(io::stderr().lock(), "{failure}");
            failure.exit_code()
        }
    }
}

fn result(arguments: &Arguments) -> Result<(), Failure> {
    let memory = arguments.memory.as_deref().unwrap_or_default();
    let memory = decode_hex(memory.as_bytes()).map_err(Failure::Memory)?;
    let program = match &arguments.program {
        Some(program) => decode_hex(program.as_bytes()),
        None => decode_hex(&standard_input()?),
    };
    let program = program.map_err(Failure::Program)?;
    if program.is_empty() {
        return Err(Failure::NoProgram);
    }
    let r0 = run(&Request {
        program: &program,
        format: if arguments.elf {
            Format::Elf
        } else {
            Format::Slots
        },
        memory: &memory,
        engine: match arguments.engine {
            EngineName::Jit => Engine::Jit,
            EngineName::Interp => Engine::Interpreter,
        },
        containment: if arguments.checked {
            Containment::Check
        } else {
            Containment::Mask
        },
    })?;
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{r0:x}").and_then(|()| stdout.flush());
    printed.map_err(Failure::Output)
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let mut input = io::stdin().lock().take(INPUT_MAX + 1);
    let len = input.read_to_end(&mut text).map_err(Failure::Input)?;
    if len as u64 > INPUT_MAX {
        return Err(Failure::TooLong);
    }
    Ok(text)
}
