//! rt-app's JSON grammar to a [`Workload`].
//!
//! rt-app ignores keys it does not know; people lose hours to that. Here each key is
//! understood, noted as being without effect in a simulation, or an error with its path
//! and line. Duplicate keys are events in document order, as `workgen` writes them.

use std::collections::BTreeMap;

use harena_abi::{Cpu, Nanos};
use jsonc_parser::ast::{Object, ObjectProp, Value};

use super::{
    MAX_INSTANCES, Note, Phase, Policy, Properties, Repeat, Step, TaskDef, TimerDef, TimerId,
    TimerMode, Workload,
};
use crate::json::{self, JsonError, Lines};
use crate::topology::MAX_CPUS;

/// Longest time that a workload may name: 11 days.
const MAX_US: i64 = 1_000_000_000_000;

/// A workload that could not be understood, or says what is not supported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The file is no JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A key is wrong.
    #[error("line {line}: `{path}`: {problem}")]
    Key {
        /// Line.
        line: usize,
        /// Path of the key, such as `tasks.web.phases.load.run0`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More threads than are supported.
    #[error("{instances} instances are more than {MAX_INSTANCES}")]
    TooMany {
        /// How many were asked for.
        instances: u64,
    },
}

/// Events of rt-app in the order in which it matches the beginning of a key.
const EVENTS: [&str; 20] = [
    "lock", "unlock", "wait", "signal", "broad", "sync", "sleep", "runtime", "run", "timer",
    "suspend", "resume", "memrun", "mem", "iorun", "yield", "barrier", "fork", "sem_post",
    "sem_wait",
];

/// Properties that rt-app knows and this reader does not support yet.
const UNSUPPORTED: [&str; 10] = [
    "dl-runtime",
    "dl-period",
    "dl-deadline",
    "period",
    "deadline",
    "nodes_membind",
    "util_min",
    "util_max",
    "taskgroup",
    "exec",
];

/// Keys of `global` that say how rt-app measures or logs, not what tasks do.
const WITHOUT_EFFECT: [&str; 12] = [
    "calibration",
    "pi_enabled",
    "lock_pages",
    "logdir",
    "log_basename",
    "log_size",
    "ftrace",
    "gnuplot",
    "io_device",
    "mem_buffer_size",
    "cumulative_slack",
    "frag",
];

type Result<T> = std::result::Result<T, WorkloadError>;

/// Where the reader is: the keys above, for messages.
#[derive(Clone, Copy)]
struct At<'p> {
    up: Option<&'p Self>,
    key: &'p str,
    line: usize,
}

impl At<'_> {
    fn path(&self) -> String {
        match self.up {
            Some(up) => format!("{}.{}", up.path(), self.key),
            None => self.key.to_owned(),
        }
    }

    fn fail<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(WorkloadError::Key {
            line: self.line,
            path: self.path(),
            problem: problem.into(),
        })
    }

    fn check<T>(&self, value: std::result::Result<T, String>) -> Result<T> {
        value.or_else(|problem| self.fail(problem))
    }

    /// An integer of `least..=most`.
    fn integer(&self, value: &Value<'_>, least: i64, most: i64) -> Result<i64> {
        let n = self.check(json::integer(value))?;
        if (least..=most).contains(&n) {
            Ok(n)
        } else {
            self.fail(format!("{n} is not in {least} to {most}"))
        }
    }

    /// A time in microseconds.
    fn time(&self, value: &Value<'_>) -> Result<Nanos> {
        let us = self.integer(value, 0, MAX_US)?;
        Ok(Nanos::from_us(us.unsigned_abs()))
    }

    fn object<'v, 'a>(&self, value: &'v Value<'a>) -> Result<&'v Object<'a>> {
        self.check(json::object(value))
    }

    fn set<T>(&self, slot: &mut Option<T>, value: T) -> Result<()> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => self.fail("comes twice"),
        }
    }
}

struct Reader {
    lines: Lines,
    timers: Vec<TimerDef>,
    timer_ids: BTreeMap<String, TimerId>,
    notes: Vec<Note>,
    default_policy: Option<Policy>,
}

pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Workload> {
    let document = json::parse(bytes)?;
    let mut reader = Reader {
        lines: document.lines,
        timers: Vec::new(),
        timer_ids: BTreeMap::new(),
        notes: Vec::new(),
        default_policy: None,
    };
    let (mut global, mut tasks) = (None, None);
    for property in &document.root.properties {
        let at = reader.at(None, property);
        match at.key {
            "global" => at.set(&mut global, property)?,
            "tasks" => at.set(&mut tasks, property)?,
            "resources" => reader.note(&at, "resources are created where they are used"),
            _ => return at.fail("unknown key (known: global, tasks, resources)"),
        }
    }
    let duration = global.map_or(Ok(None), |global| reader.global(global))?;
    let Some(tasks) = tasks else {
        return At {
            up: None,
            key: "tasks",
            line: 1,
        }
        .fail("is missing");
    };
    let tasks = reader.tasks(tasks)?;
    let workload = Workload {
        name: name.to_owned(),
        duration,
        tasks,
        timers: reader.timers,
        notes: reader.notes,
    };
    match workload.instances() {
        n if n <= MAX_INSTANCES => Ok(workload),
        instances => Err(WorkloadError::TooMany { instances }),
    }
}

impl Reader {
    fn at<'p>(&self, up: Option<&'p At<'p>>, property: &'p ObjectProp<'_>) -> At<'p> {
        At {
            up,
            key: property.name.as_str(),
            line: self.lines.of_node(property),
        }
    }

    fn note(&mut self, at: &At<'_>, message: &str) {
        self.notes.push(Note {
            line: at.line,
            path: at.path(),
            message: message.to_owned(),
        });
    }

    fn global(&mut self, property: &ObjectProp<'_>) -> Result<Option<Nanos>> {
        let up = self.at(None, property);
        let (mut duration, mut policy) = (None, None);
        for property in &up.object(&property.value)?.properties {
            let at = self.at(Some(&up), property);
            match at.key {
                "duration" => {
                    let seconds = at.integer(&property.value, -1, MAX_US / 1_000_000)?;
                    if seconds == 0 {
                        return at.fail("a run needs time (-1: as long as tasks live)");
                    }
                    let ms = u64::try_from(seconds)
                        .ok()
                        .map(|s| Nanos::from_ms(s * 1_000));
                    at.set(&mut duration, ms)?;
                }
                "default_policy" => at.set(&mut policy, policy_of(&at, &property.value)?)?,
                key if WITHOUT_EFFECT.contains(&key) => {
                    self.note(&at, "has no effect in a simulation");
                }
                _ => return at.fail("unknown key"),
            }
        }
        self.default_policy = policy;
        Ok(duration.flatten())
    }

    fn tasks(&mut self, property: &ObjectProp<'_>) -> Result<Vec<TaskDef>> {
        let up = self.at(None, property);
        let mut tasks = Vec::new();
        for property in &up.object(&property.value)?.properties {
            let at = self.at(Some(&up), property);
            tasks.push(self.task(&at, &property.value)?);
        }
        if tasks.is_empty() {
            return up.fail("there is no task");
        }
        Ok(tasks)
    }

    fn task(&mut self, up: &At<'_>, value: &Value<'_>) -> Result<TaskDef> {
        let (mut instances, mut delay, mut repeat, mut phases) = (None, None, None, None);
        let mut properties = Properties::default();
        let mut steps = Vec::new();
        for property in &up.object(value)?.properties {
            let at = self.at(Some(up), property);
            let value = &property.value;
            match at.key {
                "instance" => {
                    let n = at.integer(value, 1, 1_000_000)?;
                    at.set(&mut instances, u32::try_from(n).expect("in range"))?;
                }
                "delay" => at.set(&mut delay, at.time(value)?)?,
                "loop" => at.set(&mut repeat, repeat_of(&at, value)?)?,
                "phases" => at.set(&mut phases, property)?,
                _ if self.property(&at, value, &mut properties)? => {}
                _ => steps.push(self.step(&at, value)?),
            }
        }
        let (task_repeat, phases) = match phases {
            Some(_) if !steps.is_empty() => {
                return up.fail("has both `phases` and events of its own");
            }
            Some(phases) => (repeat.unwrap_or(Repeat::Forever), self.phases(up, phases)?),
            None if steps.is_empty() => return up.fail("has no event"),
            // Without phases, `loop` counts the one implicit phase.
            None => (
                repeat.map_or(Repeat::Forever, |_| Repeat::Times(1)),
                vec![Phase {
                    name: up.key.to_owned(),
                    repeat: repeat.unwrap_or(Repeat::Times(1)),
                    properties: Properties::default(),
                    steps,
                }],
            ),
        };
        properties.policy = properties.policy.or(self.default_policy);
        Ok(TaskDef {
            name: up.key.to_owned(),
            instances: instances.unwrap_or(1),
            delay: delay.unwrap_or_default(),
            repeat: task_repeat,
            properties,
            phases,
        })
    }

    fn phases(&mut self, up: &At<'_>, property: &ObjectProp<'_>) -> Result<Vec<Phase>> {
        let up = self.at(Some(up), property);
        let mut phases = Vec::new();
        for property in &up.object(&property.value)?.properties {
            let at = self.at(Some(&up), property);
            phases.push(self.phase(&at, &property.value)?);
        }
        if phases.is_empty() {
            return up.fail("there is no phase");
        }
        Ok(phases)
    }

    fn phase(&mut self, up: &At<'_>, value: &Value<'_>) -> Result<Phase> {
        let mut repeat = None;
        let mut properties = Properties::default();
        let mut steps = Vec::new();
        for property in &up.object(value)?.properties {
            let at = self.at(Some(up), property);
            let value = &property.value;
            match at.key {
                "loop" => at.set(&mut repeat, repeat_of(&at, value)?)?,
                "delay" | "instance" | "phases" => {
                    return at.fail("belongs to a task, not to a phase");
                }
                _ if self.property(&at, value, &mut properties)? => {}
                _ => steps.push(self.step(&at, value)?),
            }
        }
        if steps.is_empty() {
            return up.fail("has no event");
        }
        Ok(Phase {
            name: up.key.to_owned(),
            repeat: repeat.unwrap_or(Repeat::Times(1)),
            properties,
            steps,
        })
    }

    /// Reads a scheduling property; false if the key is none.
    fn property(
        &mut self,
        at: &At<'_>,
        value: &Value<'_>,
        properties: &mut Properties,
    ) -> Result<bool> {
        match at.key {
            "policy" => at.set(&mut properties.policy, policy_of(at, value)?)?,
            "priority" => {
                let nice = at.integer(value, -20, 19)?;
                at.set(&mut properties.nice, i32::try_from(nice).expect("in range"))?;
            }
            "cpus" => {
                let list = at.check(json::array(value))?;
                let cpu = |value: &Value<'_>| {
                    let cpu = at.integer(value, 0, i64::from(MAX_CPUS) - 1)?;
                    Ok(Cpu::new(u32::try_from(cpu).expect("in range")))
                };
                if list.elements.is_empty() {
                    return at.fail("names no CPU");
                }
                let cpus = list.elements.iter().map(cpu).collect::<Result<_>>()?;
                at.set(&mut properties.cpus, cpus)?;
            }
            key if UNSUPPORTED.contains(&key) => {
                return at.fail(format!("property `{key}` is not supported yet"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn step(&mut self, at: &At<'_>, value: &Value<'_>) -> Result<Step> {
        let event = EVENTS.into_iter().find(|event| at.key.starts_with(event));
        match event {
            Some("run") => Ok(Step::Run(at.time(value)?)),
            Some("runtime") => Ok(Step::Runtime(at.time(value)?)),
            Some("sleep") => Ok(Step::Sleep(at.time(value)?)),
            Some("timer") => self.timer(at, value),
            Some(event) => at.fail(format!("event `{event}` is not supported yet")),
            None => at.fail(
                "unknown key (events: run runtime sleep timer; \
                 properties: loop policy priority cpus, and instance delay phases of a task)",
            ),
        }
    }

    fn timer(&mut self, up: &At<'_>, value: &Value<'_>) -> Result<Step> {
        let (mut name, mut period, mut mode) = (None, None, None);
        for property in &up.object(value)?.properties {
            let at = self.at(Some(up), property);
            match at.key {
                "ref" => at.set(&mut name, at.check(json::string(&property.value))?)?,
                "period" => {
                    let us = at.integer(&property.value, 1, MAX_US)?;
                    at.set(&mut period, Nanos::from_us(us.unsigned_abs()))?;
                }
                "mode" => {
                    let is = match at.check(json::string(&property.value))? {
                        "relative" => TimerMode::Relative,
                        "absolute" => TimerMode::Absolute,
                        other => {
                            return at.fail(format!("`{other}` is neither relative nor absolute"));
                        }
                    };
                    at.set(&mut mode, is)?;
                }
                _ => return at.fail("unknown key (known: ref, period, mode)"),
            }
        }
        let Some(name) = name else {
            return up.fail("`ref` is missing");
        };
        let Some(period) = period else {
            return up.fail("`period` is missing");
        };
        Ok(Step::Timer {
            timer: self.timer_id(name),
            period,
            mode: mode.unwrap_or_default(),
        })
    }

    fn timer_id(&mut self, name: &str) -> TimerId {
        if let Some(&id) = self.timer_ids.get(name) {
            return id;
        }
        let id = TimerId(u32::try_from(self.timers.len()).expect("text size bounds timers"));
        self.timers.push(TimerDef {
            name: name.to_owned(),
            shared: !name.starts_with("unique"),
        });
        self.timer_ids.insert(name.to_owned(), id);
        id
    }
}

fn policy_of(at: &At<'_>, value: &Value<'_>) -> Result<Policy> {
    match at.check(json::string(value))? {
        "SCHED_OTHER" => Ok(Policy::Other),
        "SCHED_BATCH" => Ok(Policy::Batch),
        "SCHED_IDLE" => Ok(Policy::Idle),
        other => at.fail(format!(
            "policy `{other}` is not supported (SCHED_OTHER, SCHED_BATCH or SCHED_IDLE)"
        )),
    }
}

fn repeat_of(at: &At<'_>, value: &Value<'_>) -> Result<Repeat> {
    match at.integer(value, -1, i64::from(i32::MAX))? {
        0 => at.fail("0 would never run (-1: forever)"),
        n => Ok(u32::try_from(n).map_or(Repeat::Forever, Repeat::Times)),
    }
}
