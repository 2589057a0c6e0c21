//! Entering a program that does nothing.

use harena_vm::Engine;

use super::machine::EMPTY;
use super::programs::ours;
use crate::harness::{BenchError, Contender, Suite, race};
use crate::table::Row;

const CASE: &str = "call: a program that does nothing";
/// Nanoseconds a call may take.
const CALL_MAX_NS: f64 = 5.0;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    if !suite.wants(CASE) {
        return Ok(());
    }
    let mut contenders = vec![
        ours("harena, machine code", Engine::Jit, EMPTY)?,
        ours("harena, interpreter", Engine::Interpreter, EMPTY)?,
    ];
    contenders.extend(peers()?);
    let medians = race(CASE, suite.plan(100_000, 2), &mut contenders)?;
    let row = Row::figure("bpf", CASE, &medians[0].name, "ns", medians[0].ns);
    suite.push(row.target(Some(CALL_MAX_NS)));
    suite.first_against_others(CASE, &medians, |_| None);
    Ok(())
}

#[cfg(feature = "peers")]
fn peers() -> Result<Vec<Contender<'static>>, BenchError> {
    use super::machine::{bytes, index, plain};
    use super::peers::{How, rbpf};
    use super::sbpf::sbpf;

    let object = plain()?;
    let code = bytes(&object, EMPTY);
    let insns = &object.programs[index(&object, EMPTY)].insns;
    let sbpf = |name, engine| sbpf(name, engine, insns).map_err(BenchError::setup("solana-sbpf"));
    Ok(vec![
        rbpf("rbpf, machine code", How::Jit, code.clone())?,
        sbpf("solana-sbpf, machine code", Engine::Jit)?,
        rbpf("rbpf, interpreter", How::Interpreter, code)?,
        sbpf("solana-sbpf, interpreter", Engine::Interpreter)?,
    ])
}

#[cfg(not(feature = "peers"))]
#[expect(clippy::unnecessary_wraps, reason = "with peers it may fail")]
fn peers() -> Result<Vec<Contender<'static>>, BenchError> {
    Ok(Vec::new())
}
