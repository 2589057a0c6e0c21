//! The core's public face: events in, queries out.

use harena_abi::{Cpu, DsqId, Errno, Tid};

use crate::{
    Alarm, CidMap, CoreConfig, CpuSet, EnableError, Env, EventStats, ExitInfo, Image, Leave,
    Machine, Switched, TaskSpec, TaskView, Topology,
};

/// The state machine.
#[derive(Debug)]
pub struct Core {
    topology: Topology,
    config: CoreConfig,
    image: Box<dyn Image>,
    cids: CidMap,
    online: CpuSet,
}

impl Core {
    /// A machine without a scheduler and without tasks; every CPU is online and idle.
    #[must_use]
    pub fn new(topology: Topology, config: CoreConfig, image: Box<dyn Image>) -> Self {
        let online = topology.cpus().collect();
        let cids = CidMap::default();
        Self {
            topology,
            config,
            image,
            cids,
            online,
        }
    }

    /// Creates a task; `init_task` runs if a scheduler is attached, and may refuse it.
    pub fn fork(&mut self, env: &mut Env<'_>, spec: TaskSpec) -> Result<Tid, Errno> {
        let _ = (env, spec);
        Err(Errno::EAGAIN)
    }

    /// Makes a forked task runnable for the first time. The current CPU is the parent's.
    pub fn wake_up_new(&mut self, env: &mut Env<'_>, p: Tid) {
        let _ = (env, p);
    }

    /// Wakes a sleeping task; false if it does not sleep. The current CPU is the waker's;
    /// `sync` is the waker's promise to sleep soon (`WF_SYNC`).
    pub fn wakeup(&mut self, env: &mut Env<'_>, p: Tid, sync: bool) -> bool {
        let _ = (env, p, sync);
        false
    }

    /// `__schedule()` on `cpu`: `leave` says how the current task goes, which is ignored
    /// when the CPU is idle.
    pub fn schedule(&mut self, env: &mut Env<'_>, cpu: Cpu, leave: Leave) -> Switched {
        let _ = (env, cpu, leave);
        Switched {
            prev: None,
            next: None,
        }
    }

    /// The periodic tick of a busy CPU.
    pub fn tick(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let _ = (env, cpu);
    }

    /// `sched_yield()` of the current task. The caller goes on with
    /// `schedule(cpu, Leave::Runnable)`, as the system call does.
    pub fn yield_current(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let _ = (env, cpu);
    }

    /// Sets `PF_EXITING`: the task is on its way to `schedule(cpu, Leave::Exiting)`.
    pub fn set_exiting(&mut self, p: Tid) {
        let _ = p;
    }

    /// `sched_setaffinity()`.
    pub fn set_affinity(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        allowed: &CpuSet,
    ) -> Result<(), Errno> {
        let _ = (env, p, allowed);
        Ok(())
    }

    /// `setpriority()`.
    pub fn set_nice(&mut self, env: &mut Env<'_>, p: Tid, nice: i32) -> Result<(), Errno> {
        let _ = (env, p, nice);
        Ok(())
    }

    /// `sched_setscheduler()`.
    pub fn set_policy(&mut self, env: &mut Env<'_>, p: Tid, policy: u32) -> Result<(), Errno> {
        let _ = (env, p, policy);
        Ok(())
    }

    /// The answer to [`Machine::irq_work`]: kicks and deferred dispatches of `cpu`.
    pub fn irq_work(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let _ = (env, cpu);
    }

    /// The answer to [`Machine::arm`].
    pub fn alarm(&mut self, env: &mut Env<'_>, which: Alarm) {
        let _ = (env, which);
    }

    /// The answer to [`Machine::timer_arm`].
    pub fn timer(&mut self, env: &mut Env<'_>, key: u64) {
        let _ = (env, key);
    }

    /// Attaches `env.ops`. An error is what loading the ops table would return; any later
    /// failure shows up as an exit, as in the kernel.
    pub fn enable(&mut self, env: &mut Env<'_>) -> Result<(), EnableError> {
        let _ = env;
        Ok(())
    }

    /// Asks for the scheduler to go (`SCX_EXIT_UNREG`); [`Core::process_exit`] does it.
    pub fn unregister(&mut self, machine: &mut dyn Machine) {
        let _ = machine;
    }

    /// Whether an exit was claimed and [`Core::process_exit`] has work to do. To be asked
    /// after every event.
    #[must_use]
    pub fn exit_pending(&self) -> bool {
        false
    }

    /// The asynchronous half of an exit: dump, disable, `ops.exit`. True if there was one.
    pub fn process_exit(&mut self, env: &mut Env<'_>) -> bool {
        let _ = env;
        false
    }

    /// Why the scheduler left, once it has.
    #[must_use]
    pub fn exit_info(&self) -> Option<&ExitInfo> {
        None
    }

    /// Whether a scheduler is attached and not leaving.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        false
    }

    /// Whether the scheduler is bypassed.
    #[must_use]
    pub fn is_bypassing(&self) -> bool {
        false
    }

    /// The machine's CPUs.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Settings.
    #[must_use]
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Online CPUs.
    #[must_use]
    pub fn online(&self) -> &CpuSet {
        &self.online
    }

    /// The current task of `cpu`; `None` is the idle task.
    #[must_use]
    pub fn curr(&self, cpu: Cpu) -> Option<Tid> {
        let _ = cpu;
        None
    }

    /// A task's state, or `None` if there is none of this number (any more).
    #[must_use]
    pub fn task(&self, p: Tid) -> Option<TaskView<'_>> {
        let _ = p;
        None
    }

    /// Live tasks in order of creation.
    pub fn tasks(&self) -> impl Iterator<Item = Tid> + '_ {
        std::iter::empty()
    }

    /// Runnable tasks of `cpu`, the current one included.
    #[must_use]
    pub fn nr_running(&self, cpu: Cpu) -> u32 {
        let _ = cpu;
        0
    }

    /// Every dispatch queue with its length; local ones as `SCX_DSQ_LOCAL_ON | cpu`, bypass
    /// and global ones once per CPU and node.
    pub fn dsqs(&self) -> impl Iterator<Item = (DsqId, u32)> + '_ {
        std::iter::empty()
    }

    /// Event counters, summed over CPUs.
    #[must_use]
    pub fn event_stats(&self) -> EventStats {
        EventStats::default()
    }

    /// The cid tables.
    #[must_use]
    pub fn cids(&self) -> &CidMap {
        &self.cids
    }

    /// The memory image.
    #[must_use]
    pub fn image(&self) -> &dyn Image {
        &*self.image
    }

    /// The memory image, for a scheduler that writes live cells.
    pub fn image_mut(&mut self) -> &mut dyn Image {
        &mut *self.image
    }

    /// Panics if a rule between the parts is broken. For tests and checkers.
    pub fn assert_consistent(&self) {}
}
