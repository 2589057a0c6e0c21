//! The same loops over an arena, beside the kernel's compiler.
//!
//! Each is called in a loop of its own program, so that the kernel's system call (a microsecond)
//! is lost among the rounds.

use harena_testkit::{CONTEXT_WORDS, LiveMachine, LiveSymbols};
use harena_vm::Engine;

use super::machine::{IN_ARENA, Machine, NAMES, buffer_offset, link, words};
use crate::harness::{BenchError, Contender, Suite, race, timed};

const KERNEL: &str = "kernel's compiler";
/// Machine code takes at most this much of the kernel's time.
const KERNEL_MAX: f64 = 1.1;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let wanted: Vec<_> = NAMES
        .into_iter()
        .filter(|name| suite.wants(&case_of(name)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut kernel = load_into_kernel()?;
    for name in wanted {
        let case = case_of(name);
        let mut ours = Machine::in_arena(Engine::Jit)?;
        let program = ours.program(name);
        let mut contenders = vec![Contender::timed("harena, machine code", move |rounds| {
            ours.rounds(program, rounds)
        })];
        let why = match &mut kernel {
            Err(why) => Some(why.clone()),
            Ok(machine) => machine
                .refusals()
                .find(|(refused, _)| *refused == name)
                .map(|_| "refused by its verifier".to_owned()),
        };
        if let (Ok(machine), None) = (&mut kernel, &why) {
            contenders.push(Contender::new(KERNEL, move |rounds| {
                let mut context = [0; CONTEXT_WORDS];
                context[0] = rounds;
                let mut returned = None;
                let turn = timed(|| {
                    returned = machine.run(name, &mut context);
                    context[1]
                });
                match returned {
                    Some(0) => Ok(turn),
                    other => Err(BenchError::setup("the kernel")(format!("{other:?}"))),
                }
            }));
        }
        let medians = race(&case, suite.plan(200, 2), &mut contenders)?;
        match why {
            None => suite.first_against_others(&case, &medians, |_| Some(KERNEL_MAX)),
            Some(why) => suite.skipped(&case, &medians[0], KERNEL, &why),
        }
    }
    Ok(())
}

fn case_of(name: &str) -> String {
    format!("in an arena: {name}")
}

/// The programs in the running kernel, or why they are not.
fn load_into_kernel() -> Result<Result<LiveMachine, String>, BenchError> {
    let object = link("programs_arena.bpf.o", IN_ARENA)?;
    let loaded = LiveSymbols::read().and_then(|symbols| LiveMachine::load(IN_ARENA, &symbols));
    Ok(loaded.map(|mut machine| {
        for (at, word) in (buffer_offset(&object)..).step_by(8).zip(words()) {
            machine.write(at, word);
        }
        machine
    }))
}
