// SPDX-License-Identifier: MIT OR Apache-2.0
//
// drop: fifo that loses every 50th task it is given, for the test of the watchdog: the task stays
// in the scheduler's custody and never runs again.
#include "scx.h"

// Required for kfuncs; see fifo.bpf.c.
char _license[] SEC("license") = "GPL";

const volatile u64 slice_ns = SCX_SLICE_DFL_NS;
const volatile u32 drop_every = 50;

UEI_DEFINE(uei);

#define SHARED_DSQ 0

u64 nr_enqueued;
u64 nr_dropped;

void BPF_STRUCT_OPS(drop_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 number = __sync_fetch_and_add(&nr_enqueued, 1) + 1;
	s32 cpu;

	if (drop_every && number % drop_every == 0) {
		__sync_fetch_and_add(&nr_dropped, 1);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED_DSQ, slice_ns, enq_flags);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

// Without an insertion here every wakeup goes through drop_enqueue.
s32 BPF_STRUCT_OPS(drop_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void BPF_STRUCT_OPS(drop_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(drop_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(drop_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_DEFINE(drop_ops,
	       .select_cpu = (void *)drop_select_cpu,
	       .enqueue = (void *)drop_enqueue,
	       .dispatch = (void *)drop_dispatch,
	       .init = (void *)drop_init,
	       .exit = (void *)drop_exit,
	       .name = "drop");
