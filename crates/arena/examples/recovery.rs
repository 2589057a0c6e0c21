//! What host code may do with a pointer that sandboxed code hands in: anything.
//!
//! The host follows a wild pointer, is told about it, allocates that very page afterwards, and
//! sits through a storm of bad pointers, without a check before any access. Run with
//! `cargo run --package harena-arena --example recovery`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{Arena, ArenaSpec, ProgramScope, ProgramTag, REPORTS_MAX, SCRATCH_MAX};

const START: UserAddr = UserAddr::new(0x1000_0000_0000);
const PAGES: u32 = 4096;

/// Runs the example; an error is a surprise.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::create(&ArenaSpec {
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra: START.raw(),
        ..ArenaSpec::default()
    })?;
    // Host code runs on behalf of program 7, on CPU 3: that is whom a report will name.
    let _program = ProgramScope::enter(ProgramTag::new(7), Some(&arena), Cpu::new(3))?;

    // A program hands in a pointer of which only the low half is right, to a page that is empty.
    let wild = ArenaOffset::of(UserAddr::new(0xdead_beef_0000_7008));
    let word = arena.ptr::<u64>(wild);
    word.write(42);
    let report = arena.drain_reports().next().ok_or("no report")?;
    println!(
        "a wild pointer: {:?} access at {} by {:?} on {:?}; the host goes on",
        report.access, report.address, report.program, report.cpu
    );
    ensure(
        report.address.raw() == START.raw() + 0x7000,
        "the report names the page",
    )?;
    ensure(word.read() == 42, "the scratch page takes what is written")?;
    ensure(
        arena.pages_in_use() == 0,
        "no page of the arena was used for it",
    )?;

    // The page is allocated all the same: scratch goes, a zeroed page comes.
    let page = UserAddr::new(START.raw() + 0x7000);
    arena.alloc_pages(Some(page), 1, 0)?;
    println!("the page, allocated afterwards: {}", word.read());
    ensure(word.read() == 0, "a new page is zeroed")?;
    word.write(1);

    // A storm: each page of the window is touched, and the upper guard behind it.
    for at in 0..PAGES {
        arena.ptr::<u8>(ArenaOffset::new(at * 4096)).write(0xff);
    }
    // Eight bytes from the window's last one: two pages, both the one scratch page.
    let last = arena.ptr::<u64>(ArenaOffset::new(u32::MAX));
    ensure(last.read() == 0xff00, "the storm's last byte is in scratch")?;
    let faults = arena.faults_recovered();
    let (reports, dropped) = (arena.drain_reports().count(), arena.reports_dropped());
    println!(
        "a storm: {faults} faults recovered, {} pages in use, {} pages are scratch, \
         {reports} reports and {dropped} counted but dropped",
        arena.pages_in_use(),
        arena.scratch_count(),
    );
    ensure(
        faults == 1 + u64::from(PAGES - 1) + 2,
        "each page but the allocated one, and the guard",
    )?;
    ensure(
        arena.scratch_count() <= SCRATCH_MAX,
        "mappings stay bounded",
    )?;
    ensure(reports == REPORTS_MAX, "reports stay bounded")?;
    ensure(
        reports as u64 + dropped + 1 == faults,
        "and none is lost uncounted",
    )?;
    ensure(word.read() == 1, "the real page kept its value")
}

fn ensure(holds: bool, what: &'static str) -> Result<(), Box<dyn Error>> {
    if holds {
        Ok(())
    } else {
        Err(format!("not so: {what}").into())
    }
}
