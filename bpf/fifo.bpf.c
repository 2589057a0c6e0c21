// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fifo: the smallest useful scheduler. One queue for the whole machine, first come first served.
//
//   wakeup -> an idle CPU? yes: straight to that CPU's local DSQ
//                          no:  to the end of the shared DSQ
//   a CPU without work takes the first task of the shared DSQ that may run on it.
#include "scx.h"

// The kernel offers its kfuncs only to programs that say "GPL" here. That is a statement to the
// loader about calling kernel functions; this file's own licence is the one in its first line.
char _license[] SEC("license") = "GPL";

// How long a task may run before others get a turn.
const volatile u64 slice_ns = SCX_SLICE_DFL_NS;

UEI_DEFINE(uei);

#define SHARED_DSQ 0

s32 BPF_STRUCT_OPS(fifo_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	// From here SCX_DSQ_LOCAL means the CPU we return. fifo_enqueue is not called then.
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
	return cpu;
}

void BPF_STRUCT_OPS(fifo_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	scx_bpf_dsq_insert(p, SHARED_DSQ, slice_ns, enq_flags);

	// Not every task comes through select_cpu: one whose slice is over comes straight here, and
	// may be allowed on a CPU that went idle because the queue held nothing for it.
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(fifo_dispatch, s32 cpu, struct task_struct *prev)
{
	// Skips tasks that may not run on this CPU.
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(fifo_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(fifo_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_DEFINE(fifo_ops,
	       .select_cpu = (void *)fifo_select_cpu,
	       .enqueue = (void *)fifo_enqueue,
	       .dispatch = (void *)fifo_dispatch,
	       .init = (void *)fifo_init,
	       .exit = (void *)fifo_exit,
	       .name = "fifo");
