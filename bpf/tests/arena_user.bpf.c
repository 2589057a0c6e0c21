// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_user: memory shared with the user side, which may touch a page first: that allocates it,
// for the program too.
#include "arena_test.h"

// Reads and writes the word at the offset in[0].
SEC("syscall")
int exchange(struct arena_ctx *ctx)
{
	volatile u64 __arena *word = AT(ctx->in[0]);

	use_arena(arena);
	ctx->out[0] = *word;
	*word = ctx->in[1];
	ctx->out[1] = *word;
	return 0;
}

// A page the user touched is taken.
SEC("syscall")
int alloc_page(struct arena_ctx *ctx)
{
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, AT(ctx->in[0]), 1, -1, 0));
	return 0;
}

// Takes pages away from both sides.
SEC("syscall")
int free_page(struct arena_ctx *ctx)
{
	bpf_arena_free_pages(&arena, AT(ctx->in[0]), 1);
	return 0;
}

// The lowest free page, which tells what the user has taken.
SEC("syscall")
int alloc_any(struct arena_ctx *ctx)
{
	ctx->out[0] = offset_of(bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0));
	return 0;
}
