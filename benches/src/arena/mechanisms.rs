//! The system calls of which a mapping scheme can be made, each alone: what the choice in
//! `docs/design/0002-arena-mapping.md` rests on.
//!
//! No row has a target; the peer of all is the cheapest fault there is.

use super::bare::{
    BareHandler, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, Mapping, Mechanism, memory_file, punch,
    touch_skippable,
};
use super::common::PAGE;
use super::uffd::{self, Kind};
use crate::harness::{BenchError, Contender, Suite, Turn, race, timed};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Pages from one operation to the next, so that mappings do not merge.
const STRIDE: usize = 16;
/// Operations of a turn.
const OPS: u64 = 256;
/// The big window: what an arena reserves.
const WINDOW_PAGES: usize = 1 << 20;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    single(suite)?;
    runs(suite)?;
    whole_window(suite)
}

/// A fresh window and its file.
struct Window {
    file: std::os::fd::OwnedFd,
    mapping: Mapping,
    len: usize,
}

impl Window {
    fn new(ops: u64, stride: usize, prot: i32) -> Result<Self, BenchError> {
        let len = (usize::try_from(ops).unwrap_or(0) * stride + 1) * PAGE;
        let file = memory_file(len)?;
        let mapping = Mapping::of(&file, len, prot)?;
        Ok(Self { file, mapping, len })
    }

    fn guarded(self) -> Self {
        let done = self.mapping.advise(0, self.len, MADV_GUARD_INSTALL);
        assert!(done, "probed before");
        self
    }

    /// The file has all pages that are used, in memory.
    fn filled(self, ops: u64, stride: usize) -> Self {
        (0..usize::try_from(ops).unwrap_or(0)).for_each(|op| self.mapping.touch(op * stride));
        self
    }

    fn touch_each(&self, ops: u64) {
        each(ops, |op| self.mapping.touch(op * STRIDE));
    }
}

fn each(ops: u64, work: impl FnMut(usize)) {
    (0..usize::try_from(ops).unwrap_or(0)).for_each(work);
}

/// Whether guard markers can be put on shared memory.
pub(super) fn has_guards() -> Result<bool, BenchError> {
    let window = Window::new(1, 1, READ_WRITE)?;
    Ok(window.mapping.advise(0, PAGE, MADV_GUARD_INSTALL))
}

fn fault(mechanism: Mechanism) -> impl FnMut(u64) -> Result<Turn, BenchError> {
    move |ops| {
        let window = if mechanism == Mechanism::Unguard {
            Window::new(ops, STRIDE, READ_WRITE)?.guarded()
        } else {
            Window::new(ops, STRIDE, libc::PROT_NONE)?
        };
        let handler = BareHandler::install(mechanism, &window.mapping, &window.file);
        Ok(timed(|| {
            if mechanism == Mechanism::Skip {
                each(ops, |op| touch_skippable(window.mapping.page(op * STRIDE)));
            } else {
                window.touch_each(ops);
            }
            handler.faults()
        }))
    }
}

/// A contender that makes one call for each operation on a window that `prepare` gives.
fn calls(
    name: &str,
    prepare: impl Fn(u64) -> Result<Window, BenchError> + 'static,
    call: impl Fn(&Window, usize) + 'static,
) -> Contender<'static> {
    Contender::new(name, move |ops| {
        let window = prepare(ops)?;
        Ok(timed(|| {
            each(ops, |op| call(&window, op));
            ops
        }))
    })
}

fn uffd_fault(mechanism: Mechanism, kind: Kind) -> impl FnMut(u64) -> Result<Turn, BenchError> {
    move |ops| {
        let window = Window::new(ops, STRIDE, READ_WRITE)?;
        let window = match kind {
            Kind::Missing => window,
            Kind::Minor => {
                let filled = window.filled(ops, STRIDE);
                // Another mapping of the file, which has no page yet.
                let mapping = Mapping::of(&filled.file, filled.len, READ_WRITE)?;
                Window { mapping, ..filled }
            }
        };
        let uffd = uffd::register(&window.mapping, window.len, kind)
            .map_err(BenchError::setup("userfaultfd"))?;
        let handler = BareHandler::install(mechanism, &window.mapping, &uffd);
        Ok(timed(|| {
            window.touch_each(ops);
            handler.faults()
        }))
    }
}

fn has_uffd() -> Result<Result<(), String>, BenchError> {
    let window = Window::new(1, 1, READ_WRITE)?;
    let registered = uffd::register(&window.mapping, window.len, Kind::Missing);
    Ok(registered.map(drop).map_err(|error| error.to_string()))
}

fn single(suite: &mut Suite) -> Result<(), BenchError> {
    let case = "mechanism: one page";
    if !suite.wants(case) {
        return Ok(());
    }
    let mut contenders = vec![
        Contender::new("SIGSEGV, skip", fault(Mechanism::Skip)),
        Contender::new("SIGSEGV, mmap(MAP_FIXED)", fault(Mechanism::MapPage)),
        Contender::new("SIGSEGV, mprotect", fault(Mechanism::Protect)),
    ];
    contenders.extend(single_calls());
    if has_guards()? {
        contenders.extend(guards());
    }
    let no_uffd = has_uffd()?.err();
    if no_uffd.is_none() {
        contenders.push(Contender::new(
            "SIGBUS, userfaultfd ZEROPAGE",
            uffd_fault(Mechanism::UffdZero, Kind::Missing),
        ));
        contenders.push(Contender::new(
            "SIGBUS, userfaultfd CONTINUE",
            uffd_fault(Mechanism::UffdContinue, Kind::Minor),
        ));
    }
    let medians = race(case, suite.plan(OPS, 8), &mut contenders)?;
    suite.others_against_first(case, &medians);
    if let (Some(why), Some(skip)) = (no_uffd, medians.first()) {
        suite.skipped(case, skip, "userfaultfd", &why);
    }
    Ok(())
}

fn readable(ops: u64) -> Result<Window, BenchError> {
    Window::new(ops, STRIDE, READ_WRITE)
}

fn hidden(ops: u64) -> Result<Window, BenchError> {
    Window::new(ops, STRIDE, libc::PROT_NONE)
}

fn single_calls() -> [Contender<'static>; 4] {
    [
        calls(
            "demand-zero fault on a memory file",
            readable,
            |window, op| {
                window.mapping.touch(op * STRIDE);
            },
        ),
        calls("mmap(MAP_FIXED)", hidden, |window, op| {
            let at = op * STRIDE;
            window.mapping.replace(at, PAGE, READ_WRITE, &window.file);
        }),
        calls("mprotect", hidden, |window, op| {
            window.mapping.protect(op * STRIDE, PAGE, READ_WRITE);
        }),
        calls(
            "PUNCH_HOLE, page mapped",
            |ops| Ok(readable(ops)?.filled(ops, STRIDE)),
            |window, op| punch(&window.file, op * STRIDE, PAGE),
        ),
    ]
}

fn advise(window: &Window, page: usize, len: usize, advice: i32) {
    let done = window.mapping.advise(page, len, advice);
    assert!(done, "probed before");
}

fn guards() -> [Contender<'static>; 4] {
    [
        Contender::new("SIGSEGV, guard removed", fault(Mechanism::Unguard)),
        calls(
            "guard removed",
            |ops| Ok(readable(ops)?.guarded()),
            |window, op| advise(window, op * STRIDE, PAGE, MADV_GUARD_REMOVE),
        ),
        calls(
            "guard removed, page touched",
            |ops| Ok(readable(ops)?.guarded()),
            |window, op| {
                advise(window, op * STRIDE, PAGE, MADV_GUARD_REMOVE);
                window.mapping.touch(op * STRIDE);
            },
        ),
        calls(
            "guard installed on a page in use",
            |ops| Ok(readable(ops)?.filled(ops, STRIDE)),
            |window, op| advise(window, op * STRIDE, PAGE, MADV_GUARD_INSTALL),
        ),
    ]
}

/// Pages of one call, and from one call to the next.
const RUN: usize = 64;
const STEP: usize = 2 * RUN;

/// One call for many pages.
fn runs(suite: &mut Suite) -> Result<(), BenchError> {
    const BYTES: usize = RUN * PAGE;
    let case = "mechanism: one call for 64 pages";
    if !suite.wants(case) {
        return Ok(());
    }
    let readable = |ops| Window::new(ops, STEP, READ_WRITE);
    let hidden = |ops| Window::new(ops, STEP, libc::PROT_NONE);
    let mut contenders = vec![
        calls("mmap(MAP_FIXED)", hidden, |window, op| {
            let at = op * STEP;
            window.mapping.replace(at, BYTES, READ_WRITE, &window.file);
        }),
        calls("mprotect", hidden, |window, op| {
            window.mapping.protect(op * STEP, BYTES, READ_WRITE);
        }),
        calls(
            "PUNCH_HOLE, pages mapped",
            move |ops| Ok(readable(ops)?.filled(ops * STEP as u64, 1)),
            |window, op| punch(&window.file, op * STEP, BYTES),
        ),
    ];
    if has_guards()? {
        contenders.push(calls(
            "guards removed",
            move |ops| Ok(readable(ops)?.guarded()),
            |window, op| advise(window, op * STEP, BYTES, MADV_GUARD_REMOVE),
        ));
        contenders.push(calls(
            "guards installed on pages in use",
            move |ops| Ok(readable(ops)?.filled(ops * STEP as u64, 1)),
            |window, op| advise(window, op * STEP, BYTES, MADV_GUARD_INSTALL),
        ));
    }
    let medians = race(case, suite.plan(32, 2), &mut contenders)?;
    suite.others_against_first(case, &medians);
    Ok(())
}

/// What it would cost to guard a whole window at once.
fn whole_window(suite: &mut Suite) -> Result<(), BenchError> {
    let case = "mechanism: 4 GiB window";
    if !suite.wants(case) {
        return Ok(());
    }
    let mut plan = suite.plan(1, 1);
    plan.repeats = plan.repeats.min(5);
    let mut contenders = vec![Contender::new("mapped and unmapped", |ops| {
        Ok(timed(|| {
            let window = Window::new(WINDOW_PAGES as u64, 1, libc::PROT_NONE);
            u64::from(window.is_ok()) * ops
        }))
    })];
    if has_guards()? {
        contenders.push(Contender::new("guards installed", |ops| {
            let window = Window::new(WINDOW_PAGES as u64, 1, READ_WRITE)?;
            let install = || window.mapping.advise(0, window.len, MADV_GUARD_INSTALL);
            Ok(timed(|| u64::from(install()) * ops))
        }));
    }
    let medians = race(case, plan, &mut contenders)?;
    suite.others_against_first(case, &medians);
    Ok(())
}
