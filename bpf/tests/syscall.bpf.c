// SPDX-License-Identifier: MIT OR Apache-2.0
//
// syscall: programs for `harena prog run`, beside a scheduler of which no program can be run.
#include "scx.h"

char _license[] SEC("license") = "GPL";

const volatile u64 step = 1;

struct words {
	u64 in;
	u64 out;
};

// Reads and writes its context, prints, and returns a negative number.
SEC("syscall")
int add(struct words *ctx)
{
	static const char format[] = "added %llu";

	ctx->out = ctx->in + step;
	bpf_trace_printk(format, sizeof(format), step);
	return -22;
}

// What no verifier admits: the budget ends it.
SEC("syscall")
int endless(struct words *ctx)
{
	ctx->out = 1;
	for (;;)
		asm volatile("");
	return 0;
}

// Is loaded on demand only, and asks a scheduler's question where there is none.
SEC("?syscall")
int question(void *ctx)
{
	return scx_bpf_nr_cids();
}

// Needs no context, and says whether it has one.
SEC("?syscall")
int absent(void *ctx)
{
	return !ctx;
}

void BPF_STRUCT_OPS(syscall_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

SCX_OPS_DEFINE(syscall_ops, .enqueue = (void *)syscall_enqueue, .name = "syscall");
