//! Entering a program that does nothing.

use harena_vm::Engine;

use super::machine::{EMPTY, Machine};
use crate::harness::{BenchError, Contender, Suite, race};

/// Nanoseconds an empty call may take, on the machine that performance was planned for.
const CASE: &str = "call: a program that does nothing";

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    if !suite.wants(CASE) {
        return Ok(());
    }
    let mut contenders = Vec::new();
    for (name, engine) in [
        ("harena, machine code", Engine::Jit),
        ("harena, interpreter", Engine::Interpreter),
    ] {
        let mut machine = Machine::plain(engine)?;
        let program = machine.program(EMPTY);
        contenders.push(Contender::timed(name, move |ops| {
            (0..ops).fold(0, |_, _| machine.call(program))
        }));
    }
    contenders.extend(peers()?);
    let medians = race(CASE, suite.plan(100_000, 2), &mut contenders)?;
    suite.first_against_others(CASE, &medians, |_| None);
    Ok(())
}

#[cfg(feature = "peers")]
fn peers() -> Result<Vec<Contender<'static>>, BenchError> {
    use super::machine::{bytes, plain};
    use super::peers::{How, rbpf};

    let code = bytes(&plain()?, EMPTY);
    Ok(vec![
        rbpf("rbpf, machine code", How::Jit, code.clone())?,
        rbpf("rbpf, interpreter", How::Interpreter, code)?,
    ])
}

#[cfg(not(feature = "peers"))]
#[expect(clippy::unnecessary_wraps, reason = "with peers it may fail")]
fn peers() -> Result<Vec<Contender<'static>>, BenchError> {
    Ok(Vec::new())
}
