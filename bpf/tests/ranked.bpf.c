// SPDX-License-Identifier: MIT OR Apache-2.0
//
// ranked: weighted fairness with a red-black tree of the scheduler's own, by virtual time. Each
// task that waits is a node; dispatch takes the first one out. Any task may be sent to any CPU.
#include "scx.h"
#include "owned.h"

char _license[] SEC("license") = "GPL";

struct waiting {
	struct bpf_rb_node node;
	u64 vtime;
	s32 pid;
};

in_section(tree) struct bpf_spin_lock lock;
in_section(tree) struct bpf_rb_root tree __contains(waiting, node);

// Does not release the lock when this is set, to see what happens.
const volatile bool keep_lock;

u64 vtime_now;
u64 nr_added;
u64 nr_taken;
u64 nr_gone;

static bool waits_less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct waiting, node)->vtime <
	       container_of(b, struct waiting, node)->vtime;
}

s32 BPF_STRUCT_OPS(ranked_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;

	return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
}

void BPF_STRUCT_OPS(ranked_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct waiting *waiting = bpf_obj_new(struct waiting);

	if (!waiting) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
		return;
	}
	waiting->pid = p->pid;
	waiting->vtime = p->scx.dsq_vtime;
	// What slept long does not get all of it back.
	if ((s64)(waiting->vtime - (vtime_now - SCX_SLICE_DFL_NS)) < 0)
		waiting->vtime = vtime_now - SCX_SLICE_DFL_NS;
	bpf_spin_lock(&lock);
	bpf_rbtree_add(&tree, &waiting->node, waits_less);
	if (!keep_lock)
		bpf_spin_unlock(&lock);
	nr_added++;
}

void BPF_STRUCT_OPS(ranked_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;
	struct waiting *waiting;
	struct bpf_rb_node *node;

	bpf_spin_lock(&lock);
	node = bpf_rbtree_first(&tree);
	if (node)
		node = bpf_rbtree_remove(&tree, node);
	bpf_spin_unlock(&lock);
	if (!node)
		return;
	waiting = container_of(node, struct waiting, node);
	p = bpf_task_from_pid(waiting->pid);
	if (p) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL_NS, 0);
		bpf_task_release(p);
		nr_taken++;
	} else {
		nr_gone++;
	}
	bpf_obj_drop(waiting);
}

void BPF_STRUCT_OPS(ranked_running, struct task_struct *p)
{
	if ((s64)(vtime_now - p->scx.dsq_vtime) < 0)
		vtime_now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(ranked_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += (SCX_SLICE_DFL_NS - p->scx.slice) * 100 / p->scx.weight;
}

void BPF_STRUCT_OPS(ranked_enable, struct task_struct *p)
{
	p->scx.dsq_vtime = vtime_now;
}

SCX_OPS_DEFINE(ranked_ops,
	       .select_cpu = (void *)ranked_select_cpu,
	       .enqueue = (void *)ranked_enqueue,
	       .dispatch = (void *)ranked_dispatch,
	       .running = (void *)ranked_running,
	       .stopping = (void *)ranked_stopping,
	       .enable = (void *)ranked_enable,
	       .name = "ranked");
