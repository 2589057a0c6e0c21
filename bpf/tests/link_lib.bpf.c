// SPDX-License-Identifier: MIT OR Apache-2.0
//
// link_lib: what link_main needs, and a program that needs something of link_main.
#include "link_test.h"

#ifndef LINK_WHOLE
char _license[] SEC("license") = "GPL";
#endif

COUNTER(counter, 500)

u64 lib_calls;
const volatile u32 lib_limit = 42;
u64 lib_start[3] = {10, 20, 30};
u64 __arena lib_head = 77;
struct tally_map tallies SEC(".maps");

extern u64 main_hidden;

#ifndef LINK_WHOLE
__weak __noinline u64 main_scale(u64 value)
{
	return value;
}
#else
u64 main_scale(u64 value);
#endif

static const u16 factors[8] = {2, 3, 5, 7, 11, 13, 17, 19};

__noinline u64 lib_sum(struct tally *tally, u64 by)
{
	if (!tally)
		return 0;
	lib_calls++;
	tally->hits++;
	tally->sum += by * factors[by & 7];
	return main_scale(tally->sum) + counter_step(by);
}

__noinline u64 lib_both(u64 value)
{
	return value ^ main_hidden;
}

static long add_index(u32 index, u64 *sum)
{
	*sum += index * lib_limit;
	return 0;
}

__noinline u64 lib_loop(u32 count)
{
	u64 sum = 0;

	bpf_loop(count, add_index, &sum, 0);
	return sum;
}

__noinline u64 lib_arena(u64 value)
{
	u64 __arena *page = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);

	if (!page)
		return 0;
	*page = value * 2;
	lib_head += *page;
	return lib_head;
}

// Read at an offset that the loader relocates.
__noinline u64 lib_pid(struct task_struct *task)
{
	return task ? task->pid : 0;
}

SEC("syscall")
int scaled(struct link_ctx *ctx)
{
	ctx->out[0] = main_scale(ctx->in[0]);
	ctx->out[1] = counter_step(1);
	ctx->out[2] = lib_pid((struct task_struct *)ctx);
	return 0;
}
