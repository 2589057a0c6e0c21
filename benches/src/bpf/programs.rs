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
    let mut others = Vec::new();
    for (peer, contender) in peers(engine, name)? {
        match contender {
            Ok(contender) => contenders.push(contender),
            Err(reason) => others.push((peer.to_owned(), format!("not in its dialect: {reason}"))),
        }
    }
    race_the_right(suite, case, ops, (contenders, others))
}

/// A peer that takes part, or why the program is none for it.
type Peer = (&'static str, Result<Contender<'static>, String>);

/// The medians of the race of those who compute what native code does. A peer that does not is
/// named, with the `others` who cannot take part. (Back ends of rbpf get some 64-bit operations
/// wrong.)
fn race_the_right(
    suite: &mut Suite,
    case: &str,
    (full, small): (u64, u64),
    (mut contenders, mut others): (Vec<Contender<'static>>, Vec<(String, String)>),
) -> Result<Vec<Median>, BenchError> {
    let right = match contenders.iter_mut().find(|peer| peer.name() == NATIVE) {
        Some(native) => native.check()?,
        None => contenders[0].check()?,
    };
    let mut taking_part = Vec::new();
    for mut contender in contenders {
        let name = contender.name();
        let is_peer = name.starts_with("rbpf") || name.starts_with("solana-sbpf");
        if is_peer && contender.check()? != right {
            let reason = "its result is wrong".to_owned();
            others.push((contender.name().to_owned(), reason));
        } else {
            taking_part.push(contender);
        }
    }
    let medians = race(case, suite.plan(full, small), &mut taking_part)?;
    suite.first_against_others(case, &medians, |peer| {
        (peer.name == RBPF_JIT).then_some(RBPF_JIT_MAX)
    });
    for (peer, reason) in others {
        suite.skipped(case, &medians[0], &peer, &reason);
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
fn peers(engine: Engine, name: &'static str) -> Result<Vec<Peer>, BenchError> {
    use super::native::native;
    use super::peers::{self, How};
    use super::sbpf::sbpf;

    const PLAIN: &str = "native, no vectors";
    let (full, plain) = native(name);
    let object = super::machine::plain()?;
    let code = super::machine::bytes(&object, name);
    let insns = &object.programs[super::machine::index(&object, name)].insns;
    let mut all: Vec<Peer> = vec![(NATIVE, Ok(peers::native(NATIVE, full)))];
    if engine == Engine::Jit {
        all.push((PLAIN, Ok(peers::native(PLAIN, plain))));
        #[cfg(feature = "cranelift")]
        {
            let peer = "rbpf, cranelift";
            all.push((peer, Ok(peers::rbpf(peer, How::Cranelift, code.clone())?)));
        }
        all.push((RBPF_JIT, Ok(peers::rbpf(RBPF_JIT, How::Jit, code)?)));
        let peer = "solana-sbpf, machine code";
        all.push((peer, sbpf(peer, Engine::Jit, insns)));
    } else {
        let peer = "rbpf, interpreter";
        all.push((peer, Ok(peers::rbpf(peer, How::Interpreter, code)?)));
        let peer = "solana-sbpf, interpreter";
        all.push((peer, sbpf(peer, Engine::Interpreter, insns)));
    }
    Ok(all)
}

#[cfg(not(feature = "peers"))]
#[expect(clippy::unnecessary_wraps, reason = "with peers it may fail")]
fn peers(_engine: Engine, _name: &'static str) -> Result<Vec<Peer>, BenchError> {
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
