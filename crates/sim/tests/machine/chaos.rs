//! A scheduler without a plan: each callback does something random, mostly legal.

use std::collections::BTreeSet;

use harena_abi::{Cpu, DsqId, Tid, scx};
use harena_scx::{
    CpuSet, Cx, Form, Insert, Moment, MomentKind, MomentSet, Op, OpsConfig, SchedOps,
};

use crate::swarm::Draw;

const FIFO: DsqId = DsqId::new(1);
const VTIME: DsqId = DsqId::new(2);

/// The scheduler.
pub(crate) struct Chaos {
    config: OpsConfig,
    draw: Draw,
    nr_cpus: u32,
    /// Whether it may also do what the kernel answers with an error.
    reckless: bool,
    /// Whether it looks on at every moment, and calls then what onlookers may.
    looks_on: bool,
}

impl Chaos {
    pub(crate) fn new(mut draw: Draw, nr_cpus: u32) -> Self {
        let flags = [
            scx::SCX_OPS_ENQ_LAST,
            scx::SCX_OPS_ENQ_EXITING,
            scx::SCX_OPS_KEEP_BUILTIN_IDLE,
            scx::SCX_OPS_SWITCH_PARTIAL,
        ];
        let flags = flags
            .into_iter()
            .filter(|_| draw.one_in(5))
            .fold(0, |a, b| a | b);
        let cid_only = [
            Op::InitCids,
            Op::CpuAcquire,
            Op::CpuRelease,
            Op::CoreSchedBefore,
        ];
        let has: BTreeSet<_> = Op::ALL
            .iter()
            .copied()
            .filter(|op| !cid_only.contains(op) && (*op == Op::Init || !draw.one_in(6)))
            .collect();
        Self {
            config: OpsConfig {
                name: "chaos".to_owned(),
                form: Form::Cpu,
                flags,
                timeout_ms: 1 + draw.below(50),
                dispatch_max_batch: draw.below(3),
                exit_dump_len: 0,
                hotplug_seq: 0,
                cid_shard_size: 0,
                has,
            },
            reckless: draw.one_in(4),
            looks_on: draw.one_in(2),
            draw,
            nr_cpus,
        }
    }

    fn any_cpu(&mut self) -> Cpu {
        let most = self.nr_cpus + u32::from(self.reckless && self.draw.one_in(50));
        Cpu::new(self.draw.below(most))
    }

    fn allowed_cpu(&mut self, cx: &Cx<'_>, p: Tid) -> Cpu {
        let allowed = cx.core.task(p).map(|view| view.allowed.clone());
        let cpu = self.any_cpu();
        match allowed {
            Some(set) if !set.contains(cpu) && !self.reckless => set.iter().next().unwrap_or(cpu),
            _ => cpu,
        }
    }

    fn insert(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        let target = self.draw.below(5);
        let dsq = match target {
            0 => DsqId::new(scx::SCX_DSQ_LOCAL),
            1 => {
                let cpu = self.allowed_cpu(cx, p);
                DsqId::new(scx::SCX_DSQ_LOCAL_ON | u64::from(cpu.raw()))
            }
            2 => DsqId::new(scx::SCX_DSQ_GLOBAL),
            3 => FIFO,
            _ => VTIME,
        };
        let extra = [0, scx::SCX_ENQ_HEAD, scx::SCX_ENQ_PREEMPT][self.draw.below(3) as usize];
        let insert = Insert {
            dsq,
            slice: [0, 1, 500_000, 20_000_000, scx::SCX_SLICE_INF][self.draw.below(5) as usize],
            vtime: (dsq == VTIME).then(|| u64::from(self.draw.below(1000))),
            enq_flags: enq_flags | extra,
        };
        let _accepted = cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
    }

    /// Whatever a program may call that looks on.
    fn meddle(&mut self, cx: &mut Cx<'_>) {
        let dsq = [FIFO, VTIME][self.draw.below(2) as usize];
        let p = Tid::new(self.draw.below(40));
        let number = u64::from(self.draw.below(2_000_000));
        match self.draw.below(60) {
            0 => self.kick(cx),
            1 => {
                let (core, mut env) = cx.with(self);
                let _set = core.kf_task_set_slice(&mut env, p, number << 30);
            }
            2 => {
                let _set = cx.core.kf_task_set_dsq_vtime(p, number);
            }
            3 => {
                if let Ok(it) = cx.core.kf_iter_new(dsq, 0) {
                    while let Some(found) = cx.core.kf_iter_next(it) {
                        assert!(cx.core.task(found).is_some());
                    }
                    cx.core.kf_iter_destroy(it);
                }
            }
            4 => {
                let _first = cx.core.kf_dsq_peek(cx.machine, dsq);
            }
            5 => {
                let _length = cx.core.kf_dsq_nr_queued(cx.machine, dsq);
            }
            6 => cx.core.kf_dsq_reenq(cx.machine, dsq, 0),
            7 => {
                let local = DsqId::new(scx::SCX_DSQ_LOCAL);
                cx.core.kf_dsq_reenq(cx.machine, local, 0);
            }
            8 if self.reckless && self.draw.one_in(100) => {
                cx.core.kf_destroy_dsq(cx.machine, dsq);
            }
            _ => {}
        }
    }

    fn kick(&mut self, cx: &mut Cx<'_>) {
        if self.draw.one_in(8) {
            let cpu = self.any_cpu().as_s32();
            let flags = [0, scx::SCX_KICK_IDLE, scx::SCX_KICK_PREEMPT];
            let flags = flags[self.draw.below(3) as usize];
            cx.core.kf_kick_cpu(cx.machine, cpu, flags);
        }
    }
}

impl SchedOps for Chaos {
    fn config(&self) -> &OpsConfig {
        &self.config
    }

    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        let fifo = cx.core.kf_create_dsq(FIFO, -1);
        let vtime = cx.core.kf_create_dsq(VTIME, 0);
        if fifo.and(vtime).is_err() || self.draw.one_in(40) {
            return -12;
        }
        0
    }

    fn init_task(&mut self, _cx: &mut Cx<'_>, _p: Tid, _args: harena_scx::InitTask) -> i32 {
        if self.reckless && self.draw.one_in(30) {
            -12
        } else {
            0
        }
    }

    fn select_cpu(&mut self, cx: &mut Cx<'_>, p: Tid, prev: Cpu, flags: u64) -> Result<Cpu, i32> {
        self.kick(cx);
        let builtin_idle = !self.config.has.contains(&Op::UpdateIdle)
            || self.config.flags & scx::SCX_OPS_KEEP_BUILTIN_IDLE != 0;
        let cpu = if (builtin_idle || self.reckless) && self.draw.one_in(2) {
            let prev = prev.as_s32();
            let (cpu, _idle) = cx.core.kf_select_cpu_dfl(cx.machine, p, prev, flags);
            Cpu::from_s32(cpu).ok_or(cpu)?
        } else {
            self.allowed_cpu(cx, p)
        };
        if self.draw.one_in(3) {
            self.insert(cx, p, 0);
        }
        Ok(cpu)
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        self.kick(cx);
        if !self.draw.one_in(200) {
            self.insert(cx, p, enq_flags);
        }
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, _cpu: Cpu, prev: Option<Tid>) {
        self.kick(cx);
        if self.draw.one_in(10) {
            return;
        }
        if let Some(p) = prev
            && self.draw.one_in(4)
        {
            let slice = u64::from(self.draw.below(2_000_000));
            let (core, mut env) = cx.with(self);
            let _set = core.kf_task_set_slice(&mut env, p, slice);
        }
        let first = [FIFO, VTIME][self.draw.below(2) as usize];
        let (core, mut env) = cx.with(self);
        if !core.kf_dsq_move_to_local(&mut env, first, 0) {
            let other = if first == FIFO { VTIME } else { FIFO };
            let _moved = core.kf_dsq_move_to_local(&mut env, other, 0);
        }
    }

    fn tick(&mut self, cx: &mut Cx<'_>, p: Tid) {
        self.kick(cx);
        if self.draw.one_in(3) {
            cx.core.image_mut().set_slice(p, 0);
        }
        if self.draw.one_in(10) {
            let at = cx.machine.now().after(harena_abi::Nanos::from_us(70));
            let cpu = self.any_cpu();
            if cpu.raw() < self.nr_cpus {
                cx.machine.timer_arm(u64::from(self.draw.below(3)), cpu, at);
            }
        }
        if self.reckless && self.draw.one_in(500) {
            cx.core.kf_error(cx.machine, "enough");
        }
    }

    fn stopping(&mut self, cx: &mut Cx<'_>, _p: Tid, _runnable: bool) {
        self.kick(cx);
    }

    fn update_idle(&mut self, cx: &mut Cx<'_>, _cpu: Cpu, _idle: bool) {
        self.kick(cx);
    }

    fn set_cpumask(&mut self, cx: &mut Cx<'_>, p: Tid, allowed: &CpuSet) {
        assert_eq!(cx.core.task(p).map(|view| view.allowed), Some(allowed));
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _key: u64) {
        self.kick(cx);
    }

    fn traces(&self) -> MomentSet {
        let kinds = MomentKind::ALL.iter().filter(|_| self.looks_on);
        kinds.fold(MomentSet::NONE, |set, kind| set.with(*kind))
    }

    fn trace(&mut self, cx: &mut Cx<'_>, _moment: &Moment<'_>) {
        // As a program that is not entered again while it runs.
        if std::mem::take(&mut self.looks_on) {
            self.meddle(cx);
            self.looks_on = true;
        }
    }
}
