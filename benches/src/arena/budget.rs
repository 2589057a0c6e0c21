//! Memory and mappings: what 100,000 pages cost a process that may have 65,530 mappings.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harena_arena::Arena;

use super::bare::{Mapping, memory_file};
use super::common::{PAGE, arena, page_addr, page_offset, scope};
use crate::harness::{BenchError, Contender, Suite, race, timed};
use crate::table::Row;

/// The whole 4 GiB.
const WINDOW: u32 = 1 << 20;
/// Pages from one scattered page to the next; the faults come between them.
const STRIDE: u32 = 10;
const MIB: f64 = 1024.0 * 1024.0;

/// Mappings must stay below the limit.
const BELOW_LIMIT: f64 = 1.0;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    creation(suite)?;
    let count = u32::try_from(suite.count(100_000, 1_000)).unwrap_or(0);
    let case = format!("budget: {count} scattered pages");
    let faults_case = format!("budget: {count} faults on other pages");
    if !suite.wants(&case) && !suite.wants(&faults_case) {
        return Ok(());
    }
    let empty = Use::now()?;
    let arena = arena(WINDOW)?;
    for page in 0..count {
        let at = page_addr(page * STRIDE);
        arena
            .alloc_pages(Some(at), 1, 0)
            .map_err(BenchError::setup("allocating a page"))?;
        arena
            .ptr::<u64>(page_offset(page * STRIDE))
            .write(u64::from(page));
    }
    let pages = Use::now()?;
    figures(suite, &case, &pages, &empty)?;
    fault_all(&arena, count)?;
    figures(suite, &faults_case, &Use::now()?, &pages)?;
    check_contents(&arena, &faults_case, count)
}

fn creation(suite: &mut Suite) -> Result<(), BenchError> {
    let case = "arena: create and destroy, 4 GiB";
    if !suite.wants(case) {
        return Ok(());
    }
    let mut contenders = [
        Contender::new("harena", |ops| {
            let mut failed = Ok(());
            let turn = timed(|| {
                let made = (0..ops).try_for_each(|_| arena(WINDOW).map(drop));
                failed = made;
                ops
            });
            failed.map(|()| turn)
        }),
        Contender::new("bare memory file and mapping", |ops| {
            let len = WINDOW as usize * PAGE;
            let mut failed = Ok(());
            let turn = timed(|| {
                failed = (0..ops).try_for_each(|_| {
                    let file = memory_file(len)?;
                    Mapping::of(&file, len, libc::PROT_NONE).map(drop)
                });
                ops
            });
            failed.map(|()| turn)
        }),
    ];
    let medians = race(case, suite.plan(50, 2), &mut contenders)?;
    suite.first_against_others(case, &medians, |_| None);
    Ok(())
}

/// Touches as many empty pages, and drains what is reported.
fn fault_all(arena: &Arena, count: u32) -> Result<(), BenchError> {
    let scope = scope(arena)?;
    let mut reports = 0;
    for page in 0..count {
        let place = page_offset(page * STRIDE + STRIDE / 2);
        arena.ptr::<u64>(place).write(u64::MAX);
        if page % 64 == 63 {
            reports += arena.drain_reports().count();
        }
    }
    reports += arena.drain_reports().count();
    drop(scope);
    same("budget: reports", reports as u64, u64::from(count))
}

fn check_contents(arena: &Arena, case: &str, count: u32) -> Result<(), BenchError> {
    let intact = (0..count)
        .filter(|page| arena.ptr::<u64>(page_offset(page * STRIDE)).read() == u64::from(*page))
        .count();
    same(case, intact as u64, u64::from(count))
}

fn same(case: &str, value: u64, expected: u64) -> Result<(), BenchError> {
    if value == expected {
        return Ok(());
    }
    Err(BenchError::Mismatch {
        case: case.to_owned(),
        subject: "harena".to_owned(),
        value,
        peer: "what was done".to_owned(),
        peer_value: expected,
    })
}

/// What the process uses, in bytes but for mappings.
struct Use {
    mappings: u64,
    page_tables: u64,
    resident: u64,
    files: u64,
}

impl Use {
    fn now() -> Result<Self, BenchError> {
        let status = read("/proc/self/status")?;
        Ok(Self {
            mappings: read("/proc/self/maps")?.lines().count() as u64,
            page_tables: status_bytes(&status, "VmPTE:"),
            resident: status_bytes(&status, "VmRSS:"),
            files: arena_file_bytes()?,
        })
    }
}

fn read(path: &str) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(BenchError::setup("procfs"))
}

fn status_bytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Memory of this process's memory files that belong to arenas.
fn arena_file_bytes() -> Result<u64, BenchError> {
    let mut bytes = 0;
    let entries = fs::read_dir("/proc/self/fd").map_err(BenchError::setup("procfs"))?;
    for entry in entries.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("memfd:harena") {
            bytes += fs::metadata(entry.path()).map_or(0, |meta| meta.blocks() * 512);
        }
    }
    Ok(bytes)
}

/// The growth since `before`, and all mappings against what a process may have.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn figures(suite: &mut Suite, case: &str, now: &Use, before: &Use) -> Result<(), BenchError> {
    if !suite.wants(case) {
        return Ok(());
    }
    let limit = read("/proc/sys/vm/max_map_count")?;
    let limit: f64 = limit
        .trim()
        .parse()
        .map_err(BenchError::setup("vm.max_map_count"))?;
    suite.push(
        Row::figure(
            "arena",
            case,
            "mappings of the process",
            "1",
            now.mappings as f64,
        )
        .against("vm.max_map_count", limit)
        .target(Some(BELOW_LIMIT)),
    );
    for (subject, now, before) in [
        ("memory of the file, more", now.files, before.files),
        ("page tables, more", now.page_tables, before.page_tables),
        ("resident, more", now.resident, before.resident),
    ] {
        suite.figure(case, subject, "MiB", (now as f64 - before as f64) / MIB);
    }
    Ok(())
}
