// SPDX-License-Identifier: MIT OR Apache-2.0
//
// probe: one thing per knob, for tests of what the core and a program see of each other.
#include "scx.h"

char _license[] SEC("license") = "GPL";

// A string among the values of a message: the published macros take it as it is.
#ifdef HARENA_SCX_HEADERS
#define STRING(s) (s)
#else
#define STRING(s) ((u64)(s))
#endif

// Ends the scheduler in ops.enqueue of this task, with a message of every kind of value.
const volatile s32 error_pid = 0;
// Leaves with code 7 at the ops.enqueue of this number.
const volatile u64 leave_at = 0;
// Sets the slice of the running task at each tick, by a plain store.
const volatile bool cut_slice = false;

u64 nr_ticks;
u64 nr_enqueued;
s32 last_pid;
u32 last_weight;
u64 last_nr_allowed;
char last_comm[16];

UEI_DEFINE(uei);

// Without an insertion here every task goes through probe_enqueue.
s32 BPF_STRUCT_OPS(probe_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void BPF_STRUCT_OPS(probe_enqueue, struct task_struct *p, u64 enq_flags)
{
	nr_enqueued++;
	last_pid = p->pid;
	last_weight = p->scx.weight;
	last_nr_allowed = p->nr_cpus_allowed;
	bpf_probe_read_kernel_str(last_comm, sizeof(last_comm), p->comm);
	if (p->pid == error_pid)
		scx_bpf_error("%s[%d] has weight %u, slice %llu, flags %llx", STRING(p->comm),
			      p->pid, p->scx.weight, p->scx.slice, 0xabcULL);
	if (nr_enqueued == leave_at)
		scx_bpf_exit(7, "probe leaves at enqueue %llu", nr_enqueued);
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

void BPF_STRUCT_OPS(probe_tick, struct task_struct *p)
{
	nr_ticks++;
	if (cut_slice)
		p->scx.slice = 0;
}

void BPF_STRUCT_OPS(probe_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_DEFINE(probe_ops,
	       .select_cpu = (void *)probe_select_cpu,
	       .enqueue = (void *)probe_enqueue,
	       .tick = (void *)probe_tick,
	       .exit = (void *)probe_exit,
	       .name = "probe");
