// SPDX-License-Identifier: MIT OR Apache-2.0
//
// storm: a scheduler that asks for too much of everything, to test that the simulation stays
// small and comes to its end.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define CLOCK_MONOTONIC 1

#ifndef HARENA_SCX_HEADERS
// No scheduler of ours uses timers, so our headers do without them.
struct bpf_timer {
	u64 opaque[2];
};
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_timer_init)(struct bpf_timer *timer, void *map, u64 flags) = (void *)169;
static long (*const bpf_timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*const bpf_timer_start)(struct bpf_timer *timer, u64 ns, u64 flags) = (void *)171;
#endif

struct storm_value {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct storm_value);
} timers SEC(".maps");

// How often one callback arms the timer, each time for the same moment.
const volatile u32 nr_arms = 1;
// How long the timer waits before it fires again, in nanoseconds.
const volatile u64 period_ns;

u64 nr_fired;

static int fired(void *map, u32 *key, struct storm_value *value)
{
	nr_fired++;
	for (u32 i = 0; i < nr_arms; i++)
		bpf_timer_start(&value->timer, period_ns, 0);
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(storm_init)
{
	u32 key = 0;
	struct storm_value *value = bpf_map_lookup_elem(&timers, &key);

	if (!value)
		return -2;
	bpf_timer_init(&value->timer, &timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&value->timer, fired);
	bpf_timer_start(&value->timer, period_ns, 0);
	return 0;
}

SCX_OPS_DEFINE(storm_ops,
	       .init = (void *)storm_init,
	       .name = "storm");
