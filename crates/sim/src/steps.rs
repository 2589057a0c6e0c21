//! What happens when the current task of a CPU has finished a step of its program: it
//! takes the next ones, until one takes time, sleeps, or ends it.
//!
//! Properties are system calls of the task itself. One that moves it to another CPU ends
//! its time here; it goes on with its program where it runs next.

use harena_abi::{Cpu, Errno, Nanos, SimTime, Tid};
use harena_scx::{CpuSet, Leave, SchedOps, TaskView};
use harena_trace::{Mark, What};

use crate::error::SimError;
use crate::queue::Pending;
use crate::simulation::Simulation;
use crate::task::{Next, Work, timer_next};
use crate::workload::{Phase, Policy, Properties, Step, TaskDef, TimerId, TimerMode};

/// Steps that a task may take without time passing.
const MAX_STEPS_AT_ONCE: u32 = 1_000_000;

impl<S: SchedOps> Simulation<S> {
    /// The current task of `cpu` has finished its step: on to the next one that takes time.
    pub(crate) fn step_done(&mut self, cpu: Cpu) -> Result<(), SimError> {
        self.hw.enter(cpu);
        let result = self.take_steps(cpu);
        self.hw.leave();
        result
    }

    fn take_steps(&mut self, cpu: Cpu) -> Result<(), SimError> {
        let Some(p) = self.hw.cpu(cpu).curr else {
            return Ok(());
        };
        self.hw.work_changed();
        for _ in 0..MAX_STEPS_AT_ONCE {
            let Some(task) = self.hw.tasks.get_mut(p.index()).and_then(Option::as_mut) else {
                return Ok(());
            };
            let def = &self.config.workload.tasks[task.def];
            match task.cursor.next(def) {
                Next::Enter(number, phase) => {
                    let (mark, value) = (Mark::Phase, number as u64);
                    let what = What::Mark {
                        task: p,
                        mark,
                        value,
                    };
                    self.hw.record(what);
                    let Some(view) = self.core.task(p) else {
                        return Ok(());
                    };
                    let change = Change::between(&view, phase, def, &self.all_cpus);
                    if self.apply(p, cpu, change) {
                        return Ok(());
                    }
                }
                Next::Again => {
                    let (mark, value) = (Mark::Loop, 0);
                    self.hw.record(What::Mark {
                        task: p,
                        mark,
                        value,
                    });
                }
                Next::Step(step) => match self.begin_step(p, step) {
                    Begun::Over => {}
                    Begun::Working => return Ok(()),
                    Begun::Sleeping { until } => {
                        if let Some(task) = self.hw.task(p) {
                            task.woken_at = Some(until);
                        }
                        self.hw.queue.push(until, Pending::Wake { task: p });
                        self.schedule(cpu, Leave::Sleeping);
                        return Ok(());
                    }
                },
                Next::Exit => {
                    self.exit(p, cpu);
                    return Ok(());
                }
            }
        }
        let def = self.hw.task(p).map_or(0, |task| task.def);
        Err(SimError::EndlessProgram {
            task: self.config.workload.tasks[def].name.clone(),
            steps: MAX_STEPS_AT_ONCE,
        })
    }

    fn begin_step(&mut self, p: Tid, step: Step) -> Begun {
        let now = self.hw.now;
        let work = match step {
            Step::Run(ns) => Work::cycles(ns),
            Step::Runtime(ns) => Work::until(now, ns),
            Step::Sleep(ns) => {
                return Begun::Sleeping {
                    until: now.after(ns),
                };
            }
            Step::Timer {
                timer,
                period,
                mode,
            } => {
                let until = self.timer_wait(p, timer, period, mode);
                return until.map_or(Begun::Over, |until| Begun::Sleeping { until });
            }
        };
        let is_empty = matches!(step, Step::Run(Nanos::ZERO) | Step::Runtime(Nanos::ZERO));
        match self.hw.task(p) {
            Some(task) if !is_empty => {
                task.work = work;
                Begun::Working
            }
            _ => Begun::Over,
        }
    }

    /// Until when a task sleeps for its timer; `None` if that has passed.
    fn timer_wait(
        &mut self,
        p: Tid,
        timer: TimerId,
        period: Nanos,
        mode: TimerMode,
    ) -> Option<SimTime> {
        let now = self.hw.now;
        let index = timer.0 as usize;
        let shared = self.config.workload.timers[index].shared;
        let task = self.hw.task(p)?;
        let last = if shared {
            self.shared_timers[index].get_or_insert(task.began_at)
        } else {
            match task.timers.iter().position(|&(id, _)| id == timer) {
                Some(at) => &mut task.timers[at].1,
                None => {
                    task.timers.push((timer, task.began_at));
                    &mut task.timers.last_mut()?.1
                }
            }
        };
        let (next, sleeps) = timer_next(*last, now, period, mode);
        *last = next;
        sleeps.then_some(next)
    }

    /// Applies properties to the running task; true if it has to leave its CPU for that,
    /// and goes on with its program when it runs again.
    fn apply(&mut self, p: Tid, cpu: Cpu, change: Change) -> bool {
        // The core refuses none of these: policies, nice values and CPUs were checked.
        if let Some(policy) = change.policy {
            let (core, mut env) = self.env();
            refused_by_none(core.set_policy(&mut env, p, policy));
        }
        if let Some(nice) = change.nice {
            let (core, mut env) = self.env();
            refused_by_none(core.set_nice(&mut env, p, nice));
        }
        let Some(cpus) = change.cpus else {
            return false;
        };
        self.hw.checkers.affinity(p, &cpus);
        let (core, mut env) = self.env();
        refused_by_none(core.set_affinity(&mut env, p, &cpus));
        self.hw.need_resched(cpu) || self.core.curr(cpu) != Some(p)
    }

    fn exit(&mut self, p: Tid, cpu: Cpu) {
        self.hw.record(What::TaskExit { task: p });
        let (core, mut env) = self.env();
        core.do_exit(&mut env, p);
        self.schedule(cpu, Leave::Exiting);
        if let Some(task) = self.hw.tasks[p.index()].take() {
            self.hw.groups[task.group].exited += 1;
        }
        self.alive -= 1;
    }
}

/// What beginning a step led to.
enum Begun {
    /// It is over: it took no time.
    Over,
    /// The task works on it.
    Working,
    /// The task is to sleep.
    Sleeping { until: SimTime },
}

/// What a phase changes of its task.
struct Change {
    policy: Option<u32>,
    nice: Option<i32>,
    cpus: Option<CpuSet>,
}

impl Change {
    fn between(now: &TaskView<'_>, phase: &Phase, task: &TaskDef, all: &CpuSet) -> Self {
        let Properties { policy, nice, cpus } = &phase.properties;
        let cpus = cpus.as_ref().or(task.properties.cpus.as_ref());
        let cpus = cpus.unwrap_or(all);
        Self {
            policy: policy.map(Policy::raw).filter(|&p| p != now.policy),
            nice: nice.filter(|&nice| nice != now.nice),
            cpus: (now.allowed != cpus).then(|| cpus.clone()),
        }
    }
}

fn refused_by_none(result: Result<(), Errno>) {
    if let Err(errno) = result {
        unreachable!("checked properties are valid, yet {errno:?}");
    }
}
