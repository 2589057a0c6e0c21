// SPDX-License-Identifier: MIT OR Apache-2.0
//
// held: acquires without releasing, and the other way round, in the one way that `mode` chooses. No
// kernel loads it. Mode 0 does all of it right.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define QUEUE 1

#ifndef HARENA_SCX_HEADERS

struct bpf_iter_scx_dsq {
	u64 __opaque[6];
} __attribute__((aligned(8)));

// libbpf calls no kfunc whose struct is whole in the kernel and only declared here.
struct cgroup {
	int level;
} __attribute__((preserve_access_index));

struct bpf_cpumask {
	struct cpumask cpumask;
} __attribute__((preserve_access_index));

int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, u64 dsq_id, u64 flags) __ksym;
struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __ksym;
void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __ksym;
void scx_bpf_dsq_move_set_slice(struct bpf_iter_scx_dsq *it__iter, u64 slice) __ksym;

struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym;
struct cgroup *bpf_cgroup_from_id(u64 cgid) __ksym;
void bpf_cgroup_release(struct cgroup *cgrp) __ksym;
struct bpf_cpumask *bpf_cpumask_create(void) __ksym;
struct bpf_cpumask *bpf_cpumask_acquire(struct bpf_cpumask *cpumask) __ksym;
void bpf_cpumask_release(struct bpf_cpumask *cpumask) __ksym;
const struct cpumask *scx_bpf_get_idle_cpumask(void) __ksym;
void scx_bpf_put_idle_cpumask(const struct cpumask *cpumask) __ksym;
const struct cpumask *scx_bpf_get_online_cpumask(void) __ksym;
void scx_bpf_put_cpumask(const struct cpumask *cpumask) __ksym;
u32 scx_bpf_nr_cpu_ids(void) __ksym;

static void *(*bpf_kptr_xchg)(void *dst, void *ptr) = (void *)194;

#define __kptr __attribute__((btf_type_tag("kptr")))

#endif

enum mode {
	CORRECT,
	LEAK_TASK,
	RELEASE_TASK_TWICE,
	RELEASE_ARGUMENT,
	LEAK_CGROUP,
	LEAK_MASK,
	RELEASE_MASK_TWICE,
	LEAK_IDLE_MASK,
	LEAK_LOCK,
	CALL_UNDER_LOCK,
	LEAK_RCU,
	SLEEP_IN_RCU,
	LEAK_ITER,
	DESTROY_ITER_TWICE,
	USE_NO_ITER,
	LEAK_KPTR,
};

const volatile u32 mode;

struct bpf_res_spin_lock lock __hidden SEC(".data.lock");
struct bpf_cpumask __kptr *stored;
u64 nr_rounds;

static void tasks(struct task_struct *p)
{
	struct task_struct *same;

	if (mode == RELEASE_ARGUMENT)
		bpf_task_release(p);
	same = bpf_task_acquire(p);
	if (!same)
		return;
	if (mode == LEAK_TASK)
		return;
	bpf_task_release(same);
	if (mode == RELEASE_TASK_TWICE)
		bpf_task_release(same);
}

static void cgroups(void)
{
	struct cgroup *root = bpf_cgroup_from_id(1);

	if (root && mode != LEAK_CGROUP)
		bpf_cgroup_release(root);
}

static void masks(void)
{
	const struct cpumask *idle = scx_bpf_get_idle_cpumask();
	struct bpf_cpumask *mask, *old;

	if (mode != LEAK_IDLE_MASK)
		scx_bpf_put_idle_cpumask(idle);
	scx_bpf_put_cpumask(scx_bpf_get_online_cpumask());
	mask = bpf_cpumask_create();
	if (!mask)
		return;
	if (mode == LEAK_MASK)
		return;
	bpf_cpumask_release(bpf_cpumask_acquire(mask));
	if (mode == RELEASE_MASK_TWICE) {
		bpf_cpumask_release(mask);
		bpf_cpumask_release(mask);
		return;
	}
	old = bpf_kptr_xchg(&stored, mask);
	if (old && mode != LEAK_KPTR)
		bpf_cpumask_release(old);
}

static void locks(void)
{
	if (bpf_res_spin_lock(&lock))
		return;
	if (mode == CALL_UNDER_LOCK)
		scx_bpf_nr_cpu_ids();
	if (mode != LEAK_LOCK)
		bpf_res_spin_unlock(&lock);
}

static void iterators(void)
{
	struct bpf_iter_scx_dsq it;

	if (mode != USE_NO_ITER)
		bpf_iter_scx_dsq_new(&it, QUEUE, 0);
	while (bpf_iter_scx_dsq_next(&it) && can_loop)
		scx_bpf_dsq_move_set_slice(&it, 1000000);
	if (mode == LEAK_ITER)
		return;
	bpf_iter_scx_dsq_destroy(&it);
	if (mode == DESTROY_ITER_TWICE)
		bpf_iter_scx_dsq_destroy(&it);
}

// Without it, most tasks would not be enqueued.
s32 BPF_STRUCT_OPS(held_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void BPF_STRUCT_OPS(held_enqueue, struct task_struct *p, u64 enq_flags)
{
	tasks(p);
	cgroups();
	masks();
	bpf_rcu_read_lock();
	if (mode != LEAK_RCU)
		bpf_rcu_read_unlock();
	scx_bpf_dsq_insert(p, QUEUE, SCX_SLICE_DFL_NS, enq_flags);
	locks();
}

void BPF_STRUCT_OPS(held_dispatch, s32 cpu, struct task_struct *prev)
{
	iterators();
	scx_bpf_dsq_move_to_local(QUEUE, 0);
	nr_rounds++;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(held_init)
{
	s32 err;

	if (mode == SLEEP_IN_RCU)
		bpf_rcu_read_lock();
	err = scx_bpf_create_dsq(QUEUE, -1);
	if (mode == SLEEP_IN_RCU)
		bpf_rcu_read_unlock();
	return err;
}

SCX_OPS_DEFINE(held_ops,
	       .select_cpu = (void *)held_select_cpu,
	       .enqueue = (void *)held_enqueue,
	       .dispatch = (void *)held_dispatch,
	       .init = (void *)held_init,
	       .name = "held");
