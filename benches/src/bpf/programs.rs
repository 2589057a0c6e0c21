//! Eight loops over plain memory, which the program gets as its context.
//!
//! This engine contains them: every address is cut to the guest's memory, unless the access is
//! proven. rbpf's compilers contain nothing. In the geometric means, each is relative to native
//! code.

use harena_vm::Engine;

use super::machine::{Machine, NAMES};
use crate::harness::{BenchError, Contender, Median, Suite, race};
use crate::table::Row;

/// Machine code takes at most this much of native code's time, in the mean.
const JIT_MAX: f64 = 1.25;
/// Of rbpf's machine code, each program.
const RBPF_JIT_MAX: f64 = 1.0;
/// The interpreter, of native code's, in the mean.
const INTERPRETER_MAX: f64 = 30.0;

const NATIVE: &str = "native -O2";
const RBPF_JIT: &str = "rbpf, machine code";

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let mut all = Vec::new();
    for name in NAMES {
        let case = format!("program: {name}");
        if !suite.wants(&case) {
            continue;
        }
        let compiled = race_by(suite, &case, name, Engine::Jit)?;
        let interpreted = race_by(suite, &case, name, Engine::Interpreter)?;
        all.push((compiled, interpreted));
    }
    if all.len() == NAMES.len() {
        let (compiled, interpreted): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        means(suite, &compiled, JIT_MAX);
        means(suite, &interpreted, INTERPRETER_MAX);
    }
    Ok(())
}

/// One of our engines against its like.
fn race_by(
    suite: &mut Suite,
    case: &str,
    name: &'static str,
    engine: Engine,
) -> Result<Vec<Median>, BenchError> {
    let (subject, ops) = if engine == Engine::Jit {
        ("harena, machine code", (200, 2))
    } else {
        ("harena, interpreter", (10, 1))
    };
    let mut contenders = vec![ours(subject, engine, name)?];
    contenders.extend(peers(engine, name)?);
    race_the_right(suite, case, ops, contenders)
}

/// The race of those who compute what native code does; a peer that does not is named. (Back
/// ends of rbpf get some 64-bit operations wrong.) The medians.
fn race_the_right(
    suite: &mut Suite,
    case: &str,
    (full, small): (u64, u64),
    mut contenders: Vec<Contender<'static>>,
) -> Result<Vec<Median>, BenchError> {
    let right = match contenders.iter_mut().find(|peer| peer.name() == NATIVE) {
        Some(native) => native.check()?,
        None => contenders[0].check()?,
    };
    let mut wrong = Vec::new();
    let mut taking_part = Vec::new();
    for mut contender in contenders {
        let is_peer = contender.name().starts_with("rbpf");
        if is_peer && contender.check()? != right {
            wrong.push(contender.name().to_owned());
        } else {
            taking_part.push(contender);
        }
    }
    let medians = race(case, suite.plan(full, small), &mut taking_part)?;
    suite.first_against_others(case, &medians, |peer| {
        (peer.name == RBPF_JIT).then_some(RBPF_JIT_MAX)
    });
    for peer in wrong {
        suite.skipped(case, &medians[0], &peer, "its result is wrong");
    }
    Ok(medians)
}

/// One of our engines at a program over plain memory.
pub(super) fn ours(
    subject: &str,
    engine: Engine,
    name: &'static str,
) -> Result<Contender<'static>, BenchError> {
    let mut machine = Machine::plain(engine)?;
    let program = machine.program(name);
    Ok(Contender::timed(subject, move |ops| {
        (0..ops).fold(0, |_, _| machine.call(program))
    }))
}

#[cfg(feature = "peers")]
fn peers(engine: Engine, name: &'static str) -> Result<Vec<Contender<'static>>, BenchError> {
    use super::native::native;
    use super::peers::{self, How};

    let (full, plain) = native(name);
    let code = super::machine::bytes(&super::machine::plain()?, name);
    let mut contenders = vec![peers::native(NATIVE, full)];
    if engine == Engine::Jit {
        contenders.push(peers::native("native, no vectors", plain));
        #[cfg(feature = "cranelift")]
        contenders.push(peers::rbpf(
            "rbpf, cranelift",
            How::Cranelift,
            code.clone(),
        )?);
        contenders.push(peers::rbpf(RBPF_JIT, How::Jit, code)?);
    } else {
        contenders.push(peers::rbpf("rbpf, interpreter", How::Interpreter, code)?);
    }
    Ok(contenders)
}

#[cfg(not(feature = "peers"))]
#[expect(clippy::unnecessary_wraps, reason = "with peers it may fail")]
fn peers(_engine: Engine, _name: &'static str) -> Result<Vec<Contender<'static>>, BenchError> {
    Ok(Vec::new())
}

/// Geometric means over the programs, relative to native code of the same races, of all that took
/// part in every one. The first has a target.
fn means(suite: &mut Suite, races: &[Vec<Median>], target: f64) {
    for (at, contender) in races[0].iter().enumerate() {
        let name = contender.name.as_str();
        let ratio = |medians: &Vec<Median>| {
            let of = |name: &str| medians.iter().find(|median| median.name == name);
            Some(of(name)?.ns / of(NATIVE)?.ns)
        };
        let ratios: Option<Vec<f64>> = races.iter().map(ratio).collect();
        if let Some(ratios) = ratios.filter(|_| name != NATIVE) {
            let mean = geometric_mean(&ratios);
            let row = Row::figure("bpf", "geometric mean", name, "x", mean);
            suite.push(row.against(NATIVE, 1.0).target((at == 0).then_some(target)));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are a few programs")]
fn geometric_mean(ratios: &[f64]) -> f64 {
    let sum: f64 = ratios.iter().copied().map(f64::ln).sum();
    (sum / ratios.len() as f64).exp()
}
