// SPDX-License-Identifier: MIT OR Apache-2.0
//
// vtime: weighted fair sharing.
//
// Each task owns a clock, its virtual time, that advances while the task runs: at normal speed for
// the default weight of 100, slower for a heavier task, faster for a lighter one. The shared DSQ is
// ordered by that clock, so the task that has had the least of its share runs next.
#include "scx.h"

// The kernel offers its kfuncs only to programs that say "GPL" here. That is a statement to the
// loader about calling kernel functions; this file's own licence is the one in its first line.
char _license[] SEC("license") = "GPL";

// How long a task may run before others get a turn.
const volatile u64 slice_ns = SCX_SLICE_DFL_NS;

UEI_DEFINE(uei);

#define SHARED_DSQ 0
#define DEFAULT_WEIGHT 100

// The largest virtual time at which any task began to run: where a task that slept, or that is
// new, joins the race. CPUs race on it; a lost update is made good by the next task that runs.
u64 vtime_now;

// What the task had consumed in all when it began to run, to know afterwards how long it ran.
struct run_start {
	u64 sum_exec_runtime;
};
TASK_STORAGE(run_starts, struct run_start);

// Virtual times wrap, so "before" looks at the difference.
static bool vtime_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

s32 BPF_STRUCT_OPS(vtime_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
	return cpu;
}

void BPF_STRUCT_OPS(vtime_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;
	s32 cpu;

	// A long sleep must not buy the right to run alone for as long: one slice at most.
	if (vtime_before(vtime, vtime_now - slice_ns))
		vtime = vtime_now - slice_ns;
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, slice_ns, vtime, enq_flags);

	// Not every task comes through select_cpu (see fifo.bpf.c).
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(vtime_running, struct task_struct *p)
{
	struct run_start *start = bpf_task_storage_get(&run_starts, p, NULL, 0);

	if (start)
		start->sum_exec_runtime = p->se.sum_exec_runtime;
	if (vtime_before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(vtime_stopping, struct task_struct *p, bool runnable)
{
	struct run_start *start = bpf_task_storage_get(&run_starts, p, NULL, 0);
	u64 ran_ns;

	if (!start)
		return;
	// Not "slice_ns minus what is left of the slice": the core refills the slice of a task
	// that goes on running for want of another.
	ran_ns = p->se.sum_exec_runtime - start->sum_exec_runtime;
	p->scx.dsq_vtime += ran_ns * DEFAULT_WEIGHT / p->scx.weight;
}

void BPF_STRUCT_OPS(vtime_enable, struct task_struct *p)
{
	p->scx.dsq_vtime = vtime_now;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(vtime_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	if (!bpf_task_storage_get(&run_starts, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -ENOMEM;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(vtime_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(vtime_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_DEFINE(vtime_ops,
	       .select_cpu = (void *)vtime_select_cpu,
	       .enqueue = (void *)vtime_enqueue,
	       .dispatch = (void *)vtime_dispatch,
	       .running = (void *)vtime_running,
	       .stopping = (void *)vtime_stopping,
	       .enable = (void *)vtime_enable,
	       .init_task = (void *)vtime_init_task,
	       .init = (void *)vtime_init,
	       .exit = (void *)vtime_exit,
	       .name = "vtime");
