//! `harena run`: carries out a plan and says how it ended.

use std::time::{Duration, Instant};

use harena_kernel::{BpfScheduler, LoadError, LoadOptions, NeverFires};
use harena_report::{
    ArenaUse, Counts, Output, Results, Scheduler, SourceLine, Tracing, Violation, Workload,
};
use harena_scx::{Form, SchedOps};
use harena_sim::{Outcome, SimError, Simulation};
use harena_vm::{StreamId, ViolationKind};

use crate::args::Format;
use crate::plan::{PerfMap, Report, RunPlan};
use crate::progress::{Progress, Show};
use crate::status::Status;
use crate::{Failure, object, output, perf_map, results, stats};

/// The watchdog's limit if the scheduler does not set one.
const TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Runs the plan and prints its results.
pub(crate) fn run(plan: &RunPlan) -> Result<Status, Failure> {
    if plan.report != Report::Nothing {
        tell_notes(plan);
    }
    let mut simulation = prepare(plan)?;
    if plan.report != Report::Nothing {
        tell_jit_refused(simulation.scheduler().jit_refused());
        tell_never_fires(simulation.scheduler());
    }
    if plan.execution.perf_map == PerfMap::Write {
        let scheduler = simulation.scheduler();
        let prefix = format!("bpf_prog_{}_", scheduler.config().name);
        perf_map::write(&scheduler.code_ranges(), &prefix)?;
    }
    let (outcome, wall) = simulate(plan, &mut simulation)?;
    let mut results = collect(plan, simulation.scheduler(), &outcome, wall);
    results.scheduler.output = printed(simulation.scheduler_mut());
    match plan.report {
        Report::Nothing => {}
        Report::Results(Format::Text) => output::print(&results.to_text())?,
        Report::Results(Format::Json) => output::print(&results.to_json())?,
    }
    let status = Status::of_exit_kind(outcome.exit.kind);
    if status != Status::Fine {
        output::complain(&cause(&results));
        return Ok(status);
    }
    // A program that misbehaves when the scheduler is leaving already is told by no exit.
    match simulation.scheduler().abort() {
        None => Ok(Status::Fine),
        Some(abort) => {
            let name = &results.scheduler.name;
            output::complain(&format!(
                "scheduler `{name}`: {abort} (seed {})",
                results.seed
            ));
            Ok(Status::SchedulerError)
        }
    }
}

/// Says why there is no machine code, if there should be some.
pub(crate) fn tell_jit_refused(why: Option<&str>) {
    if let Some(why) = why {
        output::complain(&format!(
            "note: no machine code, programs are interpreted: {why}"
        ));
    }
}

/// Says which programs are loaded and never run, and why.
fn tell_never_fires(scheduler: &BpfScheduler) {
    for never in scheduler.never_fires() {
        let NeverFires {
            program,
            section,
            why,
        } = never;
        output::complain(&format!(
            "note: program `{program}` ({section}) never fires: {why}"
        ));
    }
}

/// Says which keys of the workload were read and change nothing: silence would let its
/// author believe that they do.
fn tell_notes(plan: &RunPlan) {
    let workload = &plan.sim.workload;
    for note in &workload.notes {
        output::complain(&format!(
            "note: workload `{}`, line {}: `{}`: {}",
            workload.name, note.line, note.path, note.message
        ));
    }
}

/// The machine with the scheduler loaded.
#[expect(
    clippy::large_stack_frames,
    reason = "the machine is moved into its box once, near the bottom of the stack"
)]
fn prepare(plan: &RunPlan) -> Result<Box<Simulation<BpfScheduler>>, Failure> {
    let object = object::parse(&plan.object)?;
    let options = LoadOptions {
        hz: plan.sim.hz,
        arena_limit: plan.arena_limit,
        arena_fail: plan.arena_fail,
        attach: plan.attach.clone(),
        ..object::options(&object, &plan.execution)
    };
    let (scheduler, image) =
        BpfScheduler::load(object, &options, &plan.sim.topology).map_err(|error| {
            let input = if matches!(error, LoadError::CpuCount { .. }) {
                format!("topology `{}`", plan.topology)
            } else {
                format!("object `{}`", plan.object.name)
            };
            Failure::bad_input(input, error)
        })?;
    let simulation = Simulation::new(plan.sim.clone(), scheduler, image, None)
        .map_err(|error| Failure::bad_input("cannot simulate", error))?;
    Ok(Box::new(simulation))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a run took is shown, and nothing depends on it"
)]
fn simulate(
    plan: &RunPlan,
    simulation: &mut Simulation<BpfScheduler>,
) -> Result<(Outcome, Duration), Failure> {
    let show = match plan.report {
        Report::Nothing => Show::Never,
        Report::Results(_) => Show::OnTerminal,
    };
    let progress = Progress::new(show, plan.sim.duration);
    let started = Instant::now();
    let outcome = simulation.run(&mut |at| progress.at(at.now, at.events));
    let wall = started.elapsed();
    let what = || format!("object `{}`, seed {}", plan.object.name, plan.sim.seed);
    match outcome {
        Ok(outcome) => Ok((outcome, wall)),
        Err(error @ SimError::Enable(_)) => Err(Failure::bad_input(what(), error)),
        Err(error @ SimError::EndlessProgram { .. }) => {
            let input = format!("workload `{}`", plan.sim.workload.name);
            Err(Failure::bad_input(input, error))
        }
        Err(error @ (SimError::Check(_) | SimError::Stuck { .. } | SimError::Finished)) => {
            Err(Failure::internal(what(), error))
        }
    }
}

/// Everything the report shows.
fn collect(plan: &RunPlan, scheduler: &BpfScheduler, outcome: &Outcome, wall: Duration) -> Results {
    let topology = &plan.sim.topology;
    let violations: Vec<Violation> = scheduler.violations().iter().map(violation).collect();
    let groups = results::groups(outcome);
    Results {
        machine: results::machine(&plan.topology, topology),
        workload: Workload {
            name: plan.sim.workload.name.clone(),
            groups: groups.len() as u64,
            tasks: groups.iter().map(|g| g.tasks).sum(),
        },
        seed: plan.sim.seed,
        exit: results::exit(&outcome.exit, outcome.ended_at),
        digest: outcome.digest.to_string(),
        events: outcome.events,
        sim_ns: outcome.ended_at.as_ns(),
        wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        groups,
        cpus: results::cpus(outcome, topology),
        callbacks: results::callbacks(outcome, scheduler.config().form),
        tracing: scheduler.tracing().map(tracing).collect(),
        arena: arena(scheduler),
        scheduler: describe(plan, scheduler, outcome),
        violations,
    }
}

fn describe(plan: &RunPlan, scheduler: &BpfScheduler, outcome: &Outcome) -> Scheduler {
    let config = scheduler.config();
    let form = match config.form {
        Form::Cpu => "cpu",
        Form::Cid => "cid",
    };
    let timeout_ms = match config.timeout_ms {
        0 => TIMEOUT_MS_DEFAULT,
        set => set.into(),
    };
    Scheduler {
        name: config.name.clone(),
        object: plan.object.name.clone(),
        form: form.to_owned(),
        flags: config.flags,
        timeout_ms,
        insns: scheduler.insns(),
        stats: statistics(scheduler),
        core_events: results::core_events(outcome),
        violations_dropped: scheduler.violations_dropped(),
        output: Vec::new(),
    }
}

/// Takes what the programs printed: their streams, then `bpf_printk`.
fn printed(scheduler: &mut BpfScheduler) -> Vec<Output> {
    let stdout = scheduler.drain_streams(StreamId::Stdout);
    let stderr = scheduler.drain_streams(StreamId::Stderr);
    outputs(stdout, stderr, scheduler.drain_trace())
}

/// Streams by program, and the trace, as the report has them.
pub(crate) fn outputs(
    stdout: Vec<(String, String)>,
    stderr: Vec<(String, String)>,
    trace: String,
) -> Vec<Output> {
    let mut output = Vec::new();
    for (streams, stream) in [(stdout, "stdout"), (stderr, "stderr")] {
        output.extend(streams.into_iter().map(|(program, text)| Output {
            program,
            stream: stream.to_owned(),
            text,
        }));
    }
    if !trace.is_empty() {
        output.push(Output {
            program: String::new(),
            stream: "trace".to_owned(),
            text: trace,
        });
    }
    output
}

/// The scheduler's own counters. One whose memory is gone has no value to show.
fn statistics(scheduler: &BpfScheduler) -> Counts {
    let mut counts = Counts::default();
    for name in scheduler.globals().filter(|name| stats::is_one(name)) {
        if let Ok(value) = scheduler.global(name) {
            stats::add(&mut counts, name, &value);
        }
    }
    counts
}

/// Use of the arena; a program's own accesses to empty pages are recovered by the engine,
/// those of kfuncs by the fault handler.
fn arena(scheduler: &BpfScheduler) -> ArenaUse {
    let Some(arena) = scheduler.arena() else {
        return ArenaUse::default();
    };
    let own = scheduler.violations().iter();
    let own = own
        .filter(|v| v.kind == ViolationKind::Arena)
        .map(|v| v.count);
    ArenaUse {
        pages: arena.pages.into(),
        max_pages: arena.pages_max.into(),
        faults_recovered: own.sum::<u64>() + arena.faults_recovered,
        limit_pages: arena.pages_limit.into(),
        reports_dropped: arena.reports_dropped,
        allocs_failed: arena.allocs_failed,
    }
}

fn tracing(used: &harena_kernel::TracingUse) -> Tracing {
    Tracing {
        program: used.program.clone(),
        section: used.section.clone(),
        runs: used.runs,
        missed: used.missed,
    }
}

pub(crate) fn violation(v: &harena_vm::Violation) -> Violation {
    let source = v.file.as_ref().zip(v.line).map(|(file, line)| SourceLine {
        file: file.clone(),
        line,
        text: v.source.clone().unwrap_or_default(),
    });
    Violation {
        program: v.program.clone(),
        function: v.function.clone(),
        kind: v.kind.to_string(),
        access: v.access.to_owned(),
        address: v.address,
        insn: v.insn.into(),
        source,
        count: v.count,
    }
}

/// The one line about a scheduler that failed.
fn cause(results: &Results) -> String {
    let exit = &results.exit;
    let message = match exit.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    let stall = match &exit.stall {
        None => String::new(),
        Some(stall) => format!(", {stall}"),
    };
    format!(
        "scheduler `{}`: {}{message}{stall} ({} after {}.{:09} s, seed {})",
        results.scheduler.name,
        exit.reason,
        exit.kind,
        exit.at_ns / 1_000_000_000,
        exit.at_ns % 1_000_000_000,
        results.seed,
    )
}
