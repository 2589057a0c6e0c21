//! From an object to code that can run.

use std::time::Duration;

use harena_bpf::{LinkedObject, Object};
use harena_kernel::{BpfScheduler, LoadOptions};
use harena_vm::{Engine, Vm, VmConfig};

use super::machine::{EMPTY, plain};
use crate::harness::{BenchError, Contender, Suite, Turn, race, timed};
use crate::table::Row;

/// Our largest scheduler.
const LEVELS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf/levels.bpf.o"));
const LOAD: &str = "load: levels, from its file's bytes";
const COMPILE: &str = "compile: 1000 instructions";

/// Copies of each program, so that one object is as long as a scheduler.
const COPIES: usize = 40;
/// Milliseconds for 1000 instructions, from decoding to memory that can be executed.
const COMPILE_MAX_MS: f64 = 0.06;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    if suite.wants(LOAD) {
        load(suite)?;
    }
    if suite.wants(COMPILE) {
        compile(suite)?;
    }
    Ok(())
}

fn load(suite: &mut Suite) -> Result<(), BenchError> {
    let mut contenders = Vec::new();
    for (name, engine) in [
        ("harena, machine code", Engine::Jit),
        ("harena, interpreter", Engine::Interpreter),
    ] {
        contenders.push(Contender::new(name, move |ops| {
            let mut failed = None;
            let turn = timed(|| {
                for _ in 0..ops {
                    failed = failed.take().or(load_scheduler(engine).err());
                }
                0
            });
            failed.map_or(Ok(turn), Err)
        }));
    }
    let medians = race(LOAD, suite.plan(2, 1), &mut contenders)?;
    suite.others_against_first(LOAD, &medians);
    Ok(())
}

fn load_scheduler(engine: Engine) -> Result<(), BenchError> {
    let object = Object::parse("levels.bpf.o", LEVELS).map_err(BenchError::setup("an object"))?;
    let options = LoadOptions {
        engine,
        ..LoadOptions::default()
    };
    let topology = harena_sim::default_topology();
    let loaded = BpfScheduler::load(object, &options, &topology);
    loaded.map_err(BenchError::setup("a scheduler"))?;
    Ok(())
}

fn machine(engine: Engine) -> Result<Vm, BenchError> {
    let config = VmConfig {
        engine,
        ..VmConfig::new(8)
    };
    Vm::new(config).map_err(BenchError::setup("a machine"))
}

fn insns_of(object: &LinkedObject) -> u64 {
    object.programs.iter().map(|p| p.insns.len() as u64).sum()
}

fn compile(suite: &mut Suite) -> Result<(), BenchError> {
    let object = copies()?;
    let insns = insns_of(&object);
    let ours = |engine| {
        let object = object.clone();
        move |ops| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..ops {
                let mut vm = machine(engine)?;
                let mut failed = None;
                elapsed += timed(|| {
                    failed = vm.load(&object, &[]).err();
                    0
                })
                .elapsed;
                if let Some(error) = failed {
                    return Err(BenchError::setup("a loaded object")(error));
                }
            }
            Ok(Turn { elapsed, check: 0 })
        }
    };
    let mut contenders = vec![
        Contender::new("harena, machine code", ours(Engine::Jit)),
        Contender::new("harena, decoded only", ours(Engine::Interpreter)),
    ];
    contenders.extend(peers(&object));
    let medians = race(COMPILE, suite.plan(2, 1), &mut contenders)?;
    for (at, median) in medians.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "there are some ten thousand")]
        let ms = median.ns / insns as f64 * 1000.0 / 1e6;
        let row = Row::figure("bpf", COMPILE, &median.name, "ms", ms);
        suite.push(row.target((at == 0).then_some(COMPILE_MAX_MS)));
    }
    Ok(())
}

/// The programs of this benchmark, several times over.
fn copies() -> Result<LinkedObject, BenchError> {
    let mut object = plain()?;
    object.programs.retain(|program| program.name != EMPTY);
    let once = object.programs.clone();
    for copy in 1..COPIES {
        object
            .programs
            .extend(once.iter().cloned().map(|mut program| {
                program.name = format!("{}_{copy}", program.name);
                program
            }));
    }
    Ok(object)
}

#[cfg(feature = "peers")]
fn peers(object: &LinkedObject) -> Vec<Contender<'static>> {
    let programs: Vec<Vec<u8>> = object
        .programs
        .iter()
        .map(|program| harena_bpf::isa::encode(&program.insns))
        .collect();
    vec![
        #[cfg(feature = "cranelift")]
        Contender::new("rbpf, cranelift", {
            let programs = programs.clone();
            move |ops| super::peers::rbpf_compiles(ops, &programs, super::peers::How::Cranelift)
        }),
        Contender::new("rbpf, machine code", move |ops| {
            super::peers::rbpf_compiles(ops, &programs, super::peers::How::Jit)
        }),
        Contender::new("solana-sbpf, machine code", {
            let programs = object.programs.iter();
            let programs = programs.map(|program| super::sbpf::translated(&program.insns));
            let programs: Vec<_> = programs.collect();
            move |ops| super::sbpf::compiles(ops, &programs)
        }),
    ]
}

#[cfg(not(feature = "peers"))]
fn peers(_object: &LinkedObject) -> Vec<Contender<'static>> {
    Vec::new()
}
