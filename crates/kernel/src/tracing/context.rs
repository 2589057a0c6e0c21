//! What a program is given: arguments, a record, or registers, in the nesting level's memory.

use harena_abi::{Cpu, KernAddr, Nanos, Tid, scx};
use harena_scx::{Core, Function, Interrupt, Moment};
use harena_vm::GuestMem;

use super::Tracing;
use super::points::{Point, Style};
use crate::access::{Fields, Scalar};
use crate::places::Places;
use crate::reg::from_s32;
use crate::state::Level;
use crate::types::ctype::{Field, field};
use crate::types::task::{TASK_COMM_LEN, task_struct};
use crate::types::trace::{
    pt_regs, trace_event_raw_cpu, trace_event_raw_sched_ext_dump, trace_event_raw_sched_ext_event,
    trace_event_raw_sched_migrate_task, trace_event_raw_sched_process_exit,
    trace_event_raw_sched_process_fork, trace_event_raw_sched_process_template,
    trace_event_raw_sched_stat_runtime, trace_event_raw_sched_switch,
    trace_event_raw_sched_wakeup_template, trace_event_raw_softirq, trace_event_raw_x86_irq_vector,
};

/// `CPUIDLE` state of `default_idle_call()`.
const IDLE_STATE: u32 = 1;
/// `PWR_EVENT_EXIT`.
const PWR_EVENT_EXIT: u32 = u32::MAX;
/// `TASK_NORMAL`: what a wakeup wakes.
const TASK_NORMAL: u64 = 3;
/// `EXIT_DEAD`.
const EXIT_DEAD: i64 = 0x10;

/// Bytes of a line of a dump, with its NUL.
const LINE_MAX: u64 = scx::SCX_EXIT_MSG_LEN;
/// Bytes of a record, and of a string that an argument points to.
const RECORD_MAX: u64 = 256 + LINE_MAX;
pub(crate) const CONTEXT_MAX: u64 = RECORD_MAX + LINE_MAX;

const BACKED: &str = "the level's block is mapped";

/// Writes fields of a trace event's record; one that is called as its value needs none.
macro_rules! put {
    (@ $field:ident $value:expr) => { $value };
    (@ $field:ident) => { $field };
    ($writer:ident, $record:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $($writer.put(field!($record, $field), put!(@ $field $($value)?));)*
    };
}

/// What is seen at one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) args: [u64; 6],
    /// The result of a function that returns.
    pub(super) ret: u64,
}

/// Makes arguments of a moment. A string is written to the level's memory.
pub(super) struct Reader<'a> {
    pub(super) places: &'a Places,
    pub(super) tracing: &'a Tracing,
    pub(super) mem: &'a GuestMem,
    pub(super) core: &'a Core,
    pub(super) level: Level,
}

impl Reader<'_> {
    fn task(&self, p: Tid) -> u64 {
        self.places.task(p).raw()
    }

    fn task_or_idle(&self, cpu: Cpu, p: Option<Tid>) -> u64 {
        p.map_or_else(|| self.places.idle_task(cpu).raw(), |p| self.task(p))
    }

    /// The arguments at a moment.
    pub(super) fn seen(&self, moment: &Moment<'_>) -> Seen {
        let mut args = [0; 6];
        let mut fill = |list: &[u64]| args[..list.len()].copy_from_slice(list);
        let mut ret = 0;
        match *moment {
            Moment::SchedSwitch {
                cpu,
                prev,
                next,
                prev_state,
            } => {
                let [prev, next] = [prev, next].map(|p| self.task_or_idle(cpu, p));
                fill(&[0, prev, next, prev_state.into()]);
            }
            Moment::SchedWaking(p)
            | Moment::SchedWakeup(p)
            | Moment::SchedWakeupNew(p)
            | Moment::SchedProcessFree(p) => fill(&[self.task(p)]),
            Moment::SchedMigrateTask { task, to } => fill(&[self.task(task), to.raw().into()]),
            Moment::SchedProcessFork { parent, child } => {
                let parent = self.task_or_idle(Cpu::new(0), parent);
                fill(&[parent, self.task(child)]);
            }
            Moment::SchedProcessExit { task, group_dead } => {
                fill(&[self.task(task), group_dead.into()]);
            }
            Moment::CpuIdle { cpu, idle } => {
                let state = if idle { IDLE_STATE } else { PWR_EVENT_EXIT };
                fill(&[state.into(), cpu.raw().into()]);
            }
            Moment::SchedStatRuntime { task, runtime } => {
                fill(&[self.task(task), runtime.as_ns()]);
            }
            Moment::IrqEntry(interrupt) | Moment::IrqExit(interrupt) => {
                fill(&[vector(interrupt).into()]);
            }
            Moment::SchedExtEvent { name, delta } => {
                fill(&[self.string(name), delta.cast_unsigned()]);
            }
            Moment::SchedExtDump(line) => fill(&[self.string(line)]),
            Moment::Enter(function) => fill(self.arguments(function).as_slice()),
            Moment::Return(function, result) => {
                fill(self.arguments(function).as_slice());
                ret = from_s32(result);
            }
        }
        Seen { args, ret }
    }

    fn arguments(&self, function: Function) -> Vec<u64> {
        match function {
            Function::Register => self.tracing.registered.map(KernAddr::raw).to_vec(),
            Function::SchedTick | Function::Schedule => Vec::new(),
            Function::ScxTick(cpu) => vec![self.places.rq(cpu).raw()],
            Function::TryToWakeUp { task, sync } => {
                let wake_flags = if sync { scx::SCX_WAKE_SYNC } else { 0 };
                vec![self.task(task), TASK_NORMAL, wake_flags]
            }
            Function::WakeUpNewTask(p) => vec![self.task(p)],
        }
    }

    /// Writes a string where an argument may point to it.
    fn string(&self, text: &str) -> u64 {
        let at = KernAddr::new(self.level.trace.raw() + RECORD_MAX);
        self.mem.write_bytes(at, &terminated(text)).expect(BACKED);
        at.raw()
    }

    /// Writes the context of a program at this point, and gives its address.
    pub(super) fn write(
        &self,
        point: &Point,
        seen: &Seen,
        moment: Option<&Moment<'_>>,
    ) -> KernAddr {
        match point.style {
            Style::BtfTracepoint | Style::RawTracepoint | Style::Entry => {
                self.write_args(&seen.args[..point.nr_args], None)
            }
            Style::Exit => self.write_args(&seen.args[..point.nr_args], Some(seen.ret)),
            Style::Probe => self.write_regs(&seen.args, point.ip, 0),
            // What was in the registers of the arguments is gone.
            Style::ReturnProbe => self.write_regs(&[0; 6], 0, seen.ret),
            Style::Record => {
                let moment = moment.expect("records are of tracepoints");
                self.write_record(moment)
            }
        }
    }

    fn write_args(&self, args: &[u64], ret: Option<u64>) -> KernAddr {
        let at = self.level.args;
        for (arg, number) in args.iter().chain(&ret).zip(0u64..) {
            let slot = KernAddr::new(at.raw() + number * 8);
            self.mem.write_u64(slot, *arg).expect(BACKED);
        }
        at
    }

    fn write_regs(&self, args: &[u64; 6], ip: u64, ax: u64) -> KernAddr {
        let (mem, at) = (self.mem, self.level.trace);
        mem.zero(at, size_of::<pt_regs>() as u64).expect(BACKED);
        let [di, si, dx, cx, r8, r9] = *args;
        mem.put(at, field!(pt_regs, di), di);
        mem.put(at, field!(pt_regs, si), si);
        mem.put(at, field!(pt_regs, dx), dx);
        mem.put(at, field!(pt_regs, cx), cx);
        mem.put(at, field!(pt_regs, r8), r8);
        mem.put(at, field!(pt_regs, r9), r9);
        mem.put(at, field!(pt_regs, ax), ax);
        mem.put(at, field!(pt_regs, ip), ip);
        at
    }

    fn write_record(&self, moment: &Moment<'_>) -> KernAddr {
        let at = self.level.trace;
        self.mem.zero(at, RECORD_MAX).expect(BACKED);
        match *moment {
            Moment::SchedSwitch {
                cpu,
                prev,
                next,
                prev_state,
            } => self.switch(cpu, prev, next, prev_state),
            Moment::SchedWaking(p) | Moment::SchedWakeup(p) | Moment::SchedWakeupNew(p) => {
                self.wakeup(p);
            }
            Moment::SchedMigrateTask { task, to } => self.migrate(task, to),
            Moment::SchedProcessFork { parent, child } => self.fork(parent, child),
            Moment::SchedProcessExit { task, group_dead } => self.exit(task, group_dead),
            Moment::SchedProcessFree(p) => self.free(p),
            Moment::CpuIdle { cpu, idle } => {
                let state = if idle { IDLE_STATE } else { PWR_EVENT_EXIT };
                put!(
                    self,
                    trace_event_raw_cpu {
                        state,
                        cpu_id: cpu.raw(),
                    }
                );
            }
            Moment::SchedStatRuntime { task, runtime } => self.runtime(task, runtime),
            // The first field of either record.
            Moment::IrqEntry(interrupt) | Moment::IrqExit(interrupt) => {
                put!(
                    self,
                    trace_event_raw_softirq {
                        vec: vector(interrupt),
                    }
                );
            }
            Moment::SchedExtEvent { name, delta } => {
                let data = field!(trace_event_raw_sched_ext_event, __data).offset();
                let loc = self.data(data, &terminated(name));
                put!(
                    self,
                    trace_event_raw_sched_ext_event {
                        __data_loc_name: loc,
                        delta,
                    }
                );
            }
            Moment::SchedExtDump(line) => {
                let data = field!(trace_event_raw_sched_ext_dump, __data).offset();
                let loc = self.data(data, &terminated(line));
                put!(
                    self,
                    trace_event_raw_sched_ext_dump {
                        __data_loc_line: loc,
                    }
                );
            }
            Moment::Enter(_) | Moment::Return(..) => {
                unreachable!("functions have no records")
            }
        }
        at
    }

    fn put<T: Scalar>(&self, field: Field<T>, value: T) {
        self.mem.put(self.level.trace, field, value);
    }

    /// Adds bytes to the record, at an offset; gives what its `__data_loc_` field says of them.
    fn data(&self, offset: u64, bytes: &[u8]) -> u32 {
        let at = KernAddr::new(self.level.trace.raw() + offset);
        self.mem.write_bytes(at, bytes).expect(BACKED);
        let [offset, len] = [offset, bytes.len() as u64].map(|n| u32::try_from(n).expect("small"));
        len << 16 | offset
    }

    fn comm(&self, task: KernAddr) -> [u8; TASK_COMM_LEN] {
        let mut comm = [0; TASK_COMM_LEN];
        let at = task.raw() + field!(task_struct, comm).offset();
        let tasks = "task_structs are mapped";
        self.mem
            .read_bytes(KernAddr::new(at), &mut comm)
            .expect(tasks);
        comm
    }

    fn put_comm(&self, field: Field<[i8; TASK_COMM_LEN]>, task: KernAddr) {
        self.data(field.offset(), &self.comm(task));
    }

    /// The name as a string of its own length.
    fn name(&self, task: KernAddr) -> Vec<u8> {
        let comm = self.comm(task);
        let end = comm.iter().position(|b| *b == 0).unwrap_or(comm.len() - 1);
        comm[..=end].to_vec()
    }

    fn pid(&self, task: KernAddr) -> i32 {
        self.mem.get(task, field!(task_struct, pid))
    }

    fn prio(&self, task: KernAddr) -> i32 {
        self.mem.get(task, field!(task_struct, prio))
    }

    fn switch(&self, cpu: Cpu, prev: Option<Tid>, next: Option<Tid>, prev_state: u32) {
        let [prev, next] = [prev, next].map(|p| KernAddr::new(self.task_or_idle(cpu, p)));
        let reported = match prev_state {
            scx::TASK_DEAD => EXIT_DEAD,
            other => other.into(),
        };
        self.put_comm(field!(trace_event_raw_sched_switch, prev_comm), prev);
        put!(
            self,
            trace_event_raw_sched_switch {
                prev_pid: self.pid(prev),
                prev_prio: self.prio(prev),
                prev_state: reported,
            }
        );
        self.put_comm(field!(trace_event_raw_sched_switch, next_comm), next);
        put!(
            self,
            trace_event_raw_sched_switch {
                next_pid: self.pid(next),
                next_prio: self.prio(next),
            }
        );
    }

    fn wakeup(&self, p: Tid) {
        let task = self.places.task(p);
        let cpu = self.core.task(p).map_or(0, |view| view.cpu.as_s32());
        self.put_comm(field!(trace_event_raw_sched_wakeup_template, comm), task);
        put!(
            self,
            trace_event_raw_sched_wakeup_template {
                pid: self.pid(task),
                prio: self.prio(task),
                target_cpu: cpu,
            }
        );
    }

    fn migrate(&self, p: Tid, to: Cpu) {
        let task = self.places.task(p);
        let from = self.core.task(p).map_or(0, |view| view.cpu.as_s32());
        let data = field!(trace_event_raw_sched_migrate_task, __data).offset();
        let comm = self.data(data, &self.name(task));
        put!(
            self,
            trace_event_raw_sched_migrate_task {
                __data_loc_comm: comm,
                pid: self.pid(task),
                prio: self.prio(task),
                orig_cpu: from,
                dest_cpu: to.as_s32(),
            }
        );
    }

    fn fork(&self, parent: Option<Tid>, child: Tid) {
        let parent = KernAddr::new(self.task_or_idle(Cpu::new(0), parent));
        let child = self.places.task(child);
        let data = field!(trace_event_raw_sched_process_fork, __data).offset();
        let name = self.name(parent);
        let loc = self.data(data, &name);
        put!(
            self,
            trace_event_raw_sched_process_fork {
                __data_loc_parent_comm: loc,
                parent_pid: self.pid(parent),
            }
        );
        let loc = self.data(data + name.len() as u64, &self.name(child));
        put!(
            self,
            trace_event_raw_sched_process_fork {
                __data_loc_child_comm: loc,
                child_pid: self.pid(child),
            }
        );
    }

    fn exit(&self, p: Tid, group_dead: bool) {
        let task = self.places.task(p);
        self.put_comm(field!(trace_event_raw_sched_process_exit, comm), task);
        put!(
            self,
            trace_event_raw_sched_process_exit {
                pid: self.pid(task),
                prio: self.prio(task),
                group_dead,
            }
        );
    }

    fn runtime(&self, p: Tid, runtime: Nanos) {
        let task = self.places.task(p);
        let data = field!(trace_event_raw_sched_stat_runtime, __data).offset();
        let comm = self.data(data, &self.name(task));
        put!(
            self,
            trace_event_raw_sched_stat_runtime {
                __data_loc_comm: comm,
                pid: self.pid(task),
                runtime: runtime.as_ns(),
            }
        );
    }

    fn free(&self, p: Tid) {
        let task = self.places.task(p);
        let data = field!(trace_event_raw_sched_process_template, __data).offset();
        let comm = self.data(data, &self.name(task));
        put!(
            self,
            trace_event_raw_sched_process_template {
                __data_loc_comm: comm,
                pid: self.pid(task),
                prio: self.prio(task),
            }
        );
    }
}

/// The vector of an interrupt on x86-64, or the number of a softirq.
const fn vector(interrupt: Interrupt) -> u32 {
    match interrupt {
        Interrupt::LocalTimer => 0xec,
        Interrupt::Reschedule => 0xfd,
        Interrupt::IrqWork => 0xf6,
        Interrupt::TimerSoftirq => 8,
    }
}

const _: () = {
    let irq = field!(trace_event_raw_x86_irq_vector, vector).offset();
    assert!(irq == field!(trace_event_raw_softirq, vec).offset());
};

/// The bytes of a string with its NUL, cut to what a line may have.
fn terminated(text: &str) -> Vec<u8> {
    let room = usize::try_from(LINE_MAX).unwrap_or(usize::MAX) - 1;
    let text = text.as_bytes();
    let mut bytes = text[..text.len().min(room)].to_vec();
    bytes.push(0);
    bytes
}
