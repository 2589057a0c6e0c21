// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_alloc: allocating, freeing and reserving pages, the errors included.
#include "arena_test.h"

// The first pages, one after the other; pages come zeroed and can be written.
SEC("syscall")
int alloc_first_fit(struct arena_ctx *ctx)
{
	u64 __arena *one = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);
	u64 __arena *two = bpf_arena_alloc_pages(&arena, NULL, 2, -1, 0);

	if (!one || !two)
		return 1;
	ctx->out[0] = offset_of(one);
	ctx->out[1] = offset_of(two);
	ctx->out[2] = one[0] | two[0] | two[WORDS_PER_PAGE];
	one[0] = ctx->in[0];
	two[WORDS_PER_PAGE] = ctx->in[1];
	ctx->out[3] = one[0];
	ctx->out[4] = two[WORDS_PER_PAGE];
	return 0;
}

// Exactly the range asked for, or nothing.
SEC("syscall")
int alloc_at(struct arena_ctx *ctx)
{
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(20), 4, -1, 0));
	// Overlaps the one above.
	ctx->out[1] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(23), 2, -1, 0));
	// Not at the start of a page.
	ctx->out[2] = offset_of(bpf_arena_alloc_pages(&arena, AT(30 * PAGE_SIZE + 8), 1, -1, 0));
	// Outside the window, on both sides and across its end.
	ctx->out[3] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(-1), 1, -1, 0));
	ctx->out[4] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(ARENA_PAGES), 1, -1, 0));
	ctx->out[5] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(ARENA_PAGES - 1), 2, -1, 0));
	return 0;
}

// Requests that make no sense.
SEC("syscall")
int alloc_errors(struct arena_ctx *ctx)
{
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, NULL, 0, -1, 0));
	ctx->out[1] = offset_of(bpf_arena_alloc_pages(&arena, NULL, 1, -1, 1));
	ctx->out[2] = offset_of(bpf_arena_alloc_pages(&arena, NULL, ARENA_PAGES + 1, -1, 0));
	ctx->out[3] = offset_of(bpf_arena_alloc_pages(&arena, NULL, 1, 1 << 20, 0));
	return 0;
}

// Freed pages can be had again, and are zero again.
SEC("syscall")
int free_and_realloc(struct arena_ctx *ctx)
{
	u64 __arena *old = bpf_arena_alloc_pages(&arena, PAGE(40), 3, -1, 0);
	u64 __arena *new;

	if (!old)
		return 1;
	old[WORDS_PER_PAGE] = 77;
	// The middle one, by an address inside it.
	bpf_arena_free_pages(&arena, (u8 __arena *)old + PAGE_SIZE + 100, 1);
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(40), 1, -1, 0));
	ctx->out[1] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(42), 1, -1, 0));
	new = bpf_arena_alloc_pages(&arena, PAGE(41), 1, -1, 0);
	ctx->out[2] = offset_of(new);
	if (!new)
		return 2;
	ctx->out[3] = new[0];
	return 0;
}

// Frees that reach past the window, lie outside it, or were done before.
SEC("syscall")
int free_oddly(struct arena_ctx *ctx)
{
	bpf_arena_free_pages(&arena, PAGE(50), 1);
	bpf_arena_free_pages(&arena, PAGE(ARENA_PAGES), 1);
	bpf_arena_free_pages(&arena, PAGE(-1), 1);
	bpf_arena_free_pages(&arena, PAGE(50), 0);
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(50), 1, -1, 0));
	// Only the low 32 bits of the address count.
	bpf_arena_free_pages(&arena, (void __arena *)(50ULL * PAGE_SIZE), 1);
	ctx->out[1] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(50), 1, -1, 0));
	return 0;
}

// A reserved range cannot be allocated until it is freed.
SEC("syscall")
int reserve(struct arena_ctx *ctx)
{
	ctx->out[0] = bpf_arena_reserve_pages(&arena, PAGE(54), 2);
	ctx->out[1] = bpf_arena_reserve_pages(&arena, PAGE(55), 2);
	ctx->out[2] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(54), 1, -1, 0));
	ctx->out[3] = bpf_arena_reserve_pages(&arena, PAGE(ARENA_PAGES), 1);
	ctx->out[4] = bpf_arena_reserve_pages(&arena, PAGE(ARENA_PAGES - 1), 2);
	ctx->out[5] = bpf_arena_reserve_pages(&arena, PAGE(54), 0);
	bpf_arena_free_pages(&arena, PAGE(54), 2);
	ctx->out[6] = offset_of(bpf_arena_alloc_pages(&arena, PAGE(54), 1, -1, 0));
	return 0;
}

// One page at a time until there is no more; the number is what was left.
SEC("syscall")
int alloc_until_full(struct arena_ctx *ctx)
{
	u64 nr_pages = 0;
	u64 offsets = 0;

	while (nr_pages <= ARENA_PAGES && can_loop) {
		u64 __arena *page = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);

		if (!page)
			break;
		nr_pages++;
		// The order in which pages are given out, as one number.
		offsets = offsets * 31 + offset_of(page) / PAGE_SIZE;
	}
	ctx->out[0] = nr_pages;
	ctx->out[1] = offsets;
	return 0;
}
