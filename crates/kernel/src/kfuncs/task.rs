//! Kfuncs on tasks: where they run, their slice and vtime, finding and holding them.
//!
//! A reference to a task needs no counting: a task that is gone is recognised by its
//! number, which is never used again.

use harena_abi::Tid;
use harena_scx::Form;
use harena_vm::{Abort, Effect, Object};

use super::{Kf, context, kfuncs};
use crate::places::TaskRef;
use crate::reg::{as_s32, from_s32};
use crate::sched::Attached;

const CPU: Option<Form> = Some(Form::Cpu);

/// A counted reference to a task.
const TASK: Object = Object::Reference("task_struct");

kfuncs! {
    context::ANY, None, No {
        scx_bpf_task_set_slice "bool (struct task_struct *p, u64 slice)"
            => |k, [p, slice, ..]| {
                let p = k.task(p)?;
                let mut nested = Attached::new(k.call.vm, k.st);
                let (core, mut env) = k.cx.with(&mut nested);
                Ok(core.kf_task_set_slice(&mut env, p, slice).into())
            };
        scx_bpf_task_set_dsq_vtime "bool (struct task_struct *p, u64 vtime)"
            => |k, [p, vtime, ..]| {
                let p = k.task(p)?;
                Ok(k.cx.core.kf_task_set_dsq_vtime(p, vtime).into())
            };
        scx_bpf_task_running "bool (const struct task_struct *p)" => task_running;
        scx_bpf_task_cid "s32 (const struct task_struct *p)" => task_cid;
        scx_bpf_tid_to_task "struct task_struct *(u64 tid)" => |k, [tid, ..]| {
            let (core, machine) = k.core();
            let task = core.kf_tid_to_task(machine, tid);
            Ok(k.task_ptr(task))
        };
        scx_bpf_cid_curr "struct task_struct *(s32 cid)" => |k, [cid, ..]| {
            let (core, machine) = k.core();
            let curr = core.kf_cid_curr(machine, as_s32(cid));
            let cpu = harena_abi::Cid::from_s32(as_s32(cid)).and_then(|c| core.cids().cpu_of(c));
            Ok(curr.zip(cpu).map_or(0, |(curr, cpu)| k.curr_ptr(cpu, curr)))
        };
        bpf_task_from_pid "struct task_struct *(s32 pid)" [Effect::Result(TASK)] => |k, [pid, ..]| {
            let tid = Tid::from_s32(as_s32(pid)).filter(|tid| k.cx.core.task(*tid).is_some());
            Ok(k.task_ptr(tid))
        };
        // There is one pid namespace.
        bpf_task_from_vpid "struct task_struct *(s32 vpid)" [Effect::Result(TASK)]
            => |k, [vpid, ..]| {
                let tid = Tid::from_s32(as_s32(vpid));
                let tid = tid.filter(|tid| k.cx.core.task(*tid).is_some());
                Ok(k.task_ptr(tid))
            };
        bpf_task_acquire "struct task_struct *(struct task_struct *p)" [Effect::Result(TASK)]
            => |k, [p, ..]| k.task_ref(p).map(|_| p);
        bpf_task_release "void (struct task_struct *p)" [Effect::End(TASK)] => |_, _| Ok(0);
    }
    context::ANY, CPU, No {
        scx_bpf_task_cpu "s32 (const struct task_struct *p)" => task_cpu;
        scx_bpf_cpu_curr "struct task_struct *(s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            let curr = core.kf_cpu_curr(machine, as_s32(cpu));
            let cpu = harena_abi::Cpu::from_s32(as_s32(cpu));
            Ok(curr.zip(cpu).map_or(0, |(curr, cpu)| k.curr_ptr(cpu, curr)))
        };
        scx_bpf_locked_rq "struct rq *(void)" => |k, _| {
            let (core, machine) = k.core();
            let cpu = core.kf_locked_rq(machine);
            Ok(cpu.map_or(0, |cpu| k.st.places.rq(cpu).raw()))
        };
    }
}

fn task_running(k: &mut Kf<'_, '_, '_>, [p, ..]: [u64; 5]) -> Result<u64, Abort> {
    Ok(match k.task_ref(p)? {
        TaskRef::Task(tid) => k.cx.core.kf_task_running(tid).into(),
        TaskRef::Idle(cpu) => k.cx.core.curr(cpu).is_none().into(),
    })
}

fn task_cpu(k: &mut Kf<'_, '_, '_>, [p, ..]: [u64; 5]) -> Result<u64, Abort> {
    let cpu = match k.task_ref(p)? {
        TaskRef::Task(tid) => k.cx.core.kf_task_cpu(tid),
        TaskRef::Idle(cpu) => Some(cpu),
    };
    Ok(cpu.map_or(0, |cpu| cpu.raw().into()))
}

fn task_cid(k: &mut Kf<'_, '_, '_>, [p, ..]: [u64; 5]) -> Result<u64, Abort> {
    let task = k.task_ref(p)?;
    let (core, machine) = k.core();
    Ok(from_s32(match task {
        TaskRef::Task(tid) => core.kf_task_cid(tid),
        TaskRef::Idle(cpu) => core.kf_cpu_to_cid(machine, cpu.as_s32()),
    }))
}
