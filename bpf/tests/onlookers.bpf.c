// SPDX-License-Identifier: MIT OR Apache-2.0
//
// onlookers: a FIFO with programs that are attached on demand. Some do nothing, the others what no
// kernel admits.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS
u64 scx_bpf_now(void) __ksym;
struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym;

static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_get_func_arg)(void *ctx, u32 n, u64 *value) = (void *)183;
#endif

u64 nr_seen;

SEC("?tp_btf/sched_switch")
int nothing_at_switch(u64 *ctx)
{
	return 0;
}

SEC("?raw_tp/sched_wakeup")
int nothing_at_wakeup(u64 *ctx)
{
	return 0;
}

// Programs of this type and kprobes run one at a time on a CPU, others beside them.
SEC("?tracepoint/sched/sched_switch")
int one_at_a_time(u64 *ctx)
{
	return scx_bpf_now() != 0;
}

SEC("?kprobe/scx_bpf_now")
int probed(void *ctx)
{
	return 0;
}

SEC("?fentry/scx_bpf_now")
int entered(u64 *ctx)
{
	return 0;
}

// Holds a task for ever.
SEC("?tp_btf/sched_wakeup")
int BPF_PROG(leaks, struct task_struct *p)
{
	if (++nr_seen == 10)
		bpf_task_acquire(p);
	return 0;
}

// The same before there is a scheduler.
SEC("?fentry/bpf_scx_reg")
int BPF_PROG(leaks_early)
{
	bpf_task_acquire((void *)bpf_task_from_pid(1));
	return 0;
}

// And when the scheduler is leaving already: bypass begins when it comes and when it goes.
SEC("?tp_btf/sched_ext_event")
int BPF_PROG(leaks_late, const char *name, s64 delta)
{
	char text[16] = {};

	bpf_probe_read_kernel_str(text, sizeof(text), name);
	if (text[7] == 'B' && text[14] == 'A' && ++nr_seen == 2)
		bpf_task_acquire(bpf_get_current_task_btf());
	return 0;
}

// Callbacks may do this, programs that look on may not.
SEC("?tp_btf/sched_wakeup")
int BPF_PROG(inserts, struct task_struct *p)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, 0);
	return 0;
}

// The scheduler's kfuncs are not for kprobes.
SEC("?kprobe/schedule")
int probes(void *ctx)
{
	return scx_bpf_now() != 0;
}

// sched_wakeup has one argument.
SEC("?tp_btf/sched_wakeup")
int reads_a_second(u64 *ctx)
{
	return ctx[1] != 0;
}

// The first bytes of a record are the kernel's.
SEC("?tracepoint/sched/sched_wakeup")
int reads_the_head(u64 *ctx)
{
	return ctx[0] != 0;
}

SEC("?fexit/try_to_wake_up")
int writes_the_result(u64 *ctx)
{
	ctx[3] = 0;
	return 0;
}

// Programs of this type have no such helper.
SEC("?raw_tp/sched_wakeup")
int asks_for_an_argument(u64 *ctx)
{
	u64 arg = 0;

	return bpf_get_func_arg(ctx, 0, &arg);
}

void BPF_STRUCT_OPS(onlookers_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

SCX_OPS_DEFINE(onlookers_ops, .enqueue = (void *)onlookers_enqueue, .name = "onlookers");
