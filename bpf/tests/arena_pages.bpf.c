// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_pages: loops over page alloc and free, for benchmarks. What each returns depends on all
// that it did, so that another machine's answer can be compared with it.
#include "scx.h"

// Required for kfuncs; see fifo.bpf.c.
char _license[] SEC("license") = "GPL";

#define ARENA_PAGES 65536
ARENA(arena, ARENA_PAGES);

#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(u64))
#define SLOTS 64

struct pages_ctx {
	u64 rounds;
	// Of each allocation; the most, in a churn.
	u64 pages;
	// Not 0: write the first word of each page.
	u64 touch;
	u64 unused;
	u64 out[12];
};

struct slot {
	u64 __arena *first;
	u64 pages;
};

struct slot __arena slots[SLOTS];

static __always_inline u64 next(u64 state)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state;
}

// A number below `limit` out of the state of the generator.
static __always_inline u64 below(u64 state, u64 limit)
{
	return (((state * 0x2545f4914f6cdd1dULL) >> 32) * limit) >> 32;
}

static __always_inline void touch(u64 __arena *first, u64 pages, u64 value)
{
	for (u64 page = 0; page < pages && can_loop; page++)
		first[page * WORDS_PER_PAGE] = value;
}

// Allocates and frees, the last first.
SEC("syscall")
int pairs(struct pages_ctx *ctx)
{
	u64 sum = 0;

	for (u64 round = 0; round < ctx->rounds && can_loop; round++) {
		u64 __arena *first = bpf_arena_alloc_pages(&arena, NULL, ctx->pages, -1, 0);

		if (!first)
			return 1;
		if (ctx->touch) {
			touch(first, ctx->pages, round);
			sum += first[0];
		}
		bpf_arena_free_pages(&arena, first, ctx->pages);
		sum++;
	}
	ctx->out[0] = sum;
	return 0;
}

// Replaces what a random slot holds by a random number of pages.
SEC("syscall")
int churn(struct pages_ctx *ctx)
{
	u64 state = 1;
	u64 sum = 0;

	for (u64 round = 0; round < ctx->rounds && can_loop; round++) {
		struct slot __arena *slot;

		state = next(state);
		slot = &slots[below(state, SLOTS)];
		if (slot->pages)
			bpf_arena_free_pages(&arena, slot->first, slot->pages);
		state = next(state);
		slot->pages = 1 + below(state, ctx->pages);
		slot->first = bpf_arena_alloc_pages(&arena, NULL, slot->pages, -1, 0);
		if (!slot->first)
			return 1;
		if (ctx->touch) {
			touch(slot->first, slot->pages, round);
			sum += slot->first[0];
		}
		sum += slot->pages;
	}
	for (u32 i = 0; i < SLOTS && can_loop; i++) {
		if (slots[i].pages)
			bpf_arena_free_pages(&arena, slots[i].first, slots[i].pages);
		slots[i].pages = 0;
	}
	ctx->out[0] = sum;
	return 0;
}
