//! Writing down a violation: the kernel's text in the program's stderr stream, and an
//! entry in the list for tables.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use harena_abi::{Cpu, UserAddr};
use harena_arena::SlabFreeError;
use harena_arena_fault::{Access, Report};

use crate::error::access_word;
use crate::host::Host;
use crate::program::{ProgArena, Program};
use crate::violation::{Violation, ViolationKind};
use crate::vm::Vm;

/// Reports that are kept for who made the scopes they come from.
const FOREIGN_MAX: usize = harena_arena::REPORTS_MAX;

/// Where a program stands, as far as its report is concerned.
struct Site {
    program: Arc<Program>,
    /// Its innermost run's frames, if it runs.
    frames: Range<usize>,
    cpu: Cpu,
}

impl Site {
    /// The innermost run.
    fn here(vm: &Vm, host: &dyn Host, program: &Program) -> Self {
        let first = vm.runs.last().map_or(0, |run| run.first_frame);
        Self {
            program: Arc::clone(&vm.programs[program.id.index()]),
            frames: first..vm.frames.len(),
            cpu: host.cpu(),
        }
    }

    /// The innermost run of the program that a report names; `None` if it names none of ours.
    fn of(vm: &Vm, report: &Report) -> Option<Self> {
        let index = usize::try_from(report.program.raw()).ok()?;
        let program = Arc::clone(vm.programs.get(index)?);
        let run = vm.runs.iter().rposition(|run| run.prog == program.id);
        let frames = run.map_or(0..0, |at| {
            let end = vm.runs.get(at + 1).map(|next| next.first_frame);
            vm.runs[at].first_frame..end.unwrap_or(vm.frames.len())
        });
        Some(Self {
            program,
            frames,
            cpu: report.cpu,
        })
    }

    /// The instruction that is being executed; the first one of a program that does not run.
    fn insn(&self, vm: &Vm) -> u32 {
        let frame = vm.frames[self.frames.clone()].last();
        frame.map_or(0, |frame| frame.pc)
    }
}

/// Reports what host code did to the arena of `program`: the handler recovered the faults and
/// left word of them. Gives their number. Each goes to the program that ran when it happened,
/// which need not be this one.
pub(crate) fn host_faults(vm: &mut Vm, host: &dyn Host, program: &Program) -> u64 {
    let Some(ProgArena { map, memory, .. }) = &program.arena else {
        return 0;
    };
    // Before the reports are drained: what comes meanwhile is seen the next time.
    let recovered = memory.faults_recovered();
    let seen = vm.faults_seen.get(map).copied().unwrap_or(0);
    if recovered == seen {
        return 0;
    }
    for report in memory.drain_reports() {
        match Site::of(vm, &report) {
            Some(site) => {
                let what = (ViolationKind::Host, report.access);
                record(vm, &site, what, report.address.raw());
                write_fault(vm, host, &site, report.access, report.address.raw());
            }
            None if vm.foreign_reports.len() < FOREIGN_MAX => vm.foreign_reports.push(report),
            None => vm.reports_dropped += 1,
        }
    }
    vm.faults_seen.insert(*map, recovered);
    recovered.saturating_sub(seen)
}

/// Records a violation at the instruction that is being executed. Faults on an arena are also
/// reported in the stderr stream of the program.
pub(crate) fn violation(
    vm: &mut Vm,
    host: &dyn Host,
    program: &Program,
    what: (ViolationKind, Access),
    address: u64,
) {
    let site = Site::here(vm, host, program);
    record(vm, &site, what, address);
    if what.0 != ViolationKind::Wild {
        write_fault(vm, host, &site, what.1, address);
    }
}

/// Records that a program freed what is no object of its arena.
pub(crate) fn bad_free(
    vm: &mut Vm,
    host: &dyn Host,
    program: &Program,
    address: UserAddr,
    refused: SlabFreeError,
) {
    let site = Site::here(vm, host, program);
    let what = (ViolationKind::Free, Access::Write);
    record(vm, &site, what, address.raw());
    let headline = format!("ERROR: Arena free of {address}: {refused}");
    write_report(vm, host, &site, || headline);
}

fn record(vm: &mut Vm, site: &Site, (kind, access): (ViolationKind, Access), address: u64) {
    let insn = site.insn(vm);
    let program = &*site.program;
    vm.violations.add((program.id, insn), kind, access, || {
        let line = program.line_at(insn);
        Violation {
            kind,
            program: program.name().to_owned(),
            function: program.place(insn).function,
            insn,
            access: access_word(access),
            address,
            file: line.map(|l| l.file.trim_start_matches("./").to_owned()),
            line: line.map(|l| l.line),
            source: line.map(|l| l.text.trim().to_owned()),
            count: 1,
        }
    });
}

/// The report of a fault on an arena, in the kernel's layout.
fn write_fault(vm: &mut Vm, host: &dyn Host, site: &Site, access: Access, address: u64) {
    let word = access_word(access);
    write_report(vm, host, site, || {
        format!("ERROR: Arena {word} access at unmapped address {address:#x}")
    });
}

/// Writes a report to the program's stderr stream.
fn write_report(vm: &mut Vm, host: &dyn Host, site: &Site, headline: impl FnOnce() -> String) {
    let program = &*site.program;
    let stderr = &mut vm.streams[program.id.index()].stderr;
    if stderr.overflowed() {
        // In a storm of faults, text that nobody will read is not written.
        stderr.drop_one();
        vm.reports_dropped += 1;
        return;
    }
    let text = report_text(vm, host, site, &headline());
    let full = vm.streams[program.id.index()].stderr.push(text);
    vm.reports_dropped += u64::from(full.is_err());
}

/// A report: what happened, who ran where, and how it came there.
fn report_text(vm: &Vm, host: &dyn Host, site: &Site, headline: &str) -> String {
    let mut text = String::new();
    let task = host.current();
    let written = writeln!(text, "{headline}")
        .and_then(|()| {
            let (cpu, uid, pid) = (site.cpu, task.uid, task.pid);
            writeln!(text, "CPU: {cpu} UID: {uid} PID: {pid} Comm: {}", task.comm)
        })
        .and_then(|()| writeln!(text, "Call trace:"))
        .and_then(|()| call_trace(vm, site, &mut text))
        .and_then(|()| writeln!(text));
    written.expect("writing to a string succeeds");
    text
}

/// The frames of the program's innermost run, innermost first.
fn call_trace(vm: &Vm, site: &Site, text: &mut String) -> std::fmt::Result {
    for frame in vm.frames[site.frames.clone()].iter().rev() {
        let program = vm.program(frame.prog);
        writeln!(text, "{}", program.symbol(frame.pc))?;
        if let Some(line) = program.line_text(frame.pc) {
            writeln!(text, "  {line}")?;
        }
    }
    Ok(())
}
