//! How tasks come to be: settings are checked, instances created, the scheduler enabled.
//!
//! Instances without delay exist when the scheduler is enabled, as on a machine that runs
//! already; the others are forked when their delay is over.

use harena_abi::{Cpu, Nanos, SimTime, Tid};
use harena_scx::{CpuSet, SchedOps, TaskSpec};
use harena_trace::What;

use crate::config::SimConfig;
use crate::error::{ConfigError, SimError};
use crate::queue::Pending;
use crate::random::Stream;
use crate::simulation::Simulation;
use crate::task::{Cursor, Task, Work};
use crate::workload::TaskDef;

impl<S: SchedOps> Simulation<S> {
    pub(crate) fn boot(&mut self) -> Result<(), SimError> {
        let mut start = Stream::new(self.config.seed, "start");
        let jitter = self.config.start_jitter.as_ns();
        for def in 0..self.config.workload.tasks.len() {
            let TaskDef {
                instances, delay, ..
            } = self.config.workload.tasks[def];
            for instance in 0..instances {
                let at = SimTime::ZERO
                    .after(delay)
                    .after(Nanos::new(start.up_to(jitter)));
                if delay == Nanos::ZERO {
                    if let Some(p) = self.fork(def, instance, at) {
                        self.hw.queue.push(at, Pending::Start { task: p });
                    }
                } else {
                    let def = u32::try_from(def).expect("instances bound definitions");
                    self.hw.queue.push(at, Pending::Fork { def, instance });
                }
            }
        }
        // Whoever looks on is there before the scheduler, and finds the tasks there already.
        self.core.set_traced(self.ops.traces());
        self.hw.enter(Cpu::new(0));
        let (core, mut env) = self.env();
        core.enable(&mut env)?;
        self.hw.leave();
        self.after_event()
    }

    pub(crate) fn fork_now(&mut self, def: usize, instance: u32) {
        if let Some(p) = self.fork(def, instance, self.hw.now) {
            self.start(p);
        }
    }

    /// Creates an instance, to be woken at `start`, on the CPUs that it may use in turn.
    fn fork(&mut self, def: usize, instance: u32, start: SimTime) -> Option<Tid> {
        let group = self.group_of_def[def];
        let def_ref = &self.config.workload.tasks[def];
        let properties = &def_ref.properties;
        let allowed = properties.cpus.as_ref().unwrap_or(&self.all_cpus).clone();
        let cpus = &self.fork_cpus[def];
        let cpu = cpus[instance as usize % cpus.len()];
        let comm = comm_of(&def_ref.name, instance);
        let spec = TaskSpec {
            comm: comm.clone(),
            tgid: None,
            parent: None,
            flags: 0,
            policy: properties.policy.unwrap_or_default().raw(),
            nice: properties.nice.unwrap_or(0),
            allowed: allowed.clone(),
            cpu,
            cgroup: 1,
        };
        self.hw.enter(cpu);
        let (core, mut env) = self.env();
        let forked = core.fork(&mut env, spec);
        self.hw.leave();
        let Ok(p) = forked else {
            self.hw.groups[group].forks_failed += 1;
            self.alive -= 1;
            return None;
        };
        self.hw
            .recorder
            .task(p, &comm, &self.config.workload.tasks[def].name);
        self.hw.record(What::Fork { task: p });
        self.hw.checkers.affinity(p, &allowed);
        self.hw.groups[group].tasks += 1;
        if self.hw.tasks.len() <= p.index() {
            self.hw.tasks.resize(p.index() + 1, None);
        }
        self.hw.tasks[p.index()] = Some(Task {
            def,
            group,
            cursor: Cursor::default(),
            work: Work::None,
            cold: Nanos::ZERO,
            began_at: start,
            woken_at: Some(start),
            last_cpu: cpu,
            timers: Vec::new(),
        });
        Some(p)
    }
}

pub(crate) fn check_config(config: &SimConfig) -> Result<(), ConfigError> {
    if config.duration == Nanos::ZERO {
        return Err(ConfigError::NoDuration);
    }
    if !(1..=1_000_000).contains(&config.hz) {
        return Err(ConfigError::Hz { hz: config.hz });
    }
    if config.costs.insns_per_us == 0 {
        return Err(ConfigError::NoInsns);
    }
    let nr_cpus = config.topology.nr_cpus();
    for def in &config.workload.tasks {
        let phases = def.phases.iter().map(|phase| &phase.properties);
        let sets = std::iter::once(&def.properties)
            .chain(phases)
            .filter_map(|p| p.cpus.as_ref());
        if let Some(cpu) = sets.flat_map(CpuSet::iter).find(|c| c.raw() >= nr_cpus) {
            return Err(ConfigError::NoSuchCpu {
                task: def.name.clone(),
                cpu,
                nr_cpus,
            });
        }
    }
    Ok(())
}

/// `name-instance`, with the name cut so that the kernel's 15 bytes hold the number.
fn comm_of(name: &str, instance: u32) -> String {
    let number = format!("-{instance}");
    let mut room = 15 - number.len();
    room = room.min(name.len());
    while !name.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{number}", &name[..room])
}
