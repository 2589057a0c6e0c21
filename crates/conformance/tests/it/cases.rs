//! All cases in process: by both engines, with both ways to keep programs inside.

use harena_bpf::isa::disasm;
use harena_conformance::{Format, Request, RunError, run};
use harena_vm::{Containment, Engine};

use crate::case::{self, Case, Expected};

/// So that lost files are noticed.
const CASES_MIN: usize = 150;

fn outcome(case: &Case, engine: Engine, containment: Containment) -> Result<u64, RunError> {
    run(&Request {
        program: &case.program(),
        format: Format::Slots,
        memory: &case.memory,
        engine,
        containment,
    })
}

/// What is wrong with a case, if anything.
fn problem(case: &Case, engine: Engine, containment: Containment) -> Option<String> {
    let found = match outcome(case, engine, containment) {
        Ok(r0) => Expected::Result(r0),
        Err(error) => Expected::Error(error.to_string()),
    };
    if found == case.expected {
        return None;
    }
    let (name, expected) = (&case.name, &case.expected);
    Some(format!(
        "{name} by {engine:?}, {containment:?}: {found:x?} is not {expected:x?}\n{}",
        disasm(&case.insns)
    ))
}

#[test]
fn all_cases_come_to_what_they_say() {
    let cases = case::all();
    assert!(cases.len() >= CASES_MIN);
    let mut problems = Vec::new();
    for case in &cases {
        for engine in [Engine::Interpreter, Engine::Jit] {
            for containment in [Containment::Mask, Containment::Check] {
                problems.extend(problem(case, engine, containment));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let mut case = case::named("add64-k");
    case.expected = Expected::Result(0);
    assert!(problem(&case, Engine::Jit, Containment::Mask).is_some());
}
