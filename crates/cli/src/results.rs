//! From what the libraries measured to what the report shows.

use std::collections::BTreeSet;

use harena_abi::scx::ENUMS;
use harena_abi::{DsqId, Nanos, SimTime};
use harena_report::{Counts, CpuUse, Exit, Group, Latency, Machine, Stall};
use harena_scx::{ExitInfo, Form, Topology};
use harena_sim::{GroupMetrics, Outcome};

/// The machine, and how it was named.
pub(crate) fn machine(name: &str, topology: &Topology) -> Machine {
    let units = |of: fn(&harena_scx::CpuTopology) -> u32| {
        let units: BTreeSet<u32> = topology
            .cpus()
            .filter_map(|cpu| topology.get(cpu).map(of))
            .collect();
        units.len() as u64
    };
    Machine {
        topology: name.to_owned(),
        nodes: units(|c| c.node),
        llcs: units(|c| c.llc),
        cores: units(|c| c.core),
        cpus: topology.nr_cpus().into(),
    }
}

/// How the scheduler left.
pub(crate) fn exit(info: &ExitInfo, at: SimTime) -> Exit {
    Exit {
        kind: exit_kind(info.kind),
        code: info.code,
        message: info.message.clone(),
        reason: info.reason.clone(),
        at_ns: at.as_ns(),
        stall: info.stall.as_ref().map(stall),
        dump: info.dump.clone(),
    }
}

fn stall(s: &harena_scx::Stall) -> Stall {
    Stall {
        task: s.task.raw(),
        comm: s.comm.clone(),
        cpu: s.cpu.raw(),
        dsq: s.dsq.map(DsqId::raw),
        waited_ns: s.waited.as_ns(),
    }
}

/// The kernel's name of an exit kind.
pub(crate) fn exit_kind(kind: u32) -> String {
    let kinds = ENUMS.iter().find(|table| table.name == "scx_exit_kind");
    let mut members = kinds.iter().flat_map(|table| table.members);
    let name = members.find(|(_, value)| *value == u64::from(kind));
    name.map_or_else(
        || format!("exit kind {kind}"),
        |(name, _)| (*name).to_owned(),
    )
}

/// Tasks by group.
pub(crate) fn groups(outcome: &Outcome) -> Vec<Group> {
    outcome.groups.iter().map(group).collect()
}

fn group(g: &GroupMetrics) -> Group {
    Group {
        name: g.name.clone(),
        tasks: g.tasks,
        exited: g.exited,
        forks_failed: g.forks_failed,
        runtime_ns: g.runtime.as_ns(),
        wakeups: g.wakeups,
        wakeup_latency: latency(&g.wakeup_latency),
        switches: g.switches,
        migrations: g.migrations,
    }
}

fn latency(l: &harena_sim::Latency) -> Latency {
    let ns = |time: Option<Nanos>| time.map_or(0, Nanos::as_ns);
    Latency {
        count: l.count(),
        mean_ns: ns(l.mean()),
        p50_ns: ns(l.quantile(500)),
        p90_ns: ns(l.quantile(900)),
        p99_ns: ns(l.quantile(990)),
        p999_ns: ns(l.quantile(999)),
        max_ns: l.max().as_ns(),
    }
}

/// CPUs by number.
pub(crate) fn cpus(outcome: &Outcome, topology: &Topology) -> Vec<CpuUse> {
    let places = topology
        .cpus()
        .filter_map(|cpu| Some((cpu, topology.get(cpu)?)));
    let cpu_use = |((cpu, place), used): ((harena_abi::Cpu, &harena_scx::CpuTopology), _)| {
        let used: &harena_sim::CpuMetrics = used;
        CpuUse {
            cpu: cpu.raw(),
            core: place.core,
            llc: place.llc,
            node: place.node,
            task_ns: used.task.as_ns(),
            overhead_ns: used.overhead.as_ns(),
            switches: used.switches,
            ticks: used.ticks,
            ipis: used.ipis,
        }
    };
    places.zip(&outcome.cpus).map(cpu_use).collect()
}

/// Calls of each callback, by its name in the scheduler's form.
pub(crate) fn callbacks(outcome: &Outcome, form: Form) -> Counts {
    let named = |&(op, count): &(harena_scx::Op, u64)| (op.name(form).to_owned(), count);
    Counts(outcome.callbacks.iter().map(named).collect())
}

/// The core's counters that are not zero; none ever falls below it.
pub(crate) fn core_events(outcome: &Outcome) -> Counts {
    let events = outcome.event_stats.iter();
    let counted = events.filter_map(|(name, count)| {
        let count = u64::try_from(count).ok().filter(|&count| count > 0)?;
        Some((name.to_owned(), count))
    });
    Counts(counted.collect())
}
