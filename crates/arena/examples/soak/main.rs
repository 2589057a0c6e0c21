//! A soak: many threads run all operations at random against a sequential model.
//!
//! `cargo xtask soak arena --minutes N [--seed S] [--threads T]` starts it. A round is an arena
//! of its own: all threads work on it, then all stop, and it is compared with the model as a
//! whole. Rounds differ by what the arena has: a user's view in this process, a byte limit, or
//! page allocations that fail on purpose.
//!
//! | file | what |
//! |---|---|
//! | `round.rs` | the arena, the shadow tables, what is checked when all is quiet |
//! | `worker.rs` | the operations of one thread, and what it checks at each |
//! | `worker/copies.rs` | those on runs of values and bytes |
//!
//! Every few seconds, and at the end, it prints operations, faults recovered, violations and
//! the seed; it ends with an error after any violation. Schedules of the system's threads are
//! not repeatable, so a seed gives equal operations, not equal interleavings.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool reports on its standard output"
)]

mod round;
mod worker;

use std::time::{Duration, Instant};

use round::{Round, Tally};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) length: Duration,
    pub(crate) seed: u64,
    pub(crate) threads: u32,
    pub(crate) hosts: Hosts,
}

/// How the wild writes of host code behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hosts {
    /// They leave alone what the owners of pages check.
    Fair,
    /// The canary: they do not, so that violations must be found.
    Unfair,
}

/// A generator of numbers (splitmix64): equal seeds give equal operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        let below = self.next() % u64::from(end.max(1));
        u32::try_from(below).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

fn main() -> Result<(), String> {
    soak(arguments(std::env::args().skip(1))?)
}

/// Runs rounds until the time is over.
pub(crate) fn soak(settings: Settings) -> Result<(), String> {
    let begun = now();
    let mut told = begun;
    let mut tally = Tally::default();
    println!(
        "soak: {} threads, seed {:#x}, {} seconds",
        settings.threads,
        settings.seed,
        settings.length.as_secs()
    );
    while begun.elapsed() < settings.length || tally.rounds == 0 {
        let round = Round::new(settings, tally.rounds)?;
        tally.add(&round.run());
        if told.elapsed() >= Duration::from_secs(5) {
            told = now();
            println!(
                "{:4} s: {tally}, seed {:#x}",
                begun.elapsed().as_secs(),
                settings.seed
            );
        }
    }
    println!("end: {tally}, seed {:#x}", settings.seed);
    if tally.violations == 0 {
        Ok(())
    } else {
        Err(format!(
            "{} violations, seed {:#x}",
            tally.violations, settings.seed
        ))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to run is the user's wish"
)]
fn now() -> Instant {
    Instant::now()
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        length: Duration::from_secs(60),
        seed: 0x0050_eed0,
        threads: 8,
        hosts: Hosts::Fair,
    };
    while let Some(name) = given.next() {
        let value = given.next().ok_or(format!("{name} needs a number"))?;
        let hex = value
            .strip_prefix("0x")
            .map(|hex| u64::from_str_radix(hex, 16));
        let number = hex.unwrap_or_else(|| value.parse());
        let number = number.map_err(|error| format!("{name} {value}: {error}"))?;
        match name.as_str() {
            "--minutes" => settings.length = Duration::from_secs(number * 60),
            "--seconds" => settings.length = Duration::from_secs(number),
            "--seed" => settings.seed = number,
            "--threads" => {
                settings.threads = u32::try_from(number)
                    .ok()
                    .filter(|threads| (1..=64).contains(threads))
                    .ok_or(format!("--threads {number}: 1 to 64"))?;
            }
            _ => return Err(format!("{name}: --minutes, --seconds, --seed or --threads")),
        }
    }
    Ok(settings)
}
