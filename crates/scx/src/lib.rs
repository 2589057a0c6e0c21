//! The sched_ext core as a pure state machine.
//!
//! Four parties meet here, and the core is the only one that knows them all:
//!
//! ```text
//!   sim ──events──► Core ──callbacks──► dyn SchedOps   the scheduler (BPF or Rust)
//!                    │ ├──time, IPIs───► dyn Machine    the simulated hardware
//!                    │ └──stores───────► dyn Image      p->scx and friends, as BPF reads them
//!                    ◄──kfuncs───────── the scheduler, from inside a callback
//! ```
//!
//! The core holds no clock, no queue of events and no memory of the guest. Everything
//! it must ask for goes through [`Machine`]; everything a scheduler may read goes out
//! through [`Image`]. Callbacks get the core back as `&mut`, so that a kfunc called
//! inside one works on the same state. Whoever only looks on is told moments
//! ([`SchedOps::trace`]), whether a scheduler is attached or not.
//!
//! Not modelled yet: cgroup callbacks, hotplug, core scheduling, sub-schedulers and
//! their capabilities, the RT and DL classes (a plain fair class stands for everything
//! above ext), `SCX_KICK_WAIT`'s waiting, the load balancer of a long bypass, and queued
//! wakeups (`SCX_OPS_ALLOW_QUEUED_WAKEUP` changes nothing).
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod bypass;
mod change;
mod check;
mod cid;
mod core;
mod deferred;
mod dispatch;
mod dsq;
mod dump;
mod enable;
mod enqueue;
mod event;
mod exit;
mod fair;
mod idle;
mod image;
mod insert;
mod kfunc;
mod kick;
mod list;
mod machine;
mod ops;
mod pick;
mod priq;
mod rq;
mod sched;
mod select_cpu;
mod task;
mod topology;
mod trace;
mod types;
mod wakeup;
mod watchdog;
mod weight;

pub use crate::core::Core;
pub use cid::{CidLayoutError, CidMap, CidTopo};
pub use event::Event;
pub use image::{Image, MaskKind, PlainImage, TaskSpec};
pub use machine::{Alarm, Cost, Machine};
pub use ops::{
    CgroupRef, Cx, DumpCtx, Env, ExitInfo, ExitTask, Form, InitTask, Op, OpsConfig, SchedOps, Stall,
};
pub use topology::{CpuSet, CpuTopology, Topology};
pub use trace::{Function, Interrupt, Moment, MomentKind, MomentSet};
pub use types::{
    Class, CoreConfig, EnableError, EventStats, Insert, IterId, Leave, Switched, TaskState,
    TaskView,
};
