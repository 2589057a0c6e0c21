//! `harena prog run`: one `syscall` program, once.

use std::io::Write;

use harena_kernel::SyscallProgram;
use harena_report::ProgramRun;
use harena_vm::StreamId;

use crate::args::Format;
use crate::plan::{PerfMap, ProgRunPlan};
use crate::run::{outputs, tell_jit_refused, violation};
use crate::status::Status;
use crate::{Failure, object, output, perf_map};

/// Runs the program and prints what it did.
pub(crate) fn run(plan: ProgRunPlan) -> Result<Status, Failure> {
    let mut program = load(&plan)?;
    tell_jit_refused(program.object().vm().jit_refused());
    if plan.execution.perf_map == PerfMap::Write {
        perf_map::write(&program.object().vm().code_ranges(), "bpf_prog_")?;
    }
    let mut context = plan.context;
    let ran = program
        .run(&mut context)
        .map_err(|error| Failure::bad_input(format!("program `{}`", plan.program), error))?;
    let context_file = match plan.context_to {
        None => None,
        Some((name, mut file)) => {
            file.write_all(&context)
                .map_err(|error| Failure::internal(format!("cannot write `{name}`"), error))?;
            Some(name)
        }
    };
    let object = program.object_mut();
    let stdout = object.drain_streams(StreamId::Stdout);
    let stderr = object.drain_streams(StreamId::Stderr);
    let trace = object.drain_trace();
    let vm = object.vm();
    let report = ProgramRun {
        object: plan.object.name,
        program: plan.program,
        returned: ran.as_ref().ok().map(|ran| as_int(ran.ret)),
        aborted: ran.as_ref().err().map(ToString::to_string),
        insns: vm.insns_total(),
        context,
        context_file,
        violations: vm.violations().iter().map(violation).collect(),
        violations_dropped: vm.violations_dropped(),
        output: outputs(stdout, stderr, trace),
    };
    match plan.format {
        Format::Text => output::print(&report.to_text())?,
        Format::Json => output::print(&report.to_json())?,
    }
    Ok(match &report.aborted {
        None => Status::Fine,
        Some(why) => {
            output::complain(&format!("object `{}`: {why}", report.object));
            Status::SchedulerError
        }
    })
}

fn load(plan: &ProgRunPlan) -> Result<SyscallProgram, Failure> {
    let object = object::parse(&plan.object)?;
    let options = object::options(&object, &plan.execution);
    SyscallProgram::load(object, &plan.program, &options)
        .map_err(|error| Failure::bad_input(format!("object `{}`", plan.object.name), error))
}

/// What a function of type `int` returned: the low half.
fn as_int(r0: u64) -> i32 {
    let low = u32::try_from(r0 & 0xffff_ffff).expect("the low half");
    low.cast_signed()
}
