//! [`Results`] as text: what a person reads first stands first and last.
//!
//! The head says what ran, the tables what came out of it, the tail how it ended; so the
//! end is on the screen when the rest has scrolled away.

use std::fmt::{self, Write};

use crate::results::{Counts, CpuUse, Output, Results, SourceLine, Tracing, Violation};
use crate::table::Table;
use crate::{escape, escape_lines, json, text, units};

/// Above so many CPUs the table has a row per last-level cache.
const CPU_ROWS_MAX: usize = 32;
/// Of more violations than this only the number is shown.
const VIOLATIONS_MAX: usize = 20;
/// Lines of a debug dump that are shown.
const DUMP_LINES_MAX: usize = 40;
/// Lines of a program's stream that are shown.
const OUTPUT_LINES_MAX: usize = 12;
/// Characters a line of counters may have before it is broken.
const COUNTS_WIDTH: usize = 92;

impl Results {
    /// The whole report for a person, ending with a line break.
    #[must_use]
    pub fn to_text(&self) -> String {
        text(|out| self.write_text(out))
    }

    /// The JSON report, ending with a line break.
    #[must_use]
    pub fn to_json(&self) -> String {
        json(self)
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        self.write_head(out)?;
        self.write_groups(out)?;
        if self.cpus.len() > CPU_ROWS_MAX {
            self.write_llcs(out)?;
        } else {
            self.write_cpus(out)?;
        }
        writeln!(out)?;
        write_counts(out, "callbacks", &self.callbacks)?;
        self.write_tracing(out)?;
        write_counts(out, "statistics", &self.scheduler.stats)?;
        write_counts(out, "core", &self.scheduler.core_events)?;
        write_violations(out, &self.violations, self.scheduler.violations_dropped)?;
        write_outputs(out, &self.scheduler.output)?;
        self.write_dump(out)?;
        self.write_tail(out)
    }

    fn write_tracing(&self, out: &mut String) -> fmt::Result {
        let counts = |of: fn(&Tracing) -> u64| {
            let counts = self.tracing.iter().map(|t| (t.program.clone(), of(t)));
            counts.collect::<Vec<_>>()
        };
        write_counts(out, "tracing", &Counts(counts(|t| t.runs)))?;
        let missed = counts(|t| t.missed).into_iter();
        write_counts(out, "missed", &Counts(missed.filter(|t| t.1 > 0).collect()))
    }

    fn write_head(&self, out: &mut String) -> fmt::Result {
        let s = &self.scheduler;
        writeln!(
            out,
            "scheduler   {} ({} form, {}), flags {:#x}, watchdog {}",
            escape(&s.name),
            escape(&s.form),
            escape(&s.object),
            s.flags,
            units::time(s.timeout_ms.saturating_mul(1_000_000)),
        )?;
        let m = &self.machine;
        writeln!(
            out,
            "machine     {}: {}, {}, {}, {}",
            escape(&m.topology),
            plural(m.nodes, "node"),
            plural(m.llcs, "LLC"),
            plural(m.cores, "core"),
            plural(m.cpus, "CPU"),
        )?;
        let w = &self.workload;
        writeln!(
            out,
            "workload    {}: {}, {}",
            escape(&w.name),
            plural(w.groups, "group"),
            plural(w.tasks, "task"),
        )?;
        writeln!(out, "seed        {}", self.seed)?;
        write!(
            out,
            "time        {} simulated in {}, {} events",
            units::seconds(self.sim_ns),
            units::seconds(self.wall_ns),
            units::count(self.events),
        )?;
        if let Some(rate) = units::rate(self.events, self.wall_ns) {
            write!(out, " ({}/s)", units::count(rate))?;
        }
        if s.insns > 0 {
            write!(out, ", {} BPF instructions", units::count(s.insns))?;
        }
        writeln!(out)
    }

    fn write_groups(&self, out: &mut String) -> fmt::Result {
        let mut table = Table::new(
            1,
            &[
                "group",
                "tasks",
                "runtime",
                "wakeups",
                "latency p50",
                "p90",
                "p99",
                "p99.9",
                "max",
                "switches",
                "migrations",
            ],
        );
        for g in &self.groups {
            let latency = |ns| match g.wakeup_latency.count {
                0 => "-".to_owned(),
                _ => units::time(ns),
            };
            let l = g.wakeup_latency;
            table.row(vec![
                escape(&g.name).into_owned(),
                units::count(g.tasks),
                units::time(g.runtime_ns),
                units::count(g.wakeups),
                latency(l.p50_ns),
                latency(l.p90_ns),
                latency(l.p99_ns),
                latency(l.p999_ns),
                latency(l.max_ns),
                units::count(g.switches),
                units::count(g.migrations),
            ]);
        }
        write!(out, "\n{table}")
    }

    fn write_cpus(&self, out: &mut String) -> fmt::Result {
        let mut table = Table::new(
            0,
            &[
                "cpu", "core", "llc", "node", "tasks", "kernel", "switches", "ticks", "IPIs",
            ],
        );
        for c in &self.cpus {
            table.row(vec![
                c.cpu.to_string(),
                c.core.to_string(),
                c.llc.to_string(),
                c.node.to_string(),
                units::percent(c.task_ns, self.sim_ns),
                units::percent(c.overhead_ns, self.sim_ns),
                units::count(c.switches),
                units::count(c.ticks),
                units::count(c.ipis),
            ]);
        }
        write!(out, "\n{table}")?;
        self.write_cpu_sum(out)
    }

    /// One row per last-level cache: hundreds of CPUs would push the rest off the screen.
    fn write_llcs(&self, out: &mut String) -> fmt::Result {
        let mut table = Table::new(
            0,
            &[
                "llc", "node", "cpus", "tasks", "least", "most", "kernel", "switches",
            ],
        );
        let mut llcs: Vec<u32> = self.cpus.iter().map(|c| c.llc).collect();
        llcs.sort_unstable();
        llcs.dedup();
        for llc in llcs {
            let of: Vec<&CpuUse> = self.cpus.iter().filter(|c| c.llc == llc).collect();
            let busy = || of.iter().map(|c| c.task_ns);
            let all = self.sim_ns.saturating_mul(of.len() as u64);
            let node = of.first().map_or(0, |c| c.node);
            table.row(vec![
                llc.to_string(),
                node.to_string(),
                of.len().to_string(),
                units::percent(sum(busy()), all),
                units::percent(busy().min().unwrap_or(0), self.sim_ns),
                units::percent(busy().max().unwrap_or(0), self.sim_ns),
                units::percent(sum(of.iter().map(|c| c.overhead_ns)), all),
                units::count(sum(of.iter().map(|c| c.switches))),
            ]);
        }
        write!(out, "\n{table}")?;
        self.write_cpu_sum(out)
    }

    fn write_cpu_sum(&self, out: &mut String) -> fmt::Result {
        let all = self.sim_ns.saturating_mul(self.cpus.len() as u64);
        let tasks = sum(self.cpus.iter().map(|c| c.task_ns));
        let kernel = sum(self.cpus.iter().map(|c| c.overhead_ns));
        writeln!(
            out,
            "  CPUs ran tasks {} of the time, kernel and scheduler {}",
            units::percent(tasks, all),
            units::percent(kernel, all),
        )
    }

    fn write_dump(&self, out: &mut String) -> fmt::Result {
        if self.exit.dump.is_empty() {
            return Ok(());
        }
        writeln!(out, "\ndump")?;
        write_lines(out, &self.exit.dump, DUMP_LINES_MAX)
    }

    fn write_tail(&self, out: &mut String) -> fmt::Result {
        let a = &self.arena;
        if a.max_pages == 0 {
            writeln!(out, "\narena       none")?;
        } else {
            write!(
                out,
                "\narena       {} of {} pages in use, {} recovered",
                units::count(a.pages),
                units::count(a.max_pages),
                plural(a.faults_recovered, "fault"),
            )?;
            if a.reports_dropped > 0 {
                write!(out, ", {} dropped", plural(a.reports_dropped, "report"))?;
            }
            if a.allocs_failed > 0 {
                let failed = plural(a.allocs_failed, "allocation");
                write!(out, ", {failed} failed on purpose")?;
            }
            if a.limit_pages < a.max_pages {
                write!(out, ", limit {}", plural(a.limit_pages, "page"))?;
            }
            writeln!(out)?;
        }
        if self.violations.is_empty() {
            writeln!(out, "violations  none")?;
        }
        let e = &self.exit;
        write!(
            out,
            "exit        {} ({})",
            escape(&e.kind),
            escape(&e.reason)
        )?;
        write!(out, " after {}", units::seconds(e.at_ns))?;
        if e.code != 0 {
            write!(out, ", code {:#x}", e.code)?;
        }
        if !e.message.is_empty() {
            write!(out, ": {}", escape(&e.message))?;
        }
        writeln!(out)?;
        if let Some(stall) = &e.stall {
            writeln!(out, "stall       {stall}")?;
        }
        writeln!(out, "digest      {}", escape(&self.digest))
    }
}

/// The places of violations; nothing if there are none.
pub(crate) fn write_violations(
    out: &mut String,
    violations: &[Violation],
    dropped: u64,
) -> fmt::Result {
    if violations.is_empty() {
        return Ok(());
    }
    let all = sum(violations.iter().map(|v| v.count));
    writeln!(
        out,
        "\nviolations  {} in {}",
        units::count(all),
        plural(violations.len() as u64, "place"),
    )?;
    for v in violations.iter().take(VIOLATIONS_MAX) {
        write_violation(out, v)?;
    }
    let hidden = violations.len().saturating_sub(VIOLATIONS_MAX);
    if hidden > 0 {
        writeln!(
            out,
            "  … and {hidden} more places; --format json lists them"
        )?;
    }
    if dropped > 0 {
        writeln!(
            out,
            "  … and {} at places beyond these",
            units::count(dropped)
        )?;
    }
    Ok(())
}

/// What programs printed.
pub(crate) fn write_outputs(out: &mut String, outputs: &[Output]) -> fmt::Result {
    for output in outputs {
        write!(out, "\noutput      {}", escape(&output.stream))?;
        if !output.program.is_empty() {
            write!(out, " of {}", escape(&output.program))?;
        }
        writeln!(out)?;
        write_lines(out, &output.text, OUTPUT_LINES_MAX)?;
    }
    Ok(())
}

fn write_violation(out: &mut String, v: &Violation) -> fmt::Result {
    let what = match v.kind.as_str() {
        "arena" => "of an empty arena page",
        "host" => "of an empty arena page by the host",
        "wild" => "through a wild pointer",
        "free" => "to free what is no object of the arena",
        other => &escape(other),
    };
    write!(
        out,
        "  {} x  {} {what}, address {:#x}, in {}",
        units::count(v.count),
        escape(&v.access),
        v.address,
        escape(&v.function),
    )?;
    if v.program != v.function {
        write!(out, " of program {}", escape(&v.program))?;
    }
    writeln!(out, ", insn {}", v.insn)?;
    match &v.source {
        Some(source) => write_source(out, "       ", source),
        None => Ok(()),
    }
}

/// A line of source, on a line of its own behind `lead`.
pub(crate) fn write_source(out: &mut String, lead: &str, source: &SourceLine) -> fmt::Result {
    write!(out, "{lead}{}:{}", escape(&source.file), source.line)?;
    if !source.text.is_empty() {
        write!(out, ": {}", escape(source.text.trim()))?;
    }
    writeln!(out)
}

/// Foreign text, quoted line by line, at most `max` of them.
fn write_lines(out: &mut String, text: &str, max: usize) -> fmt::Result {
    let text = escape_lines(text);
    for line in text.lines().take(max) {
        writeln!(out, "  | {line}")?;
    }
    match text.lines().count().checked_sub(max) {
        Some(hidden @ 1..) => {
            writeln!(out, "  … and {hidden} more lines; --format json has all")
        }
        _ => Ok(()),
    }
}

/// `title`, then the counters with as many on a line as fit; nothing if there are none.
fn write_counts(out: &mut String, title: &str, counts: &Counts) -> fmt::Result {
    if counts.0.is_empty() {
        return Ok(());
    }
    write!(out, "{title:<10}")?;
    let mut column = 10;
    for (name, count) in &counts.0 {
        let cell = format!("{} {}", escape(name), units::count(*count));
        let length = cell.chars().count() + 2;
        if column + length > COUNTS_WIDTH && column > 10 {
            write!(out, "\n{:<10}", "")?;
            column = 10;
        }
        write!(out, "  {cell}")?;
        column += length;
    }
    writeln!(out)
}

pub(crate) fn plural(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{} {one}s", units::count(n)),
    }
}

/// The sum; these are simulated times and counts, which stay far below 2^64.
fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}
