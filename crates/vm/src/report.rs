//! Writing down a violation: the kernel's text in the program's stderr stream, and an
//! entry in the list for tables.

use std::fmt::Write as _;
use std::sync::Arc;

use harena_arena_fault::Access;

use crate::error::access_word;
use crate::host::Host;
use crate::program::Program;
use crate::violation::{Violation, ViolationKind};
use crate::vm::Vm;

/// Reports what a kfunc did to the program's arena: the handler recovered the faults and left
/// word of them. Gives their number.
pub(crate) fn host_faults(vm: &mut Vm, host: &dyn Host, program: &Program) -> u64 {
    let Some(map) = program.arena else { return 0 };
    let Some(arena) = vm.arena(map) else { return 0 };
    let recovered = arena.faults_recovered();
    let seen = vm.faults_seen.get(&map).copied().unwrap_or(0);
    if recovered == seen {
        return 0;
    }
    let arena = Arc::clone(arena);
    for report in arena.drain_reports() {
        let what = (ViolationKind::Host, report.access);
        violation(vm, host, program, what, report.address.raw());
    }
    vm.faults_seen.insert(map, recovered);
    recovered.saturating_sub(seen)
}

/// Records a violation at the instruction that is being executed. Faults on an arena are also
/// reported in the stderr stream of the program.
pub(crate) fn violation(
    vm: &mut Vm,
    host: &dyn Host,
    program: &Program,
    (kind, access): (ViolationKind, Access),
    address: u64,
) {
    let insn = vm.frames.last().map_or(0, |frame| frame.pc);
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
    if kind == ViolationKind::Wild {
        return;
    }
    let stderr = &mut vm.streams[program.id.index()].stderr;
    if stderr.overflowed() {
        // In a storm of faults, text that nobody will read is not written.
        stderr.drop_one();
        return;
    }
    let text = arena_report(vm, host, program, access, address);
    // A full stream counts what it drops.
    let _full = vm.streams[program.id.index()].stderr.push(text);
}

/// The report of a fault on an arena, in the kernel's layout.
fn arena_report(
    vm: &Vm,
    host: &dyn Host,
    program: &Program,
    access: Access,
    address: u64,
) -> String {
    let mut text = String::new();
    let task = host.current();
    let word = access_word(access);
    let written = writeln!(
        text,
        "ERROR: Arena {word} access at unmapped address {address:#x}"
    )
    .and_then(|()| {
        let (cpu, uid, pid) = (host.cpu(), task.uid, task.pid);
        writeln!(text, "CPU: {cpu} UID: {uid} PID: {pid} Comm: {}", task.comm)
    })
    .and_then(|()| writeln!(text, "Call trace:"))
    .and_then(|()| call_trace(vm, program, &mut text))
    .and_then(|()| writeln!(text));
    written.expect("writing to a string succeeds");
    text
}

/// The frames of the innermost run, innermost first.
fn call_trace(vm: &Vm, program: &Program, text: &mut String) -> std::fmt::Result {
    let first = vm.runs.last().map_or(0, |run| run.first_frame);
    for frame in vm.frames[first..].iter().rev() {
        writeln!(text, "{}", program.symbol(frame.pc))?;
        if let Some(line) = program.line_text(frame.pc) {
            writeln!(text, "  {line}")?;
        }
    }
    Ok(())
}
