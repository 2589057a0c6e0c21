//! The `scx_bpf_*` kfuncs, called from inside callbacks.
//!
//! CPU and cid parameters are the raw numbers the program gave, as CPUs in `*_cpu` and as
//! cids in `*_cid` kfuncs; a bad one raises the kernel's error with that number. Queue
//! ids are raw too: `SCX_DSQ_LOCAL_ON | cpu` or `| cid` by the scheduler's form. Tasks are
//! numbers that the adapter resolved; a number without a task is refused, never a panic.

use harena_abi::{Cpu, DsqId, Errno, SimTime, Tid};

use crate::{CidTopo, Core, CpuSet, Env, EventStats, Insert, IterId, Machine, MaskKind};

macro_rules! sig {
    ($($(#[$d:meta])* fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty = $v:expr)?;)*) => {
        impl Core {
            $($(#[$d])* pub fn $name(&mut self, $($a: $t),*) $(-> $r)? {
                let _ = ($($a),*);
                $($v)?
            })*
        }
    };
}

sig! {
    /// `scx_bpf_dsq_insert` and `__scx_bpf_dsq_insert_vtime`; `None` is a NULL task.
    fn kf_dsq_insert(machine: &mut dyn Machine, p: Option<Tid>, insert: Insert) -> bool = false;
    /// `scx_bpf_dsq_move_to_local___v2`.
    fn kf_dsq_move_to_local(env: &mut Env<'_>, dsq: DsqId, enq_flags: u64) -> bool = false;
    /// `scx_bpf_dispatch_nr_slots`.
    fn kf_dispatch_nr_slots(machine: &mut dyn Machine) -> u32 = 0;
    /// `scx_bpf_dispatch_cancel`.
    fn kf_dispatch_cancel(machine: &mut dyn Machine);
    /// `scx_bpf_create_dsq`.
    fn kf_create_dsq(dsq: DsqId, node: i32) -> Result<(), Errno> = Ok(());
    /// `scx_bpf_destroy_dsq`.
    fn kf_destroy_dsq(machine: &mut dyn Machine, dsq: DsqId);
    /// `scx_bpf_dsq_nr_queued`.
    fn kf_dsq_nr_queued(machine: &mut dyn Machine, dsq: DsqId) -> Result<u32, Errno> = Ok(0);
    /// `scx_bpf_dsq_peek`.
    fn kf_dsq_peek(machine: &mut dyn Machine, dsq: DsqId) -> Option<Tid> = None;
    /// `bpf_iter_scx_dsq_new`.
    fn kf_iter_new(dsq: DsqId, flags: u64) -> Result<IterId, Errno> = Err(Errno::ENOENT);
    /// `bpf_iter_scx_dsq_next`.
    fn kf_iter_next(it: IterId) -> Option<Tid> = None;
    /// `bpf_iter_scx_dsq_destroy`.
    fn kf_iter_destroy(it: IterId);
    /// `scx_bpf_dsq_move` (`insert.vtime` is `None`) and `scx_bpf_dsq_move_vtime` (it is
    /// `Some` of anything); slice and vtime come from the two setters below.
    fn kf_dsq_move(env: &mut Env<'_>, it: IterId, p: Option<Tid>, to: Insert) -> bool = false;
    /// `scx_bpf_dsq_move_set_slice`.
    fn kf_dsq_move_set_slice(it: IterId, slice: u64);
    /// `scx_bpf_dsq_move_set_vtime`.
    fn kf_dsq_move_set_vtime(it: IterId, vtime: u64);
    /// `scx_bpf_dsq_reenq`, and `scx_bpf_reenqueue_local___v2` with `SCX_DSQ_LOCAL`.
    fn kf_dsq_reenq(machine: &mut dyn Machine, dsq: DsqId, flags: u64);
    /// `scx_bpf_reenqueue_local`.
    fn kf_reenqueue_local(env: &mut Env<'_>) -> u32 = 0;
    /// `scx_bpf_select_cpu_dfl`: the CPU, and whether it is idle.
    fn kf_select_cpu_dfl(machine: &mut dyn Machine, p: Tid, prev: i32, wake_flags: u64) -> (i32, bool) = (prev, false);
    /// `__scx_bpf_select_cpu_and`; `how` is (prev, wake_flags, flags).
    fn kf_select_cpu_and(machine: &mut dyn Machine, p: Tid, how: (i32, u64, u64), allowed: &CpuSet) -> Result<Cpu, Errno> = Err(Errno::EBUSY);
    /// `scx_bpf_kick_cpu`.
    fn kf_kick_cpu(machine: &mut dyn Machine, cpu: i32, flags: u64);
    /// `scx_bpf_kick_cid`.
    fn kf_kick_cid(machine: &mut dyn Machine, cid: i32, flags: u64);
    /// `scx_bpf_task_set_slice`.
    fn kf_task_set_slice(machine: &mut dyn Machine, p: Tid, slice: u64) -> bool = false;
    /// `scx_bpf_task_set_dsq_vtime`.
    fn kf_task_set_dsq_vtime(machine: &mut dyn Machine, p: Tid, vtime: u64) -> bool = false;
    /// `scx_bpf_test_and_clear_cpu_idle`.
    fn kf_test_and_clear_cpu_idle(machine: &mut dyn Machine, cpu: i32) -> bool = false;
    /// `scx_bpf_pick_idle_cpu` and, with a node, `scx_bpf_pick_idle_cpu_node`.
    fn kf_pick_idle_cpu(machine: &mut dyn Machine, allowed: &CpuSet, node: Option<i32>, flags: u64) -> Result<Cpu, Errno> = Err(Errno::EBUSY);
    /// `scx_bpf_pick_any_cpu` and, with a node, `scx_bpf_pick_any_cpu_node`.
    fn kf_pick_any_cpu(machine: &mut dyn Machine, allowed: &CpuSet, node: Option<i32>, flags: u64) -> Result<Cpu, Errno> = Err(Errno::EBUSY);
    /// `scx_bpf_get_idle_cpumask` and its kin: which mask of the image to hand out
    /// (`IdleCpu` or `IdleSmt`, of which node), or `None` for the empty one after an error.
    fn kf_get_idle_mask(machine: &mut dyn Machine, kind: MaskKind, node: Option<i32>) -> Option<(MaskKind, Option<u32>)> = None;
    /// `bpf_cpumask_any_distribute`; `None` if the set is empty.
    fn kf_any_distribute(machine: &mut dyn Machine, set: &CpuSet) -> Option<Cpu> = None;
    /// `bpf_cpumask_any_and_distribute`.
    fn kf_any_and_distribute(machine: &mut dyn Machine, a: &CpuSet, b: &CpuSet) -> Option<Cpu> = None;
    /// `scx_bpf_task_cpu`; `None` if there is no such task.
    fn kf_task_cpu(p: Tid) -> Option<Cpu> = None;
    /// `scx_bpf_task_running`.
    fn kf_task_running(p: Tid) -> bool = false;
    /// `scx_bpf_cpu_curr`: `Some(None)` is the idle task, `None` is NULL after an error.
    fn kf_cpu_curr(machine: &mut dyn Machine, cpu: i32) -> Option<Option<Tid>> = None;
    /// `scx_bpf_cid_curr`.
    fn kf_cid_curr(machine: &mut dyn Machine, cid: i32) -> Option<Option<Tid>> = None;
    /// `scx_bpf_locked_rq`.
    fn kf_locked_rq(machine: &mut dyn Machine) -> Option<Cpu> = None;
    /// `scx_bpf_cid_to_cpu`: the CPU, or a negative errno.
    fn kf_cid_to_cpu(machine: &mut dyn Machine, cid: i32) -> i32 = 0;
    /// `scx_bpf_cpu_to_cid`: the cid, or a negative errno.
    fn kf_cpu_to_cid(machine: &mut dyn Machine, cpu: i32) -> i32 = 0;
    /// `scx_bpf_task_cid`.
    fn kf_task_cid(machine: &mut dyn Machine, p: Tid) -> i32 = 0;
    /// `scx_bpf_this_cid`.
    fn kf_this_cid(machine: &mut dyn Machine) -> i32 = 0;
    /// `scx_bpf_cid_topo`.
    fn kf_cid_topo(machine: &mut dyn Machine, cid: i32) -> Option<CidTopo> = None;
    /// `scx_bpf_cid_override`.
    fn kf_cid_override(machine: &mut dyn Machine, cpu_to_cid: &[i32], shard_start: &[i32]);
    /// `scx_bpf_nr_cids`, equal to `scx_bpf_nr_cpu_ids` here.
    fn kf_nr_cids() -> u32 = 0;
    /// `scx_bpf_nr_online_cids`.
    fn kf_nr_online_cids() -> u32 = 0;
    /// `scx_bpf_nr_node_ids`.
    fn kf_nr_node_ids() -> u32 = 0;
    /// `scx_bpf_cpu_node`: the node, or a negative errno.
    fn kf_cpu_node(machine: &mut dyn Machine, cpu: i32) -> i32 = 0;
    /// `scx_bpf_cpuperf_cap`.
    fn kf_cpuperf_cap(machine: &mut dyn Machine, cpu: i32) -> u32 = 0;
    /// `scx_bpf_cpuperf_cur`.
    fn kf_cpuperf_cur(machine: &mut dyn Machine, cpu: i32) -> u32 = 0;
    /// `scx_bpf_cpuperf_set`; 0 or a negative errno.
    fn kf_cpuperf_set(machine: &mut dyn Machine, cpu: i32, perf: u32) -> i32 = 0;
    /// `scx_bpf_now`.
    fn kf_now(machine: &mut dyn Machine) -> SimTime = SimTime::ZERO;
    /// `scx_bpf_events`.
    fn kf_events() -> EventStats = EventStats::default();
    /// `scx_bpf_error_bstr`, formatted.
    fn kf_error(machine: &mut dyn Machine, message: &str);
    /// `scx_bpf_exit_bstr`, formatted.
    fn kf_exit(machine: &mut dyn Machine, code: i64, message: &str);
    /// `scx_bpf_dump_bstr`, formatted.
    fn kf_dump(machine: &mut dyn Machine, text: &str);
    /// `scx_bpf_tid_to_task`.
    fn kf_tid_to_task(machine: &mut dyn Machine, tid: u64) -> Option<Tid> = None;
    /// `scx_bpf_task_cgroup`: the cgroup's id.
    fn kf_task_cgroup(machine: &mut dyn Machine, p: Tid) -> u64 = 1;
}
