//! Goal: arena programs do here exactly what they do in a real kernel.
//!
//! Method: `bpf/tests/arena_{alloc,cast,fault,user}.bpf.c` are linked by our loader and played
//! through the same scenario on two machines: this engine, and the kernel the test runs on
//! (through `bpf(2)`; that also shows our loader's work to a real verifier). Return values,
//! contexts and what the user side reads must be equal. What Linux 6.18 answered is kept in
//! `linux-6.18.txt`, and ours is compared with that everywhere.

mod ours;
mod scenarios;

use harena_testkit::{LiveMachine, LiveSymbols};
use ours::OurMachine;
use scenarios::{REFUSED, SCENARIOS, Scenario, play};

/// Answers of Linux 6.18 on x86-64, which refuses one of the programs.
const RECORDED: &str = include_str!("linux-6.18.txt");

fn transcript(scenario: &Scenario, lines: &[String]) -> String {
    lines
        .iter()
        .fold(format!("# {}\n", scenario.name), |text, line| {
            text + line + "\n"
        })
}

/// Fails unless `ours` equals `theirs`, but for programs that the other machine refused.
fn assert_same(scenario: &Scenario, ours: &[String], theirs: &[String]) {
    assert_eq!(ours.len(), theirs.len(), "{}: steps", scenario.name);
    let differences: Vec<_> = ours
        .iter()
        .zip(theirs)
        .filter(|(ours, theirs)| ours != theirs && !theirs.ends_with(REFUSED))
        .map(|(ours, theirs)| format!("ours:   {ours}\nkernel: {theirs}"))
        .collect();
    assert!(
        differences.is_empty(),
        "{}:\n{}",
        scenario.name,
        differences.join("\n")
    );
}

#[test]
fn arena_programs_do_what_linux_6_18_recorded() {
    let mut recorded = RECORDED.lines();
    for scenario in &SCENARIOS {
        assert_eq!(
            recorded.next(),
            Some(format!("# {}", scenario.name).as_str())
        );
        let theirs: Vec<_> = recorded
            .by_ref()
            .take(scenario.steps.len())
            .map(str::to_owned)
            .collect();
        let ours = play(scenario, &mut OurMachine::load(scenario.object));
        assert_same(scenario, &ours, &theirs);
    }
    assert_eq!(recorded.next(), None);
}

#[test]
fn arena_programs_do_what_this_kernel_does() {
    let symbols = match LiveSymbols::read() {
        Ok(symbols) => symbols,
        Err(reason) => return println!("skipped: no kernel to compare with: {reason}"),
    };
    for scenario in &SCENARIOS {
        // The two machines' arenas have the same user address, so one goes before the other comes.
        let theirs = match LiveMachine::load(scenario.object, &symbols) {
            Ok(mut machine) => {
                for (program, log) in machine.refusals() {
                    println!("this kernel refuses `{program}`: {log}");
                }
                play(scenario, &mut machine)
            }
            Err(reason) => return println!("skipped: no kernel to compare with: {reason}"),
        };
        print!("{}", transcript(scenario, &theirs));
        let ours = play(scenario, &mut OurMachine::load(scenario.object));
        assert_same(scenario, &ours, &theirs);
    }
}
