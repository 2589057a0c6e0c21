//! Kfuncs on idle CPUs: selection, claiming, and the live masks.
//!
//! The whole group is for the cpu form: a cid-form scheduler tracks idle cids itself.

use harena_abi::{Cpu, Errno, KernAddr};
use harena_scx::{Form, MaskKind};
use harena_vm::{Abort, Effect, Object};

use super::{Kf, context, kfuncs};
use crate::access::Fields;
use crate::reg::{as_s32, from_s32};
use crate::types::ctype::field;
use crate::types::scx::scx_bpf_select_cpu_and_args as AndArgs;

const CPU: Option<Form> = Some(Form::Cpu);

/// A mask of the kernel's, which is live and not counted, but must be put all the same.
const MASK: Object = Object::Reference("cpumask");

kfuncs! {
    context::SELECT, CPU, No {
        scx_bpf_select_cpu_dfl
            "s32 (struct task_struct *p, s32 prev_cpu, u64 wake_flags, bool *is_idle)"
            => select_cpu_dfl;
        scx_bpf_select_cpu_and
            "s32 (struct task_struct *p, s32 prev_cpu, u64 wake_flags, const struct cpumask *cpus_allowed, u64 flags)"
            => |k, [p, prev, wake, allowed, flags]| {
                k.select_cpu_and(p, allowed, (as_s32(prev), wake, flags))
            };
        __scx_bpf_select_cpu_and
            "s32 (struct task_struct *p, const struct cpumask *cpus_allowed, struct scx_bpf_select_cpu_and_args *args)"
            => select_cpu_and_args;
    }
    context::ANY, CPU, No {
        scx_bpf_test_and_clear_cpu_idle "bool (s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            Ok(core.kf_test_and_clear_cpu_idle(machine, as_s32(cpu)).into())
        };
        scx_bpf_pick_idle_cpu "s32 (const struct cpumask *cpus_allowed, u64 flags)"
            => |k, [allowed, flags, ..]| k.pick(Pick::Idle, allowed, None, flags);
        scx_bpf_pick_idle_cpu_node "s32 (const struct cpumask *cpus_allowed, int node, u64 flags)"
            => |k, [allowed, node, flags, ..]| {
                k.pick(Pick::Idle, allowed, Some(as_s32(node)), flags)
            };
        scx_bpf_pick_any_cpu "s32 (const struct cpumask *cpus_allowed, u64 flags)"
            => |k, [allowed, flags, ..]| k.pick(Pick::Any, allowed, None, flags);
        scx_bpf_pick_any_cpu_node "s32 (const struct cpumask *cpus_allowed, int node, u64 flags)"
            => |k, [allowed, node, flags, ..]| {
                k.pick(Pick::Any, allowed, Some(as_s32(node)), flags)
            };
        scx_bpf_get_idle_cpumask "const struct cpumask *(void)" [Effect::Result(MASK)]
            => |k, _| Ok(k.idle_mask(MaskKind::IdleCpu, None));
        scx_bpf_get_idle_smtmask "const struct cpumask *(void)" [Effect::Result(MASK)]
            => |k, _| Ok(k.idle_mask(MaskKind::IdleSmt, None));
        scx_bpf_get_idle_cpumask_node "const struct cpumask *(int node)" [Effect::Result(MASK)]
            => |k, [node, ..]| Ok(k.idle_mask(MaskKind::IdleCpu, Some(as_s32(node))));
        scx_bpf_get_idle_smtmask_node "const struct cpumask *(int node)" [Effect::Result(MASK)]
            => |k, [node, ..]| Ok(k.idle_mask(MaskKind::IdleSmt, Some(as_s32(node))));
        scx_bpf_put_idle_cpumask "void (const struct cpumask *idle_mask)" [Effect::End(MASK)]
            => |_, _| Ok(0);
        scx_bpf_get_possible_cpumask "const struct cpumask *(void)" [Effect::Result(MASK)]
            => |k, _| Ok(k.st.places.mask(MaskKind::Possible, None).raw());
        scx_bpf_get_online_cpumask "const struct cpumask *(void)" [Effect::Result(MASK)]
            => |k, _| Ok(k.st.places.mask(MaskKind::Online, None).raw());
        scx_bpf_put_cpumask "void (const struct cpumask *cpumask)" [Effect::End(MASK)]
            => |_, _| Ok(0);
        scx_bpf_kick_cpu "void (s32 cpu, u64 flags)" => |k, [cpu, flags, ..]| {
            let (core, machine) = k.core();
            core.kf_kick_cpu(machine, as_s32(cpu), flags);
            Ok(0)
        };
    }
}

/// Which of the two pickers.
#[derive(Clone, Copy)]
enum Pick {
    Idle,
    Any,
}

fn select_cpu_dfl(
    k: &mut Kf<'_, '_, '_>,
    [p, prev, wake, is_idle, _]: [u64; 5],
) -> Result<u64, Abort> {
    let p = k.task(p)?;
    let (core, machine) = k.core();
    let (cpu, idle) = core.kf_select_cpu_dfl(machine, p, as_s32(prev), wake);
    k.mem()
        .write_u8(KernAddr::new(is_idle), idle.into())
        .map_err(|fault| k.bad_memory(&fault))?;
    Ok(from_s32(cpu))
}

fn select_cpu_and_args(
    k: &mut Kf<'_, '_, '_>,
    [p, allowed, args, ..]: [u64; 5],
) -> Result<u64, Abort> {
    let args = KernAddr::new(args);
    let mem = k.mem();
    let how = (|| {
        Ok((
            mem.load(args, field!(AndArgs, prev_cpu))?,
            mem.load(args, field!(AndArgs, wake_flags))?,
            mem.load(args, field!(AndArgs, flags))?,
        ))
    })()
    .map_err(|fault| k.bad_memory(&fault))?;
    k.select_cpu_and(p, allowed, how)
}

fn cpu_or_errno(cpu: Result<Cpu, Errno>) -> u64 {
    cpu.map_or_else(|errno| errno.as_reg(), |cpu| cpu.raw().into())
}

impl Kf<'_, '_, '_> {
    fn select_cpu_and(&mut self, p: u64, allowed: u64, how: (i32, u64, u64)) -> Result<u64, Abort> {
        let p = self.task(p)?;
        let allowed = self.cpu_set(allowed)?;
        let (core, machine) = self.core();
        Ok(cpu_or_errno(
            core.kf_select_cpu_and(machine, p, how, &allowed),
        ))
    }

    fn pick(
        &mut self,
        which: Pick,
        allowed: u64,
        node: Option<i32>,
        flags: u64,
    ) -> Result<u64, Abort> {
        let allowed = self.cpu_set(allowed)?;
        let (core, machine) = self.core();
        Ok(cpu_or_errno(match which {
            Pick::Idle => core.kf_pick_idle_cpu(machine, &allowed, node, flags),
            Pick::Any => core.kf_pick_any_cpu(machine, &allowed, node, flags),
        }))
    }

    fn idle_mask(&mut self, kind: MaskKind, node: Option<i32>) -> u64 {
        let (core, machine) = self.core();
        match core.kf_get_idle_mask(machine, kind, node) {
            Some((kind, node)) => self.st.places.mask(kind, node).raw(),
            None => self.st.places.empty_mask().raw(),
        }
    }
}
