//! A tiny event-driven machine and a scripted scheduler that records its callbacks.
//!
//! Time moves only when a test says so. `World::settle` answers what the core asked for,
//! irq-work before reschedules and lower CPUs first, and checks the core after every event.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    missing_debug_implementations,
    missing_docs,
    reason = "each test binary uses its own part of this"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use harena_abi::{Cpu, DsqId, Nanos, SimTime, Tid, scx};
use harena_scx::{
    Alarm, Core, CoreConfig, Cost, CpuSet, CpuTopology, Cx, DumpCtx, Env, Event, ExitInfo,
    ExitTask, Form, InitTask, Insert, Leave, Machine, Moment, Op, OpsConfig, PlainImage, SchedOps,
    Switched, TaskSpec, Topology,
};

pub const SLICE: u64 = scx::SCX_SLICE_DFL;
pub const LOCAL: DsqId = DsqId::new(scx::SCX_DSQ_LOCAL);
pub const GLOBAL: DsqId = DsqId::new(scx::SCX_DSQ_GLOBAL);
pub const USER: DsqId = DsqId::new(0);

pub fn local_on(cpu: u32) -> DsqId {
    DsqId::new(scx::SCX_DSQ_LOCAL_ON | u64::from(cpu))
}

/// `cpus` CPUs, `smt` threads a core, `llc` CPUs a cache, `node` CPUs a node.
pub fn topology(cpus: u32, smt: u32, llc: u32, node: u32) -> Topology {
    let cpu = |c: u32| CpuTopology {
        core: c / smt,
        llc: c / llc,
        node: c / node,
        capacity: 1024,
    };
    Topology::new((0..cpus).map(cpu).collect()).unwrap()
}

pub fn flat(cpus: u32) -> Topology {
    topology(cpus, 1, cpus, cpus)
}

#[derive(Debug, Default)]
pub struct TestMachine {
    pub now: u64,
    pub this: u32,
    pub resched: BTreeSet<Cpu>,
    pub irq: BTreeSet<Cpu>,
    pub watchdog: Option<SimTime>,
    pub events: Vec<Event>,
    pub migrations: u32,
}

impl Machine for TestMachine {
    fn now(&self) -> SimTime {
        SimTime::from_ns(self.now)
    }
    fn this_cpu(&self) -> Cpu {
        Cpu::new(self.this)
    }
    fn resched(&mut self, cpu: Cpu) {
        self.resched.insert(cpu);
    }
    fn irq_work(&mut self, cpu: Cpu) {
        self.irq.insert(cpu);
    }
    fn arm(&mut self, which: Alarm, at: SimTime) {
        match which {
            Alarm::Watchdog => self.watchdog = Some(at),
        }
    }
    fn timer_arm(&mut self, _key: u64, _cpu: Cpu, _at: SimTime) {}
    fn timer_cancel(&mut self, _key: u64) -> bool {
        false
    }
    fn charge(&mut self, cost: Cost) {
        if cost == Cost::Migration {
            self.migrations += 1;
        }
    }
    fn random(&mut self) -> u64 {
        4
    }
    fn note(&mut self, event: Event) {
        self.events.push(event);
    }
}

type Select = fn(&mut Ops, &mut Cx<'_>, Tid, Cpu, u64) -> Result<Cpu, i32>;
type Task = fn(&mut Ops, &mut Cx<'_>, Tid, u64);
type Dispatch = fn(&mut Ops, &mut Cx<'_>, Cpu, Option<Tid>);

/// A scheduler made of function pointers; every callback leaves a line in `log`.
pub struct Ops {
    pub config: OpsConfig,
    pub log: Vec<String>,
    pub queue: VecDeque<Tid>,
    pub vars: BTreeMap<&'static str, u64>,
    pub ret: BTreeMap<Op, i32>,
    pub select: Select,
    pub enqueue: Task,
    pub dispatch: Dispatch,
    pub hooks: BTreeMap<Op, Task>,
}

pub fn insert(dsq: DsqId, slice: u64, enq_flags: u64) -> Insert {
    Insert {
        dsq,
        slice,
        vtime: None,
        enq_flags,
    }
}

impl Ops {
    /// A global FIFO in the scheduler's own queue, with these callbacks set.
    pub fn new(has: &[Op]) -> Self {
        Self {
            config: OpsConfig {
                name: "test".into(),
                form: Form::Cpu,
                flags: 0,
                timeout_ms: 0,
                dispatch_max_batch: 0,
                exit_dump_len: 0,
                hotplug_seq: 0,
                cid_shard_size: 0,
                has: has.iter().copied().collect(),
            },
            log: Vec::new(),
            queue: VecDeque::new(),
            vars: BTreeMap::new(),
            ret: BTreeMap::new(),
            select: |_, _, _, prev, _| Ok(prev),
            enqueue: |ops, _, p, _| ops.queue.push_back(p),
            dispatch: |ops, cx, cpu, _| {
                let fits = |p: &Tid| cx.core.task(*p).unwrap().allowed.contains(cpu);
                if let Some(at) = ops.queue.iter().position(fits) {
                    let p = ops.queue.remove(at).unwrap();
                    let insert = insert(LOCAL, SLICE, 0);
                    cx.core.kf_dsq_insert(cx.machine, Some(p), insert);
                }
            },
            hooks: BTreeMap::new(),
        }
    }

    pub fn all() -> Vec<Op> {
        Op::ALL.to_vec()
    }

    pub fn with_flags(mut self, flags: u64) -> Self {
        self.config.flags = flags;
        self
    }

    fn hook(&mut self, op: Op, cx: &mut Cx<'_>, p: Tid, arg: u64) {
        if let Some(&hook) = self.hooks.get(&op) {
            hook(self, cx, p, arg);
        }
    }

    fn ret(&self, op: Op) -> i32 {
        self.ret.get(&op).copied().unwrap_or(0)
    }
}

impl SchedOps for Ops {
    fn config(&self) -> &OpsConfig {
        &self.config
    }
    fn select_cpu(
        &mut self,
        cx: &mut Cx<'_>,
        p: Tid,
        prev: Cpu,
        wake_flags: u64,
    ) -> Result<Cpu, i32> {
        self.log
            .push(format!("select_cpu({p}, {prev}, {wake_flags:#x})"));
        (self.select)(self, cx, p, prev, wake_flags)
    }
    fn enqueue(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        self.log.push(format!("enqueue({p}, {enq_flags:#x})"));
        (self.enqueue)(self, cx, p, enq_flags);
    }
    fn dequeue(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        self.log.push(format!("dequeue({p}, {deq_flags:#x})"));
        self.queue.retain(|&q| q != p);
        self.hook(Op::Dequeue, cx, p, deq_flags);
    }
    fn dispatch(&mut self, cx: &mut Cx<'_>, cpu: Cpu, prev: Option<Tid>) {
        let who = prev.map_or("-".to_owned(), |p| p.to_string());
        self.log.push(format!("dispatch({cpu}, {who})"));
        (self.dispatch)(self, cx, cpu, prev);
    }
    fn tick(&mut self, cx: &mut Cx<'_>, p: Tid) {
        self.log.push(format!("tick({p})"));
        self.hook(Op::Tick, cx, p, 0);
    }
    fn runnable(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        self.log.push(format!("runnable({p}, {enq_flags:#x})"));
        self.hook(Op::Runnable, cx, p, enq_flags);
    }
    fn running(&mut self, cx: &mut Cx<'_>, p: Tid) {
        self.log.push(format!("running({p})"));
        self.hook(Op::Running, cx, p, 0);
    }
    fn stopping(&mut self, cx: &mut Cx<'_>, p: Tid, runnable: bool) {
        self.log.push(format!("stopping({p}, {runnable})"));
        self.hook(Op::Stopping, cx, p, u64::from(runnable));
    }
    fn quiescent(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        self.log.push(format!("quiescent({p}, {deq_flags:#x})"));
        self.hook(Op::Quiescent, cx, p, deq_flags);
    }
    fn yield_to(&mut self, cx: &mut Cx<'_>, from: Tid, to: Option<Tid>) -> bool {
        self.log.push(format!("yield({from}, {})", to.is_some()));
        self.hook(Op::Yield, cx, from, 0);
        false
    }
    fn set_weight(&mut self, cx: &mut Cx<'_>, p: Tid, weight: u32) {
        self.log.push(format!("set_weight({p}, {weight})"));
        self.hook(Op::SetWeight, cx, p, u64::from(weight));
    }
    fn set_cpumask(&mut self, _cx: &mut Cx<'_>, p: Tid, allowed: &CpuSet) {
        self.log.push(format!("set_cpumask({p}, {allowed:?})"));
    }
    fn update_idle(&mut self, _cx: &mut Cx<'_>, cpu: Cpu, idle: bool) {
        self.log.push(format!("update_idle({cpu}, {idle})"));
    }
    fn init_task(&mut self, cx: &mut Cx<'_>, p: Tid, args: InitTask) -> i32 {
        self.log.push(format!("init_task({p}, fork={})", args.fork));
        self.hook(Op::InitTask, cx, p, u64::from(args.fork));
        self.ret(Op::InitTask)
    }
    fn exit_task(&mut self, _cx: &mut Cx<'_>, p: Tid, args: ExitTask) {
        self.log
            .push(format!("exit_task({p}, cancelled={})", args.cancelled));
    }
    fn enable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        self.log.push(format!("enable({p})"));
        self.hook(Op::Enable, cx, p, 0);
    }
    fn disable(&mut self, _cx: &mut Cx<'_>, p: Tid) {
        self.log.push(format!("disable({p})"));
    }
    fn init_cids(&mut self, cx: &mut Cx<'_>) -> i32 {
        self.log.push("init_cids()".into());
        self.hook(Op::InitCids, cx, Tid::new(0), 0);
        self.ret(Op::InitCids)
    }
    fn prepare(&mut self, _cx: &mut Cx<'_>) -> Result<(), harena_abi::Errno> {
        self.log.push("prepare".into());
        Ok(())
    }
    fn release(&mut self, _cx: &mut Cx<'_>) {
        self.log.push("release".into());
    }
    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        self.log.push("init()".into());
        self.hook(Op::Init, cx, Tid::new(0), 0);
        self.ret(Op::Init)
    }
    fn exit(&mut self, _cx: &mut Cx<'_>, info: &ExitInfo) {
        self.log.push(format!("exit({})", info.kind));
    }
    fn dump(&mut self, cx: &mut Cx<'_>, _ctx: &DumpCtx) {
        cx.core.kf_dump(cx.machine, "scheduler's own\nlast");
    }
    fn trace(&mut self, cx: &mut Cx<'_>, moment: &Moment<'_>) {
        let cpu = cx.machine.this_cpu();
        let name = |p: Option<Tid>| p.map_or("idle".to_owned(), |p| p.to_string());
        let current = name(cx.core.current(cpu));
        let curr = name(cx.core.curr(cpu));
        self.log.push(format!("[{current} of {curr}] {moment:?}"));
    }
    fn cpu_acquire(&mut self, _cx: &mut Cx<'_>, cpu: Cpu) {
        self.log.push(format!("cpu_acquire({cpu})"));
    }
    fn cpu_release(&mut self, cx: &mut Cx<'_>, cpu: Cpu, reason: u32, next: Option<Tid>) {
        let who = next.map_or("-".to_owned(), |p| p.to_string());
        self.log
            .push(format!("cpu_release({cpu}, {reason}, {who})"));
        self.hook(Op::CpuRelease, cx, Tid::new(0), 0);
    }
}

pub struct World {
    pub core: Core,
    pub ops: Ops,
    pub m: TestMachine,
    /// Whether `settle` also processes exits.
    pub exits: bool,
}

pub fn spec(cpus: &CpuSet) -> TaskSpec {
    TaskSpec {
        comm: "task".into(),
        tgid: None,
        parent: None,
        flags: 0,
        policy: scx::SCHED_NORMAL,
        nice: 0,
        allowed: cpus.clone(),
        cpu: Cpu::new(0),
        cgroup: 1,
    }
}

impl World {
    /// A machine with `ops` not yet attached.
    pub fn bare(topology: Topology, ops: Ops) -> Self {
        let core = Core::new(
            topology,
            CoreConfig::default(),
            Box::new(PlainImage::default()),
        );
        Self {
            core,
            ops,
            m: TestMachine::default(),
            exits: true,
        }
    }

    /// A machine with `ops` attached, all CPUs idle, and an empty log.
    pub fn new(topology: Topology, ops: Ops) -> Self {
        let mut w = Self::bare(topology, ops);
        w.enable();
        w.take_log();
        w
    }

    pub fn enable(&mut self) {
        self.on(|core, env| core.enable(env)).unwrap();
        self.settle();
    }

    /// One event, and the checks after it.
    pub fn on<R>(&mut self, f: impl FnOnce(&mut Core, &mut Env<'_>) -> R) -> R {
        let mut env = Env {
            ops: &mut self.ops,
            machine: &mut self.m,
        };
        let ret = f(&mut self.core, &mut env);
        self.core.assert_consistent();
        if self.exits && self.core.exit_pending() {
            let mut env = Env {
                ops: &mut self.ops,
                machine: &mut self.m,
            };
            assert!(self.core.process_exit(&mut env));
            self.core.assert_consistent();
        }
        ret
    }

    /// Answers requests until there are none.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(cpu) = self.m.irq.pop_first() {
                self.m.this = cpu.raw();
                self.on(|core, env| core.irq_work(env, cpu));
            } else if let Some(cpu) = self.m.resched.pop_first() {
                self.schedule(cpu.raw(), Leave::Runnable);
            } else {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    pub fn schedule(&mut self, cpu: u32, leave: Leave) -> Switched {
        let cpu = Cpu::new(cpu);
        self.m.this = cpu.raw();
        self.m.resched.remove(&cpu);
        self.on(|core, env| core.schedule(env, cpu, leave))
    }

    /// The current task of `cpu` leaves, and everything settles.
    pub fn leave(&mut self, cpu: u32, leave: Leave) {
        self.schedule(cpu, leave);
        self.settle();
    }

    pub fn fork(&mut self) -> Tid {
        let cpus = self.core.topology().cpus().collect();
        self.fork_spec(spec(&cpus))
    }

    pub fn fork_spec(&mut self, spec: TaskSpec) -> Tid {
        self.on(|core, env| core.fork(env, spec)).unwrap()
    }

    /// Forks a task that sleeps, and clears the log.
    pub fn sleeper(&mut self) -> Tid {
        let p = self.fork();
        self.start(p);
        let cpu = self.core.task(p).unwrap().cpu.raw();
        assert_eq!(self.core.curr(Cpu::new(cpu)), Some(p), "the CPU was idle");
        self.leave(cpu, Leave::Sleeping);
        self.take_log();
        p
    }

    pub fn start(&mut self, p: Tid) {
        self.on(|core, env| core.wake_up_new(env, p));
        self.settle();
    }

    /// Wakes `p` from `cpu` without answering what that asks for.
    pub fn wake_from(&mut self, cpu: u32, p: Tid) {
        self.m.this = cpu;
        assert!(self.on(|core, env| core.wakeup(env, p, false)));
    }

    pub fn wake(&mut self, p: Tid) {
        self.wake_from(0, p);
        self.settle();
    }

    /// Lets time pass without ticks.
    pub fn pass(&mut self, time: Nanos) {
        self.m.now += time.as_ns();
    }

    /// Lets `ms` milliseconds pass, with ticks on busy CPUs and the watchdog.
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.m.now += 1_000_000;
            if self.m.watchdog.is_some_and(|at| at.as_ns() <= self.m.now) {
                self.m.watchdog = None;
                self.on(|core, env| core.alarm(env, Alarm::Watchdog));
                self.settle();
            }
            for cpu in 0..self.core.topology().nr_cpus() {
                if self.core.curr(Cpu::new(cpu)).is_some() {
                    self.m.this = cpu;
                    self.on(|core, env| core.tick(env, Cpu::new(cpu)));
                    self.settle();
                }
            }
        }
    }

    pub fn curr(&self, cpu: u32) -> Option<Tid> {
        self.core.curr(Cpu::new(cpu))
    }

    pub fn slice(&self, p: Tid) -> u64 {
        self.core.image().slice(p)
    }

    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.ops.log)
    }

    /// The message of the exit, which must have happened.
    pub fn exit_message(&self) -> &str {
        &self.core.exit_info().expect("the scheduler left").message
    }

    /// The log since the last look equals `lines`.
    #[track_caller]
    pub fn expect(&mut self, lines: &[&str]) {
        assert_eq!(self.take_log(), lines);
    }
}

pub fn cpus(list: &[u32]) -> CpuSet {
    list.iter().copied().map(Cpu::new).collect()
}
