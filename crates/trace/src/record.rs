//! The event schema: one record is 32 bytes, little endian, the same on every host.
//!
//! ```text
//!  0        8     12    13    14      15   16      20       24       32
//!  | time   | cpu | kind| sub | item  | 0 | task  | other  | arg    |
//! ```
//!
//! `task` and `other` are `u32::MAX` where there is no task. Which of `sub`, `other` and
//! `arg` a kind uses is written in `What::columns`; the rest are zero, and so is `item`,
//! which tells a record from other items of a stream. A change of meaning needs a new
//! [`SCHEMA_VERSION`]: the version is part of every digest.

use harena_abi::{Cpu, DsqId, SimTime, Tid};

/// Version of the schema, hashed before the first record.
pub const SCHEMA_VERSION: u32 = 1;

/// Bytes of an encoded record.
pub const RECORD_SIZE: usize = 32;

const NO_TASK: u32 = u32::MAX;

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub time: SimTime,
    /// CPU whose code ran.
    pub cpu: Cpu,
    /// What.
    pub what: What,
}

/// Why a task was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeCause {
    /// Its first wakeup after fork.
    Fork,
    /// A sleep or timer ended.
    Timer,
    /// Another task woke it.
    Task,
}

/// A step of a task's workload program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// An iteration of a phase began.
    Phase,
    /// The list of phases began again.
    Loop,
}

/// The kinds of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The CPU switched tasks; `None` is the idle task.
    Switch {
        /// Who ran.
        prev: Option<Tid>,
        /// Who runs now.
        next: Option<Tid>,
    },
    /// A wakeup was issued.
    Wakeup {
        /// The woken task.
        task: Tid,
        /// Why.
        cause: WakeCause,
    },
    /// A task became runnable on `rq`.
    Runnable {
        /// The task.
        task: Tid,
        /// Its run queue.
        rq: Cpu,
    },
    /// A task stopped being runnable on `rq`.
    Quiescent {
        /// The task.
        task: Tid,
        /// Its run queue.
        rq: Cpu,
    },
    /// A task was linked into a DSQ.
    Insert {
        /// The task.
        task: Tid,
        /// The DSQ.
        dsq: DsqId,
    },
    /// A task was unlinked from a DSQ.
    Remove {
        /// The task.
        task: Tid,
        /// The DSQ.
        dsq: DsqId,
    },
    /// A task moved between run queues.
    Migrate {
        /// The task.
        task: Tid,
        /// From here.
        from: Cpu,
        /// To here.
        to: Cpu,
    },
    /// A callback of the scheduler is about to run.
    Callback {
        /// Its number in the ops table.
        op: u8,
        /// Its subject, if it has one.
        task: Option<Tid>,
    },
    /// The timer tick of a busy CPU.
    Tick,
    /// A reschedule interrupt was sent.
    Ipi {
        /// To this CPU.
        to: Cpu,
    },
    /// A task was created.
    Fork {
        /// The task.
        task: Tid,
    },
    /// A task's program ended.
    TaskExit {
        /// The task.
        task: Tid,
    },
    /// A workload mark.
    Mark {
        /// The task.
        task: Tid,
        /// Which mark.
        mark: Mark,
        /// Phase or loop number.
        value: u64,
    },
    /// The scheduler is leaving.
    Exit {
        /// `SCX_EXIT_*`.
        kind: u32,
        /// Its exit code.
        code: i64,
    },
}

/// Bytes that are no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Unknown kind.
    #[error("record kind {kind} is unknown to schema version {SCHEMA_VERSION}")]
    Kind {
        /// The byte found.
        kind: u8,
    },
    /// Unknown wake cause or mark.
    #[error("record kind {kind} has no variant {sub}")]
    Sub {
        /// The record's kind.
        kind: u8,
        /// The byte found.
        sub: u8,
    },
    /// A record of a task names none.
    #[error("record kind {kind} needs a task")]
    NoTask {
        /// The record's kind.
        kind: u8,
    },
}

/// The columns of an encoded record, but time and CPU.
struct Columns {
    kind: u8,
    sub: u8,
    task: u32,
    other: u32,
    arg: u64,
}

impl Columns {
    const fn of(kind: u8, task: Tid) -> Self {
        Self {
            kind,
            sub: 0,
            task: task.raw(),
            other: NO_TASK,
            arg: 0,
        }
    }

    fn task(&self) -> Result<Tid, DecodeError> {
        optional(self.task).ok_or(DecodeError::NoTask { kind: self.kind })
    }
}

fn raw(task: Option<Tid>) -> u32 {
    task.map_or(NO_TASK, Tid::raw)
}

fn optional(raw: u32) -> Option<Tid> {
    (raw != NO_TASK).then(|| Tid::new(raw))
}

impl What {
    /// Number of kinds.
    pub const KINDS: usize = 14;

    /// The names of the kinds, by number.
    pub const NAMES: [&'static str; Self::KINDS] = [
        "switch",
        "wakeup",
        "runnable",
        "quiescent",
        "insert",
        "remove",
        "migrate",
        "callback",
        "tick",
        "ipi",
        "fork",
        "task_exit",
        "mark",
        "exit",
    ];

    /// The number of this kind, an index of [`What::NAMES`].
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Switch { .. } => 0,
            Self::Wakeup { .. } => 1,
            Self::Runnable { .. } => 2,
            Self::Quiescent { .. } => 3,
            Self::Insert { .. } => 4,
            Self::Remove { .. } => 5,
            Self::Migrate { .. } => 6,
            Self::Callback { .. } => 7,
            Self::Tick => 8,
            Self::Ipi { .. } => 9,
            Self::Fork { .. } => 10,
            Self::TaskExit { .. } => 11,
            Self::Mark { .. } => 12,
            Self::Exit { .. } => 13,
        }
    }

    fn columns(&self) -> Columns {
        let kind = self.kind();
        let of = |task: Tid| Columns::of(kind, task);
        let none = || Columns {
            task: NO_TASK,
            ..Columns::of(kind, Tid::new(0))
        };
        match *self {
            Self::Switch { prev, next } => Columns {
                task: raw(prev),
                other: raw(next),
                ..none()
            },
            Self::Wakeup { task, cause } => Columns {
                sub: cause as u8,
                ..of(task)
            },
            Self::Runnable { task, rq } | Self::Quiescent { task, rq } => Columns {
                other: rq.raw(),
                ..of(task)
            },
            Self::Insert { task, dsq } | Self::Remove { task, dsq } => Columns {
                arg: dsq.raw(),
                ..of(task)
            },
            Self::Migrate { task, from, to } => Columns {
                other: to.raw(),
                arg: u64::from(from.raw()),
                ..of(task)
            },
            Self::Callback { op, task } => Columns {
                sub: op,
                task: raw(task),
                ..none()
            },
            Self::Tick => none(),
            Self::Ipi { to } => Columns {
                other: to.raw(),
                ..none()
            },
            Self::Fork { task } | Self::TaskExit { task } => of(task),
            Self::Mark { task, mark, value } => Columns {
                sub: mark as u8,
                arg: value,
                ..of(task)
            },
            Self::Exit { kind, code } => Columns {
                other: kind,
                arg: code.cast_unsigned(),
                ..none()
            },
        }
    }

    fn from_columns(c: &Columns) -> Result<Self, DecodeError> {
        let bad_sub = || DecodeError::Sub {
            kind: c.kind,
            sub: c.sub,
        };
        let cpu = |raw: u32| Cpu::new(raw);
        Ok(match c.kind {
            0 => Self::Switch {
                prev: optional(c.task),
                next: optional(c.other),
            },
            1 => Self::Wakeup {
                task: c.task()?,
                cause: match c.sub {
                    0 => WakeCause::Fork,
                    1 => WakeCause::Timer,
                    2 => WakeCause::Task,
                    _ => return Err(bad_sub()),
                },
            },
            2 => Self::Runnable {
                task: c.task()?,
                rq: cpu(c.other),
            },
            3 => Self::Quiescent {
                task: c.task()?,
                rq: cpu(c.other),
            },
            4 => Self::Insert {
                task: c.task()?,
                dsq: DsqId::new(c.arg),
            },
            5 => Self::Remove {
                task: c.task()?,
                dsq: DsqId::new(c.arg),
            },
            6 => Self::Migrate {
                task: c.task()?,
                from: cpu(low_u32(c.arg)),
                to: cpu(c.other),
            },
            7 => Self::Callback {
                op: c.sub,
                task: optional(c.task),
            },
            8 => Self::Tick,
            9 => Self::Ipi { to: cpu(c.other) },
            10 => Self::Fork { task: c.task()? },
            11 => Self::TaskExit { task: c.task()? },
            12 => Self::Mark {
                task: c.task()?,
                mark: match c.sub {
                    0 => Mark::Phase,
                    1 => Mark::Loop,
                    _ => return Err(bad_sub()),
                },
                value: c.arg,
            },
            13 => Self::Exit {
                kind: c.other,
                code: c.arg.cast_signed(),
            },
            kind => return Err(DecodeError::Kind { kind }),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the column's upper half is unused"
)]
const fn low_u32(arg: u64) -> u32 {
    arg as u32
}

impl Record {
    /// The record as bytes.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_SIZE] {
        let c = self.what.columns();
        let place = u64::from(self.cpu.raw()) | u64::from(c.kind) << 32 | u64::from(c.sub) << 40;
        let tasks = u64::from(c.task) | u64::from(c.other) << 32;
        let mut bytes = [0; RECORD_SIZE];
        bytes[0..8].copy_from_slice(&self.time.as_ns().to_le_bytes());
        bytes[8..16].copy_from_slice(&place.to_le_bytes());
        bytes[16..24].copy_from_slice(&tasks.to_le_bytes());
        bytes[24..32].copy_from_slice(&c.arg.to_le_bytes());
        bytes
    }

    /// The record that `bytes` encode.
    ///
    /// # Errors
    /// If no record encodes to such bytes.
    pub fn decode(bytes: &[u8; RECORD_SIZE]) -> Result<Self, DecodeError> {
        let u32_at = |at: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(b)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let columns = Columns {
            kind: bytes[12],
            sub: bytes[13],
            task: u32_at(16),
            other: u32_at(20),
            arg: u64_at(24),
        };
        Ok(Self {
            time: SimTime::from_ns(u64_at(0)),
            cpu: Cpu::new(u32_at(8)),
            what: What::from_columns(&columns)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<What> {
        let (task, rq) = (Tid::new(5), Cpu::new(3));
        let dsq = DsqId::new(0x8000_0000_0000_0002);
        vec![
            What::Switch {
                prev: None,
                next: Some(task),
            },
            What::Wakeup {
                task,
                cause: WakeCause::Task,
            },
            What::Runnable { task, rq },
            What::Quiescent { task, rq },
            What::Insert { task, dsq },
            What::Remove { task, dsq },
            What::Migrate {
                task,
                from: rq,
                to: Cpu::new(4),
            },
            What::Callback { op: 25, task: None },
            What::Tick,
            What::Ipi { to: rq },
            What::Fork { task },
            What::TaskExit { task },
            What::Mark {
                task,
                mark: Mark::Loop,
                value: u64::MAX,
            },
            What::Exit {
                kind: 1026,
                code: -1,
            },
        ]
    }

    #[test]
    fn every_kind_survives_encoding() {
        let all = one_of_each();
        assert_eq!(all.len(), What::KINDS);
        for (number, what) in all.into_iter().enumerate() {
            assert_eq!(usize::from(what.kind()), number);
            let record = Record {
                time: SimTime::from_ns(u64::MAX - 1),
                cpu: Cpu::new(9),
                what,
            };
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut bytes = [0xff; RECORD_SIZE];
        assert_eq!(
            Record::decode(&bytes),
            Err(DecodeError::Kind { kind: 0xff })
        );
        bytes[12] = 2;
        assert_eq!(Record::decode(&bytes), Err(DecodeError::NoTask { kind: 2 }));
        bytes[12] = 1;
        bytes[16..20].copy_from_slice(&1u32.to_le_bytes());
        assert_eq!(
            Record::decode(&bytes),
            Err(DecodeError::Sub { kind: 1, sub: 0xff })
        );
    }
}
