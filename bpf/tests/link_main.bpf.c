// SPDX-License-Identifier: MIT OR Apache-2.0
//
// link_main: programs that need link_lib.bpf.o: its functions, variables and maps, of which this
// file has declarations only.
#include "link_test.h"

char _license[] SEC("license") = "GPL";

COUNTER(counter, 100)

extern u64 lib_calls;
extern const volatile u32 lib_limit;
extern u64 __arena lib_head;
extern struct tally_map tallies __attribute__((section(".maps")));

// The library's is strong.
#ifndef LINK_WHOLE
__weak __noinline u64 lib_both(u64 value)
{
	return value + 1000000;
}
__weak u64 lib_start[3] = {1, 2, 3};
#else
extern u64 lib_start[3];
#endif

// A strong one, where the library has a weak one.
__noinline u64 main_scale(u64 value)
{
	return value * 3;
}

// Both are put behind what the library has in the same sections.
__hidden u64 main_hidden = 7;
u64 __arena main_tail = 9;

static const char names[4][8] = {"alpha", "beta", "gamma", "delta"};

SEC("syscall")
int all_of_it(struct link_ctx *ctx)
{
	u32 key = ctx->in[0] & 7;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &key);

	if (!tally)
		return 1;
	ctx->out[0] = lib_sum(tally, ctx->in[1]);
	ctx->out[1] = counter_step(1);
	ctx->out[2] = lib_both(ctx->in[1]);
	ctx->out[3] = lib_loop(ctx->in[2] & 63);
	ctx->out[4] = lib_calls++;
	ctx->out[5] = lib_limit;
	ctx->out[6] = names[ctx->in[0] & 3][ctx->in[1] & 7];
	ctx->out[7] = lib_start[ctx->in[0] % 3];
	ctx->out[8] = tally->hits;
	return 0;
}

SEC("syscall")
int arena_of_both(struct link_ctx *ctx)
{
	u64 __arena *page = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);

	if (!page)
		return 1;
	*page = ctx->in[0];
	ctx->out[0] = lib_arena(*page);
	lib_head += 5;
	main_tail += main_hidden;
	ctx->out[1] = lib_head;
	ctx->out[2] = main_tail;
	ctx->out[3] = *page;
	return 0;
}
