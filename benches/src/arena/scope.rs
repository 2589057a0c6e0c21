//! What running a program costs around it: entering and leaving, and draining reports.

use harena_arena::REPORTS_MAX;

use super::common::{arena, page_offset, scope};
use crate::harness::{BenchError, Contender, Suite, race, timed};

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let case = "program: enter and leave";
    if suite.wants(case) {
        let arena = arena(16)?;
        let plan = suite.plan(100_000, 10);
        let nested = scope(&arena)?;
        let mut contenders = [Contender::new("innermost of two", |ops| {
            let mut entered = 0;
            let turn = timed(|| {
                for _ in 0..ops {
                    entered += u64::from(scope(&arena).is_ok());
                }
                entered
            });
            Ok(turn)
        })];
        let medians = race(case, plan, &mut contenders)?;
        drop(contenders);
        drop(nested);
        suite.others_against_first(case, &medians);
    }
    let case = "report: drain one";
    if suite.wants(case) {
        drain(suite, case)?;
    }
    Ok(())
}

fn drain(suite: &mut Suite, case: &str) -> Result<(), BenchError> {
    let plan = suite.plan(REPORTS_MAX as u64, 8);
    let mut contenders = [Contender::new("drain_reports", |ops| {
        let arena = arena(4096)?;
        let scope = scope(&arena)?;
        for page in (0..4096).take(usize::try_from(ops).unwrap_or(REPORTS_MAX)) {
            arena.ptr::<u64>(page_offset(page)).write(1);
        }
        let turn = timed(|| arena.drain_reports().count() as u64);
        drop(scope);
        Ok(turn)
    })];
    let medians = race(case, plan, &mut contenders)?;
    suite.others_against_first(case, &medians);
    Ok(())
}
