// SPDX-License-Identifier: MIT OR Apache-2.0
//
// queues: moves tasks between DSQs in every way: by iterator from SECOND to FIRST, and from FIRST
// to the CPU. Counts what ops.dequeue sees, which runs inside the kfunc that moves a task, and
// keeps a timer running.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define FIRST 1
#define SECOND 2
#define CLOCK_MONOTONIC 1

#ifndef HARENA_SCX_HEADERS

struct bpf_iter_scx_dsq {
	u64 __opaque[6];
} __attribute__((aligned(8)));

struct bpf_timer {
	u64 __opaque[2];
} __attribute__((aligned(8)));

int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, u64 dsq_id, u64 flags) __ksym;
struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __ksym;
void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __ksym;
bool scx_bpf_dsq_move(struct bpf_iter_scx_dsq *it__iter, struct task_struct *p, u64 dsq_id,
		      u64 enq_flags) __ksym;
void scx_bpf_dsq_move_set_slice(struct bpf_iter_scx_dsq *it__iter, u64 slice) __ksym;
s32 scx_bpf_dsq_nr_queued(u64 dsq_id) __ksym;
struct task_struct *scx_bpf_dsq_peek(u64 dsq_id) __ksym;

static long (*bpf_timer_init)(struct bpf_timer *timer, void *map, u64 flags) = (void *)169;
static long (*bpf_timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*bpf_timer_start)(struct bpf_timer *timer, u64 nsecs, u64 flags) = (void *)171;
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

#endif

struct timer_slot {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct timer_slot);
} timers SEC(".maps");

u64 nr_enqueued;
u64 nr_dequeued;
u64 nr_moved;
u64 nr_to_local;
u64 nr_peek_wrong;
u64 nr_timer;
u64 last_deq_flags;

#define TIMER_NS 10000000

static int tick_timer(void *map, int *key, struct timer_slot *slot)
{
	nr_timer++;
	bpf_timer_start(&slot->timer, TIMER_NS, 0);
	return 0;
}

s32 BPF_STRUCT_OPS(queues_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

void BPF_STRUCT_OPS(queues_enqueue, struct task_struct *p, u64 enq_flags)
{
	nr_enqueued++;
	scx_bpf_dsq_insert(p, SECOND, SCX_SLICE_DFL_NS, enq_flags);
}

void BPF_STRUCT_OPS(queues_dequeue, struct task_struct *p, u64 deq_flags)
{
	nr_dequeued++;
	last_deq_flags = deq_flags;
}

void BPF_STRUCT_OPS(queues_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *first = scx_bpf_dsq_peek(SECOND);
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;

	if (!bpf_iter_scx_dsq_new(&it, SECOND, 0)) {
		while ((p = bpf_iter_scx_dsq_next(&it))) {
			if (first && p != first)
				nr_peek_wrong++;
			first = NULL;
			scx_bpf_dsq_move_set_slice(&it, 1000000);
			if (scx_bpf_dsq_move(&it, p, FIRST, 0))
				nr_moved++;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	if (scx_bpf_dsq_nr_queued(FIRST) > 0 && scx_bpf_dsq_move_to_local(FIRST, 0))
		nr_to_local++;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(queues_init)
{
	struct timer_slot *slot;
	u32 key = 0;
	s32 err;

	slot = bpf_map_lookup_elem(&timers, &key);
	if (!slot)
		return -EINVAL;
	bpf_timer_init(&slot->timer, &timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&slot->timer, tick_timer);
	bpf_timer_start(&slot->timer, TIMER_NS, 0);
	err = scx_bpf_create_dsq(FIRST, -1);
	return err ?: scx_bpf_create_dsq(SECOND, -1);
}

SCX_OPS_DEFINE(queues_ops,
	       .select_cpu = (void *)queues_select_cpu,
	       .enqueue = (void *)queues_enqueue,
	       .dequeue = (void *)queues_dequeue,
	       .dispatch = (void *)queues_dispatch,
	       .init = (void *)queues_init,
	       .name = "queues");
