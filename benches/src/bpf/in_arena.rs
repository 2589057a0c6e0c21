//! The same loops over an arena, and two of accesses alone, beside the kernel's compiler.
//!
//! Each is called in a loop of its own program, so that the kernel's system call (a microsecond)
//! is lost among the rounds.

use harena_testkit::{CONTEXT_WORDS, LiveMachine, LiveSymbols};
use harena_vm::Engine;

use super::machine::{BUFFER, IN_ARENA, Machine, NAMES, buffer_offset, link, words};
use crate::harness::{BenchError, Contender, Suite, race, timed};

const KERNEL: &str = "kernel's compiler";
/// Machine code takes at most this much of the kernel's time.
const KERNEL_MAX: f64 = 1.1;

/// One word after the other of the whole buffer: a row is of one access.
const ACCESSES: [&str; 2] = ["loads", "stores"];
const WORDS: u64 = BUFFER / 8;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let loops = NAMES.map(|name| (name, 1));
    let accesses = ACCESSES.map(|name| (name, WORDS));
    let mut wanted = [&loops[..], &accesses].concat();
    wanted.retain(|(name, _)| suite.wants(&case_of(name)));
    if wanted.is_empty() {
        return Ok(());
    }
    let buffer = buffer_offset(&link("programs_arena.bpf.o", IN_ARENA)?);
    let mut kernel = LiveSymbols::read().and_then(|symbols| LiveMachine::load(IN_ARENA, &symbols));
    for (name, per_round) in wanted {
        let case = case_of(name);
        let mut ours = Machine::in_arena(Engine::Jit)?;
        let program = ours.program(name);
        let mut contenders = vec![Contender::timed("harena, machine code", move |ops| {
            ours.rounds(program, ops / per_round)
        })];
        let why = match &mut kernel {
            Err(why) => Some(why.clone()),
            Ok(machine) => machine
                .refusals()
                .find(|(refused, _)| *refused == name)
                .map(|_| "refused by its verifier".to_owned()),
        };
        if let (Ok(machine), None) = (&mut kernel, &why) {
            // The programs before this one left theirs.
            for (at, word) in (buffer..).step_by(8).zip(words()) {
                machine.write(at, word);
            }
            contenders.push(Contender::new(KERNEL, move |ops| {
                let mut context = [0; CONTEXT_WORDS];
                context[0] = ops / per_round;
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
        let mut plan = suite.plan(200, 2);
        plan.ops *= per_round;
        let medians = race(&case, plan, &mut contenders)?;
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
