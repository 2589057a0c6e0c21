//! Recovery: a fault of host code, report included, against a bare handler that makes the same
//! system calls and nothing else; a fault of compiled code, which goes on elsewhere, against a
//! bare handler that does nothing but skip the instruction.
//!
//! Every turn begins with a fresh arena, or a fresh window, so that all page tables are equally
//! empty. The pages lie apart, as those of a wild pointer do.

use harena_arena::SCRATCH_MAX;

use super::bare::{
    BareHandler, MADV_GUARD_INSTALL, Mapping, Mechanism, memory_file, touch_skippable,
};
use super::common::{PAGE, arena, page_offset, scope};
use super::compiled::{known, load_faults};
use crate::harness::{BenchError, Contender, Suite, Turn, race, timed};

/// The whole window, as most schedulers declare it.
const PAGES: u32 = 1 << 20;
/// Pages from one fault to the next.
const STRIDE: u32 = 16;
/// Faults after which reports are drained: the ring never overflows.
const DRAIN_EVERY: u64 = 64;

/// Recovery with its report costs at most this many bare handler loops.
const RECOVERY_MAX: f64 = 1.15;
/// A program's fault costs at most this many bare ones that are skipped.
const PROGRAM_FAULT_MAX: f64 = 1.3;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let free = SCRATCH_MAX as u64;
    let case = "recovery: host fault, scratch slots free";
    if suite.wants(case) {
        let plan = suite.plan(free, 8);
        let mut contenders = [
            Contender::new("harena, reports drained", |ops| host_faults(0, ops)),
            Contender::new("bare SIGSEGV, mmap(MAP_FIXED)", |ops| {
                bare_faults(Mechanism::MapPage, 0, ops)
            }),
            Contender::new("bare SIGSEGV, skip", skipped_faults),
        ];
        let medians = race(case, plan, &mut contenders)?;
        suite.first_against_others(case, &medians, |peer| {
            peer.name.contains("MAP_FIXED").then_some(RECOVERY_MAX)
        });
    }
    let case = "recovery: host fault in a storm";
    if suite.wants(case) {
        let plan = suite.plan(4 * free, 8);
        let mut contenders = [
            Contender::new("harena, oldest taken back, reports drained", |ops| {
                host_faults(free, ops)
            }),
            Contender::new("bare SIGSEGV, mmap(MAP_FIXED) twice", |ops| {
                bare_faults(Mechanism::MapPageHideOldest, free, ops)
            }),
        ];
        let medians = race(case, plan, &mut contenders)?;
        suite.first_against_others(case, &medians, |_| Some(RECOVERY_MAX));
    }
    let case = "recovery: program fault";
    if suite.wants(case) {
        let plan = suite.plan(4 * free, 8);
        let mut contenders = [
            Contender::new("harena, compiled code goes on elsewhere", program_faults),
            Contender::new("bare SIGSEGV, skip", skipped_faults),
        ];
        let medians = race(case, plan, &mut contenders)?;
        suite.first_against_others(case, &medians, |_| Some(PROGRAM_FAULT_MAX));
    }
    user_touch(suite)
}

/// `before` faults to fill the scratch slots, then those that are timed.
fn host_faults(before: u64, ops: u64) -> Result<Turn, BenchError> {
    let arena = arena(PAGES)?;
    let scope = scope(&arena)?;
    let touch = |fault: u64| {
        let page = u32::try_from(fault).unwrap_or(0) * STRIDE;
        arena.ptr::<u64>(page_offset(page)).write(1);
    };
    (0..before).for_each(touch);
    let _drained = arena.drain_reports().count();
    let turn = timed(|| {
        let mut reports = 0;
        for fault in before..before + ops {
            touch(fault);
            if fault % DRAIN_EVERY == DRAIN_EVERY - 1 {
                reports += arena.drain_reports().count();
            }
        }
        (reports + arena.drain_reports().count()) as u64
    });
    drop(scope);
    Ok(turn)
}

fn bare_faults(mechanism: Mechanism, before: u64, ops: u64) -> Result<Turn, BenchError> {
    let len = (PAGES as usize + 1) * PAGE;
    let file = memory_file(len)?;
    let window = Mapping::of(&file, len, libc::PROT_NONE)?;
    let handler = BareHandler::install(mechanism, &window, &file);
    let touch = |fault: u64| window.touch(usize::try_from(fault).unwrap_or(0) * STRIDE as usize);
    (0..before).for_each(touch);
    Ok(timed(|| {
        (before..before + ops).for_each(touch);
        handler.faults() - before
    }))
}

/// No page of the arena is there, and none comes.
fn program_faults(ops: u64) -> Result<Turn, BenchError> {
    let arena = arena(PAGES)?;
    let code = known()?;
    let scope = scope(&arena)?;
    let turn = timed(|| {
        let mut faults = 0;
        for fault in 0..ops {
            let page = u32::try_from(fault).unwrap_or(0) * STRIDE;
            faults += u64::from(load_faults(arena.host_ptr(page_offset(page))));
        }
        faults
    });
    drop(scope);
    drop(code);
    Ok(turn)
}

fn skipped_faults(ops: u64) -> Result<Turn, BenchError> {
    let len = (PAGES as usize + 1) * PAGE;
    let file = memory_file(len)?;
    let window = Mapping::of(&file, len, libc::PROT_NONE)?;
    let handler = BareHandler::install(Mechanism::Skip, &window, &file);
    Ok(timed(|| {
        for fault in 0..ops {
            let page = usize::try_from(fault).unwrap_or(0) * STRIDE as usize;
            touch_skippable(window.page(page));
        }
        handler.faults()
    }))
}

fn user_touch(suite: &mut Suite) -> Result<(), BenchError> {
    let case = "recovery: a user's first touch";
    if !suite.wants(case) {
        return Ok(());
    }
    let plan = suite.plan(256, 8);
    let mut contenders = vec![
        Contender::new("harena, page in both views", user_touches),
        Contender::new("kernel's own demand-zero fault", demand_zero),
    ];
    if super::mechanisms::has_guards()? {
        contenders.push(Contender::new("bare SIGSEGV, guard removed", unguarded));
    }
    let medians = race(case, plan, &mut contenders)?;
    suite.first_against_others(case, &medians, |_| None);
    Ok(())
}

fn user_touches(ops: u64) -> Result<Turn, BenchError> {
    let arena = arena(PAGES)?;
    let base = arena
        .map_user()
        .map_err(BenchError::setup("a user's view"))?;
    Ok(timed(|| {
        for touch in 0..ops {
            let page = usize::try_from(touch).unwrap_or(0) * STRIDE as usize;
            let word = base.wrapping_add(page * PAGE).cast::<u64>();
            // SAFETY: in the view, which lives as long as the arena; the fault is recovered.
            unsafe { word.write_volatile(1) };
        }
        u64::from(arena.pages_in_use())
    }))
}

fn demand_zero(ops: u64) -> Result<Turn, BenchError> {
    let len = (PAGES as usize + 1) * PAGE;
    let file = memory_file(len)?;
    let window = Mapping::of(&file, len, libc::PROT_READ | libc::PROT_WRITE)?;
    Ok(timed(|| touch_each(&window, ops)))
}

fn unguarded(ops: u64) -> Result<Turn, BenchError> {
    let len = (PAGES as usize + 1) * PAGE;
    let file = memory_file(len)?;
    let window = Mapping::of(&file, len, libc::PROT_READ | libc::PROT_WRITE)?;
    let used = usize::try_from(ops).unwrap_or(0) * STRIDE as usize * PAGE;
    let guarded = window.advise(0, used, MADV_GUARD_INSTALL);
    assert!(guarded, "probed before");
    let handler = BareHandler::install(Mechanism::Unguard, &window, &file);
    Ok(timed(|| {
        touch_each(&window, ops);
        handler.faults()
    }))
}

fn touch_each(window: &Mapping, ops: u64) -> u64 {
    for touch in 0..ops {
        window.touch(usize::try_from(touch).unwrap_or(0) * STRIDE as usize);
    }
    ops
}
