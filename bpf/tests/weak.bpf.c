// SPDX-License-Identifier: MIT OR Apache-2.0
//
// weak: a scheduler that uses kfuncs and a member that no kernel has. All but one of the uses are
// guarded, as in programs that must load on older kernels.
#include "scx.h"

char _license[] SEC("license") = "GPL";

void scx_bpf_never_was(u64 number) __ksym __weak;
u64 scx_bpf_never_is(void) __ksym __weak;

struct task_struct___other {
	u64 no_such_member;
} __attribute__((preserve_access_index));

u64 nr_seen;

static __noinline int guarded_call(u64 number)
{
	scx_bpf_never_was(number);
	return 0;
}

void BPF_STRUCT_OPS(weak_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_struct___other *other = (void *)p;

	if (bpf_ksym_exists(scx_bpf_never_was)) {
		scx_bpf_never_was(1);
		guarded_call(2);
	}
	if (bpf_core_field_exists(other->no_such_member))
		nr_seen += other->no_such_member;
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

void BPF_STRUCT_OPS(weak_running, struct task_struct *p)
{
	// Nobody asked whether it exists.
	if (p->pid < 0)
		nr_seen += scx_bpf_never_is();
}

SCX_OPS_DEFINE(weak_ops,
	       .enqueue = (void *)weak_enqueue,
	       .running = (void *)weak_running,
	       .name = "weak");
