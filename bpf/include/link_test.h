// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What the files of the linking tests share: link_main and link_lib are linked by harena,
// link_whole is both compiled as one. All must do the same.
#pragma once

#include "scx.h"

#define ARENA_PAGES 64

struct link_ctx {
	u64 in[4];
	u64 out[12];
};

// What is counted for a key: both files define types of their own from it.
struct tally {
	u32 hits;
	u64 sum;
	struct tally __arena *next;
};

struct tally_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, u32);
	__type(value, struct tally);
};

// In both files and weak: the linker keeps one.
__weak ARENA(arena, ARENA_PAGES);

#ifndef HARENA_SCX_HEADERS
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_loop)(u32 count, void *callback, void *context, u64 flags) = (void *)181;
#endif

// What link_lib gives.
u64 lib_sum(struct tally *tally, u64 by);
u64 lib_both(u64 value);
u64 lib_loop(u32 count);
u64 lib_pid(struct task_struct *task);
u64 lib_arena(u64 value);

// Static in each file: the linker keeps them apart.
#define COUNTER(name, start)                                                                       \
	static u64 name = start;                                                                   \
	static __noinline u64 name##_step(u64 by)                                                  \
	{                                                                                          \
		name += by;                                                                        \
		return name;                                                                       \
	}
