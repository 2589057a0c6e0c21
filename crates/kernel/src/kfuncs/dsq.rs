//! Kfuncs on dispatch queues: create, insert, move, iterate, count.

use harena_abi::{DsqId, KernAddr, Tid};
use harena_scx::{Insert, IterId};
use harena_vm::{Abort, Effect, Object};

use super::{Kf, context, kfuncs};
use crate::access::Fields;
use crate::reg::{as_s32, as_u32};
use crate::sched::Attached;
use crate::types::ctype::field;
use crate::types::scx::scx_bpf_dsq_insert_vtime_args as VtimeArgs;

/// An iterator over a dispatch queue.
const ITER: Object = Object::Iterator("bpf_iter_scx_dsq");

kfuncs! {
    context::INSERT, None, No {
        scx_bpf_dsq_insert "void (struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags)"
            => insert;
        scx_bpf_dsq_insert___v2 "bool (struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags)"
            => insert;
        scx_bpf_dsq_insert_vtime
            "void (struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime, u64 enq_flags)"
            => insert_vtime;
        __scx_bpf_dsq_insert_vtime
            "bool (struct task_struct *p, struct scx_bpf_dsq_insert_vtime_args *args)"
            => insert_vtime_args;
    }
    context::DISPATCH, None, No {
        scx_bpf_dsq_move_to_local "bool (u64 dsq_id)"
            => |k, [dsq, ..]| Ok(k.move_to_local(dsq, 0).into());
        scx_bpf_dsq_move_to_local___v2 "bool (u64 dsq_id, u64 enq_flags)"
            => |k, [dsq, flags, ..]| Ok(k.move_to_local(dsq, flags).into());
        scx_bpf_dispatch_nr_slots "u32 (void)" => |k, _| {
            let (core, machine) = k.core();
            Ok(core.kf_dispatch_nr_slots(machine).into())
        };
        scx_bpf_dispatch_cancel "void (void)" => |k, _| {
            let (core, machine) = k.core();
            core.kf_dispatch_cancel(machine);
            Ok(0)
        };
    }
    context::MOVE, None, No {
        scx_bpf_dsq_move
            "bool (struct bpf_iter_scx_dsq *it__iter, struct task_struct *p, u64 dsq_id, u64 enq_flags)"
            [Effect::Use(ITER)] => |k, [it, p, dsq, flags, _]| k.dsq_move(it, p, insert_of(dsq, flags, None));
        scx_bpf_dsq_move_vtime
            "bool (struct bpf_iter_scx_dsq *it__iter, struct task_struct *p, u64 dsq_id, u64 enq_flags)"
            [Effect::Use(ITER)] => |k, [it, p, dsq, flags, _]| k.dsq_move(it, p, insert_of(dsq, flags, Some(0)));
        scx_bpf_dsq_move_set_slice "void (struct bpf_iter_scx_dsq *it__iter, u64 slice)"
            [Effect::Use(ITER)] => |k, [it, slice, ..]| {
                if let Some(it) = k.iter(it)? {
                    k.cx.core.kf_dsq_move_set_slice(it, slice);
                }
                Ok(0)
            };
        scx_bpf_dsq_move_set_vtime "void (struct bpf_iter_scx_dsq *it__iter, u64 vtime)"
            [Effect::Use(ITER)] => |k, [it, vtime, ..]| {
                if let Some(it) = k.iter(it)? {
                    k.cx.core.kf_dsq_move_set_vtime(it, vtime);
                }
                Ok(0)
            };
    }
    context::UNLOCKED, None, Yes {
        scx_bpf_create_dsq "s32 (u64 dsq_id, s32 node)" => |k, [dsq, node, ..]| {
            let created = k.cx.core.kf_create_dsq(DsqId::new(dsq), as_s32(node));
            Ok(created.map_or_else(|errno| errno.as_reg(), |()| 0))
        };
    }
    context::RELEASE, None, No {
        scx_bpf_reenqueue_local "u32 (void)" => |k, _| {
            let mut nested = Attached::new(k.call.vm, k.st);
            let (core, mut env) = k.cx.with(&mut nested);
            Ok(core.kf_reenqueue_local(&mut env).into())
        };
    }
    context::ANY, None, No {
        scx_bpf_destroy_dsq "void (u64 dsq_id)" => |k, [dsq, ..]| {
            let (core, machine) = k.core();
            core.kf_destroy_dsq(machine, DsqId::new(dsq));
            Ok(0)
        };
        scx_bpf_dsq_nr_queued "s32 (u64 dsq_id)" => |k, [dsq, ..]| {
            let (core, machine) = k.core();
            let queued = core.kf_dsq_nr_queued(machine, DsqId::new(dsq));
            Ok(queued.map_or_else(|errno| errno.as_reg(), u64::from))
        };
        scx_bpf_dsq_peek "struct task_struct *(u64 dsq_id)" => |k, [dsq, ..]| {
            let (core, machine) = k.core();
            let first = core.kf_dsq_peek(machine, DsqId::new(dsq));
            Ok(k.task_ptr(first))
        };
        scx_bpf_dsq_reenq "void (u64 dsq_id, u64 reenq_flags)" => |k, [dsq, flags, ..]| {
            let (core, machine) = k.core();
            core.kf_dsq_reenq(machine, DsqId::new(dsq), flags);
            Ok(0)
        };
        scx_bpf_reenqueue_local___v2 "void (void)" => |k, _| {
            let (core, machine) = k.core();
            core.kf_dsq_reenq(machine, DsqId::new(harena_abi::scx::SCX_DSQ_LOCAL), 0);
            Ok(0)
        };
        bpf_iter_scx_dsq_new "int (struct bpf_iter_scx_dsq *it, u64 dsq_id, u64 flags)"
            [Effect::Begin(ITER)] => iter_new;
        bpf_iter_scx_dsq_next "struct task_struct *(struct bpf_iter_scx_dsq *it)"
            [Effect::Use(ITER)] => |k, [it, ..]| {
                let next = k.iter(it)?.and_then(|it| k.cx.core.kf_iter_next(it));
                Ok(k.task_ptr(next))
            };
        bpf_iter_scx_dsq_destroy "void (struct bpf_iter_scx_dsq *it)"
            [Effect::End(ITER)] => |k, [it, ..]| {
                if let Some(it) = k.iter(it)? {
                    k.cx.core.kf_iter_destroy(it);
                }
                Ok(0)
            };
    }
}

const fn insert_of(dsq: u64, enq_flags: u64, vtime: Option<u64>) -> Insert {
    Insert {
        dsq: DsqId::new(dsq),
        slice: 0,
        vtime,
        enq_flags,
    }
}

fn insert(k: &mut Kf<'_, '_, '_>, [p, dsq, slice, flags, _]: [u64; 5]) -> Result<u64, Abort> {
    let to = insert_of(dsq, flags, None);
    k.dsq_insert(p, Insert { slice, ..to })
}

fn insert_vtime(
    k: &mut Kf<'_, '_, '_>,
    [p, dsq, slice, vtime, flags]: [u64; 5],
) -> Result<u64, Abort> {
    let to = insert_of(dsq, flags, Some(vtime));
    k.dsq_insert(p, Insert { slice, ..to })
}

fn insert_vtime_args(k: &mut Kf<'_, '_, '_>, [p, args, ..]: [u64; 5]) -> Result<u64, Abort> {
    let mem = k.mem();
    let args = KernAddr::new(args);
    let read = |field| mem.load(args, field).map_err(|fault| k.bad_memory(&fault));
    let to = Insert {
        dsq: DsqId::new(read(field!(VtimeArgs, dsq_id))?),
        slice: read(field!(VtimeArgs, slice))?,
        vtime: Some(read(field!(VtimeArgs, vtime))?),
        enq_flags: read(field!(VtimeArgs, enq_flags))?,
    };
    k.dsq_insert(p, to)
}

/// First word of a live iterator's storage, with its number in the low half. Anything else
/// there means that the iterator was not created, or was scribbled over.
const ITER_MAGIC: u64 = 0x6974_6572 << 32;

fn iter_new(k: &mut Kf<'_, '_, '_>, [it, dsq, flags, ..]: [u64; 5]) -> Result<u64, Abort> {
    let created = k.cx.core.kf_iter_new(DsqId::new(dsq), flags);
    let word = created.map_or(0, |it| ITER_MAGIC | u64::from(it.0));
    let stored = k.mem().write_u64(KernAddr::new(it), word);
    stored.map_err(|fault| k.bad_memory(&fault))?;
    Ok(created.map_or_else(|errno| errno.as_reg(), |_| 0))
}

impl Kf<'_, '_, '_> {
    /// The iterator in a program's storage; `None` if creating it had failed.
    fn iter(&self, it: u64) -> Result<Option<IterId>, Abort> {
        let word = self
            .mem()
            .read_u64(KernAddr::new(it))
            .map_err(|fault| self.bad_memory(&fault))?;
        if word == 0 {
            return Ok(None);
        }
        if word & (u64::MAX << 32) != ITER_MAGIC {
            return Err(self
                .call
                .bad_argument(format!("{it:#x} is no initialised iterator")));
        }
        Ok(Some(IterId(as_u32(word))))
    }

    fn task_or_null(&self, p: u64) -> Result<Option<Tid>, Abort> {
        if p == 0 {
            Ok(None)
        } else {
            self.task(p).map(Some)
        }
    }

    fn dsq_insert(&mut self, p: u64, to: Insert) -> Result<u64, Abort> {
        let p = self.task_or_null(p)?;
        let (core, machine) = self.core();
        Ok(core.kf_dsq_insert(machine, p, to).into())
    }

    fn move_to_local(&mut self, dsq: u64, enq_flags: u64) -> bool {
        let mut nested = Attached::new(self.call.vm, self.st);
        let (core, mut env) = self.cx.with(&mut nested);
        core.kf_dsq_move_to_local(&mut env, DsqId::new(dsq), enq_flags)
    }

    fn dsq_move(&mut self, it: u64, p: u64, to: Insert) -> Result<u64, Abort> {
        let p = self.task_or_null(p)?;
        let Some(it) = self.iter(it)? else {
            return Ok(0);
        };
        let mut nested = Attached::new(self.call.vm, self.st);
        let (core, mut env) = self.cx.with(&mut nested);
        Ok(core.kf_dsq_move(&mut env, it, p, to).into())
    }
}
