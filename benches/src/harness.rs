//! Racing contenders: they take turns, and the medians of their turns are compared.
//!
//! One turn is one call of a contender with the number of operations to do. It times what
//! counts itself ([`timed`]), since many have something to prepare, and returns a check value
//! that depends on everything it did. Each repeat starts with another contender, so that none
//! always runs behind the same one.

use std::time::{Duration, Instant};

use crate::table::Row;

/// How much is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Enough for stable medians.
    Full,
    /// Just enough to check the results.
    Small,
}

/// Why a suite ended early.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Two contenders did not do the same.
    #[error("{case}: {subject} gives {value}, but {peer} gives {peer_value}")]
    Mismatch {
        /// The case.
        case: String,
        /// One contender.
        subject: String,
        /// Its check value.
        value: u64,
        /// Another contender.
        peer: String,
        /// Its check value.
        peer_value: u64,
    },
    /// What a case needs could not be had.
    #[error("{what}")]
    Setup {
        /// What it was.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BenchError {
    /// For `map_err`: what could not be had.
    pub(crate) fn setup<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Setup {
            what,
            source: error.into(),
        }
    }
}

/// What one turn took and gave.
#[derive(Clone, Copy, Default, Debug)]
pub struct Turn {
    /// The time of what counts.
    pub elapsed: Duration,
    /// Equal for all contenders of a race.
    pub check: u64,
}

/// Times `work`, which returns its check value.
#[expect(
    clippy::disallowed_methods,
    reason = "measuring time is what this is for"
)]
pub fn timed(work: impl FnOnce() -> u64) -> Turn {
    let begin = Instant::now();
    let check = work();
    Turn {
        elapsed: begin.elapsed(),
        check,
    }
}

/// A contender's turn: does this many operations.
pub type Run<'a> = Box<dyn FnMut(u64) -> Result<Turn, BenchError> + 'a>;

/// One who takes part in a race.
pub struct Contender<'a> {
    name: String,
    run: Run<'a>,
}

impl core::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Contender({})", self.name)
    }
}

impl<'a> Contender<'a> {
    /// A contender that may fail.
    pub fn new(name: &str, run: impl FnMut(u64) -> Result<Turn, BenchError> + 'a) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(run),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes, found out in a turn of its own.
    pub fn check(&mut self) -> Result<u64, BenchError> {
        Ok((self.run)(1)?.check)
    }

    /// A contender of which everything is timed.
    pub fn timed(name: &str, mut run: impl FnMut(u64) -> u64 + 'a) -> Self {
        Self::new(name, move |ops| Ok(timed(|| run(ops))))
    }
}

/// How long a race is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns of each contender.
    pub repeats: u32,
    /// Operations of a turn.
    pub ops: u64,
}

/// A contender's median.
#[derive(Clone, PartialEq, Debug)]
pub struct Median {
    /// The contender.
    pub name: String,
    /// Nanoseconds of one operation.
    pub ns: f64,
}

/// The rows of one suite while they are being found.
#[derive(Debug)]
pub struct Suite {
    name: &'static str,
    scale: Scale,
    filter: Option<String>,
    rows: Vec<Row>,
}

impl Suite {
    /// A suite without rows. Only cases that contain `filter` will be run.
    #[must_use]
    pub fn new(name: &'static str, scale: Scale, filter: Option<String>) -> Self {
        Self {
            name,
            scale,
            filter,
            rows: Vec::new(),
        }
    }

    /// The rows found.
    #[must_use]
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// How much is to be done.
    #[must_use]
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// `full` operations, or as few as the tests need.
    #[must_use]
    pub fn count(&self, full: u64, small: u64) -> u64 {
        match self.scale {
            Scale::Full => full,
            Scale::Small => small,
        }
    }

    /// A race of `full` operations a turn, or of `small` ones.
    #[must_use]
    pub fn plan(&self, full: u64, small: u64) -> Plan {
        Plan {
            repeats: match self.scale {
                Scale::Full => 31,
                Scale::Small => 2,
            },
            ops: self.count(full, small),
        }
    }

    /// Whether a case is to be run.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| case.contains(filter))
    }

    /// Adds a row.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a figure without a peer.
    pub fn figure(&mut self, case: &str, subject: &str, unit: &'static str, value: f64) {
        self.rows
            .push(Row::figure(self.name, case, subject, unit, value));
    }

    /// Adds a row for a peer that is not there.
    pub fn skipped(&mut self, case: &str, subject: &Median, peer: &str, why: &str) {
        let mut row = Row::figure(self.name, case, &subject.name, "ns", subject.ns);
        row.peer = Some(format!("{peer} (skipped: {why})"));
        self.rows.push(row);
    }

    /// Adds a row of the first for each of the others, with the target that `target` gives; one
    /// without a peer where there are none.
    pub fn first_against_others(
        &mut self,
        case: &str,
        medians: &[Median],
        target: impl Fn(&Median) -> Option<f64>,
    ) {
        let Some((subject, peers)) = medians.split_first() else {
            return;
        };
        if peers.is_empty() {
            self.figure(case, &subject.name, "ns", subject.ns);
        }
        for peer in peers {
            let row = Row::figure(self.name, case, &subject.name, "ns", subject.ns);
            self.rows
                .push(row.against(&peer.name, peer.ns).target(target(peer)));
        }
    }

    /// Adds a row of each of the others against the first, without targets.
    pub fn others_against_first(&mut self, case: &str, medians: &[Median]) {
        let Some((base, others)) = medians.split_first() else {
            return;
        };
        self.figure(case, &base.name, "ns", base.ns);
        for other in others {
            let row = Row::figure(self.name, case, &other.name, "ns", other.ns);
            self.rows.push(row.against(&base.name, base.ns));
        }
    }
}

/// Lets the contenders take turns; their medians in their order.
pub fn race(
    case: &str,
    plan: Plan,
    contenders: &mut [Contender<'_>],
) -> Result<Vec<Median>, BenchError> {
    assert!(plan.repeats > 0, "a median needs a value");
    assert!(plan.ops > 0, "time by operation needs operations");
    let count = contenders.len();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); count];
    for repeat in 0..plan.repeats as usize {
        let mut first: Option<(String, u64)> = None;
        for turn in 0..count {
            let index = (repeat + turn) % count;
            let contender = &mut contenders[index];
            let turn = (contender.run)(plan.ops)?;
            times[index].push(ns_per_op(turn.elapsed, plan.ops));
            match &first {
                None => first = Some((contender.name.clone(), turn.check)),
                Some((_, check)) if *check == turn.check => {}
                Some((peer, check)) => {
                    return Err(BenchError::Mismatch {
                        case: case.to_owned(),
                        subject: contender.name.clone(),
                        value: turn.check,
                        peer: peer.clone(),
                        peer_value: *check,
                    });
                }
            }
        }
    }
    let medians = contenders
        .iter()
        .zip(times)
        .map(|(contender, times)| Median {
            name: contender.name.clone(),
            ns: median(times),
        });
    Ok(medians.collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of operations are far below 2^52"
)]
fn ns_per_op(elapsed: Duration, ops: u64) -> f64 {
    elapsed.as_secs_f64() * 1e9 / ops as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// Small numbers for choices that must be the same for every contender (xorshift64*).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of a seed, which is not 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        assert_ne!(seed, 0, "zero is followed by zeroes");
        Self(seed)
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `limit`.
    #[inline]
    pub fn below(&mut self, limit: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(limit)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn contenders_take_equal_numbers_of_turns() {
        let (mut ours, mut theirs) = (0, 0);
        let plan = Plan { repeats: 3, ops: 5 };
        let mut contenders = [
            Contender::timed("ours", |ops| {
                ours += ops;
                7
            }),
            Contender::timed("theirs", |ops| {
                theirs += ops;
                7
            }),
        ];
        let medians = race("case", plan, &mut contenders).unwrap();
        assert_eq!(medians[1].name, "theirs");
        drop(contenders);
        assert_eq!((ours, theirs), (15, 15));
    }

    #[test]
    fn contenders_that_disagree_are_an_error() {
        let plan = Plan { repeats: 1, ops: 1 };
        let mut contenders = [
            Contender::timed("ours", |_| 1),
            Contender::timed("theirs", |_| 2),
        ];
        let error = race("case", plan, &mut contenders).unwrap_err();
        assert_eq!(error.to_string(), "case: theirs gives 2, but ours gives 1");
    }
}
