//! Schedulers in Rust for the simulator's tests, and shorthand to run them.

use std::collections::BTreeSet;

use harena_abi::{Cpu, DsqId, Nanos, Tid, scx};
use harena_scx::{Cx, Form, Insert, Op, OpsConfig, PlainImage, SchedOps};
use harena_sim::{CheckTier, Costs, Outcome, SimConfig, SimError, Simulation, Workload};

/// The one DSQ that these schedulers create.
pub(crate) const SHARED: DsqId = DsqId::new(0);

/// How a [`Simple`] scheduler orders tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Fifo,
    Vtime,
}

/// A shared DSQ, in order of arrival or of weighted vtime; may lose tasks on purpose.
#[derive(Debug)]
pub(crate) struct Simple {
    config: OpsConfig,
    pub(crate) order: Order,
    pub(crate) slice: u64,
    /// Drops every so many tasks.
    pub(crate) drop_every: Option<u64>,
    pub(crate) enqueued: u64,
    vtime_now: u64,
    started: Vec<u64>,
    weights: Vec<u32>,
}

impl Simple {
    pub(crate) fn new(order: Order) -> Self {
        let has = [
            Op::SelectCpu,
            Op::Enqueue,
            Op::Dispatch,
            Op::Runnable,
            Op::Running,
            Op::Stopping,
            Op::Quiescent,
            Op::SetWeight,
            Op::InitTask,
            Op::ExitTask,
            Op::Enable,
            Op::Disable,
            Op::Init,
            Op::Exit,
        ];
        Self {
            config: OpsConfig {
                name: "simple".to_owned(),
                form: Form::Cpu,
                flags: 0,
                timeout_ms: 0,
                dispatch_max_batch: 0,
                exit_dump_len: 0,
                hotplug_seq: 0,
                cid_shard_size: 0,
                has: BTreeSet::from(has),
            },
            order,
            slice: scx::SCX_SLICE_DFL,
            drop_every: None,
            enqueued: 0,
            vtime_now: 0,
            started: Vec::new(),
            weights: Vec::new(),
        }
    }

    pub(crate) fn timeout_ms(mut self, timeout_ms: u32) -> Self {
        self.config.timeout_ms = timeout_ms;
        self
    }

    fn slot<T: Default + Clone>(table: &mut Vec<T>, p: Tid) -> &mut T {
        if table.len() <= p.index() {
            table.resize(p.index() + 1, T::default());
        }
        &mut table[p.index()]
    }

    fn insert(&self, cx: &mut Cx<'_>, p: Tid, dsq: DsqId, enq_flags: u64) {
        let vtime = match self.order {
            Order::Fifo => None,
            Order::Vtime if dsq != SHARED => None,
            Order::Vtime => {
                let least = self.vtime_now.saturating_sub(self.slice);
                Some(cx.core.image().dsq_vtime(p).max(least))
            }
        };
        let slice = self.slice;
        let insert = Insert {
            dsq,
            slice,
            vtime,
            enq_flags,
        };
        let _accepted = cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
    }
}

impl SchedOps for Simple {
    fn config(&self) -> &OpsConfig {
        &self.config
    }

    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        cx.core.kf_create_dsq(SHARED, -1).map_or(-1, |()| 0)
    }

    fn select_cpu(&mut self, cx: &mut Cx<'_>, p: Tid, prev: Cpu, flags: u64) -> Result<Cpu, i32> {
        let (cpu, idle) = cx
            .core
            .kf_select_cpu_dfl(cx.machine, p, prev.as_s32(), flags);
        if idle {
            self.insert(cx, p, DsqId::new(scx::SCX_DSQ_LOCAL), 0);
        }
        Cpu::from_s32(cpu).ok_or(cpu)
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        self.enqueued += 1;
        if self
            .drop_every
            .is_some_and(|every| self.enqueued.is_multiple_of(every))
        {
            return;
        }
        self.insert(cx, p, SHARED, enq_flags);
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, _cpu: Cpu, _prev: Option<Tid>) {
        let (core, mut env) = cx.with(self);
        let _moved = core.kf_dsq_move_to_local(&mut env, SHARED, 0);
    }

    fn running(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let vtime = cx.core.image().dsq_vtime(p);
        self.vtime_now = self.vtime_now.max(vtime);
        *Self::slot(&mut self.started, p) = cx.machine.now().as_ns();
    }

    fn stopping(&mut self, cx: &mut Cx<'_>, p: Tid, _runnable: bool) {
        let ran = cx.machine.now().as_ns() - *Self::slot(&mut self.started, p);
        let weight = u64::from(*Self::slot(&mut self.weights, p)).max(1);
        let vtime = cx.core.image().dsq_vtime(p) + ran * 100 / weight;
        cx.core.image_mut().set_dsq_vtime(p, vtime);
    }

    fn set_weight(&mut self, _cx: &mut Cx<'_>, p: Tid, weight: u32) {
        *Self::slot(&mut self.weights, p) = weight;
    }

    fn enable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        cx.core.image_mut().set_dsq_vtime(p, self.vtime_now);
    }
}

/// Settings for tests: every cost is zero, nothing is random, all is checked.
pub(crate) fn exact(topology: &str, workload: &str, duration: Nanos) -> SimConfig {
    let topology = harena_sim::parse_topology(topology).expect("a topology");
    let workload = Workload::parse("test", workload.as_bytes()).expect("a workload");
    SimConfig {
        duration,
        start_jitter: Nanos::ZERO,
        costs: Costs::FREE,
        checks: CheckTier::Full,
        ..SimConfig::new(topology, workload)
    }
}

pub(crate) fn run<S: SchedOps>(config: SimConfig, ops: S) -> Result<Outcome, SimError> {
    let image = Box::new(PlainImage::default());
    let mut simulation = Simulation::new(config, ops, image, None).expect("settings that fit");
    simulation.run(&mut |_| {})
}
