// SPDX-License-Identifier: MIT OR Apache-2.0
//
// iters: walks over tasks and cgroups, right or in the one wrong way that `mode` chooses.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS

struct bpf_iter_task {
	u64 __opaque[3];
} __attribute__((aligned(8)));

struct bpf_iter_css {
	u64 __opaque[3];
} __attribute__((aligned(8)));

struct bpf_iter_css_task {
	u64 __opaque[1];
} __attribute__((aligned(8)));

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	int id;
	struct cgroup_subsys_state *parent;
} __attribute__((preserve_access_index));

struct cgroup {
	struct cgroup_subsys_state self;
} __attribute__((preserve_access_index));

int bpf_iter_css_new(struct bpf_iter_css *it, struct cgroup_subsys_state *start,
		     unsigned int flags) __ksym;
struct cgroup_subsys_state *bpf_iter_css_next(struct bpf_iter_css *it) __ksym;
void bpf_iter_css_destroy(struct bpf_iter_css *it) __ksym;
struct cgroup *bpf_cgroup_from_id(u64 cgid) __ksym;
void bpf_cgroup_release(struct cgroup *cgrp) __ksym;

enum {
	BPF_TASK_ITER_ALL_PROCS,
	BPF_TASK_ITER_ALL_THREADS,
	BPF_TASK_ITER_PROC_THREADS,
};

enum {
	BPF_CGROUP_ITER_SELF_ONLY = 1,
	BPF_CGROUP_ITER_DESCENDANTS_PRE,
	BPF_CGROUP_ITER_DESCENDANTS_POST,
	BPF_CGROUP_ITER_ANCESTORS_UP,
	BPF_CGROUP_ITER_CHILDREN,
};

enum {
	CSS_TASK_ITER_PROCS = 1,
	CSS_TASK_ITER_THREADED = 2,
};

#endif

int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task__nullable,
		      unsigned int flags) __ksym;
struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;
int bpf_iter_css_task_new(struct bpf_iter_css_task *it, struct cgroup_subsys_state *css,
			  unsigned int flags) __ksym;
struct task_struct *bpf_iter_css_task_next(struct bpf_iter_css_task *it) __ksym;
void bpf_iter_css_task_destroy(struct bpf_iter_css_task *it) __ksym;
struct task_struct *bpf_task_from_vpid(s32 vpid) __ksym;
long bpf_task_under_cgroup(struct task_struct *task, struct cgroup *ancestor) __ksym;
struct cgroup *bpf_task_get_cgroup1(struct task_struct *task, int hierarchy_id) __ksym;

// The cpu controller's part of a cgroup begins with its css.
struct task_group___css {
	struct cgroup_subsys_state css;
} __attribute__((preserve_access_index));

struct task_struct___group {
	struct task_group___css *sched_task_group;
} __attribute__((preserve_access_index));

enum mode {
	CORRECT,
	NEW_WITHOUT_RCU,
	NEXT_WITHOUT_RCU,
	NEXT_IN_ANOTHER_RCU,
	LEAK,
	SCRIBBLE,
	CSS_OF_NOTHING,
};

const volatile u32 mode;
// Whose threads are walked over.
const volatile s32 leader = 1;

u64 nr_procs, nr_threads, nr_threads_of_leader, nr_css_tasks, nr_css_procs;
u64 nr_pre, nr_post, nr_up, nr_children, nr_cpu, nr_rounds, nr_seen;
// Pids in the order of the walk over all threads, as decimal digits.
u64 order;
s64 errors[5];
bool found;

static void all_tasks(void)
{
	struct task_struct *p, *first;
	struct bpf_iter_task it;

	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_PROCS);
	while ((p = bpf_iter_task_next(&it)) && can_loop)
		nr_procs++;
	// The end stays the end.
	if (bpf_iter_task_next(&it))
		nr_procs += 1000;
	bpf_iter_task_destroy(&it);

	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_THREADS);
	while ((p = bpf_iter_task_next(&it)) && can_loop) {
		nr_threads++;
		order = order * 10 + p->pid;
	}
	bpf_iter_task_destroy(&it);

	first = bpf_task_from_vpid(leader);
	if (first) {
		bpf_iter_task_new(&it, first, BPF_TASK_ITER_PROC_THREADS);
		while ((p = bpf_iter_task_next(&it)) && can_loop)
			nr_threads_of_leader++;
		bpf_iter_task_destroy(&it);
		bpf_task_release(first);
	}

	errors[0] = bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_PROC_THREADS);
	if (bpf_iter_task_next(&it))
		errors[0] = 0;
	bpf_iter_task_destroy(&it);
	errors[1] = bpf_iter_task_new(&it, NULL, 3);
	bpf_iter_task_destroy(&it);
}

static u64 walk(struct cgroup_subsys_state *start, u32 flags)
{
	struct cgroup_subsys_state *css;
	struct bpf_iter_css it;
	u64 count = 0;

	bpf_iter_css_new(&it, start, flags);
	while ((css = bpf_iter_css_next(&it)) && can_loop)
		count += css == start && css->cgroup && css->id == 1 && !css->parent;
	bpf_iter_css_destroy(&it);
	return count;
}

static void cgroups(struct cgroup *root)
{
	struct task_struct___group *p = (void *)bpf_task_from_vpid(leader);
	struct cgroup *old;
	struct bpf_iter_css it;

	nr_pre = walk(&root->self, BPF_CGROUP_ITER_DESCENDANTS_PRE);
	nr_post = walk(&root->self, BPF_CGROUP_ITER_DESCENDANTS_POST);
	nr_up = walk(&root->self, BPF_CGROUP_ITER_ANCESTORS_UP);
	nr_children = walk(&root->self, BPF_CGROUP_ITER_CHILDREN);
	if (p) {
		nr_cpu = walk(&p->sched_task_group->css, BPF_CGROUP_ITER_DESCENDANTS_PRE);
		old = bpf_task_get_cgroup1((void *)p, 1);
		found = bpf_task_under_cgroup((void *)p, root) == 1 && !old;
		if (old)
			bpf_cgroup_release(old);
		bpf_task_release((void *)p);
	}
	errors[2] = bpf_iter_css_new(&it, &root->self, BPF_CGROUP_ITER_SELF_ONLY);
	if (bpf_iter_css_next(&it))
		errors[2] = 0;
	bpf_iter_css_destroy(&it);
}

// Takes a lock that sleepers only may take, and needs no RCU.
static u64 tasks_of(struct cgroup *root, u32 flags, s64 *error)
{
	struct bpf_iter_css_task it;
	u64 count = 0;

	*error = bpf_iter_css_task_new(&it, &root->self, flags);
	while (bpf_iter_css_task_next(&it) && can_loop)
		count++;
	bpf_iter_css_task_destroy(&it);
	return count;
}

static void wrong(void)
{
	struct bpf_iter_task it;
	struct bpf_iter_css csses;

	if (mode != NEW_WITHOUT_RCU)
		bpf_rcu_read_lock();
	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_PROCS);
	if (mode == NEXT_WITHOUT_RCU || mode == NEXT_IN_ANOTHER_RCU)
		bpf_rcu_read_unlock();
	if (mode == NEXT_IN_ANOTHER_RCU)
		bpf_rcu_read_lock();
	if (mode == SCRIBBLE)
		it.__opaque[1] = 1;
	bpf_iter_task_next(&it);
	if (mode == CSS_OF_NOTHING) {
		bpf_iter_css_new(&csses, (void *)&it, BPF_CGROUP_ITER_DESCENDANTS_PRE);
		bpf_iter_css_destroy(&csses);
	}
	if (mode != LEAK)
		bpf_iter_task_destroy(&it);
	bpf_rcu_read_unlock();
}

s32 BPF_STRUCT_OPS_SLEEPABLE(iters_init)
{
	struct cgroup *root;
	s64 none;

	if (mode != CORRECT) {
		wrong();
		return 0;
	}
	root = bpf_cgroup_from_id(1);
	if (!root)
		return -1;
	bpf_rcu_read_lock();
	all_tasks();
	cgroups(root);
	bpf_rcu_read_unlock();
	nr_css_tasks = tasks_of(root, 0, &none);
	nr_css_procs = tasks_of(root, CSS_TASK_ITER_PROCS | CSS_TASK_ITER_THREADED, &none);
	errors[3] = none;
	if (tasks_of(root, CSS_TASK_ITER_THREADED, &none))
		none = 0;
	errors[4] = none;
	bpf_cgroup_release(root);
	return 0;
}

// A program that may not sleep is in an RCU section all the time.
void BPF_STRUCT_OPS(iters_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_struct *q;
	struct bpf_iter_task it;

	nr_rounds++;
	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_PROCS);
	while ((q = bpf_iter_task_next(&it)) && can_loop)
		nr_seen += q == p;
	bpf_iter_task_destroy(&it);
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

// Refused at load: it may not sleep.
SEC("?tp_btf/sched_switch")
int css_tasks_where_none_may_sleep(u64 *ctx)
{
	struct bpf_iter_css_task it;

	bpf_iter_css_task_new(&it, NULL, 0);
	bpf_iter_css_task_destroy(&it);
	return 0;
}

SCX_OPS_DEFINE(iters_ops,
	       .enqueue = (void *)iters_enqueue,
	       .init = (void *)iters_init,
	       .name = "iters");
