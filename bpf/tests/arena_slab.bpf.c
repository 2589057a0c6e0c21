// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_slab: small objects, and frees that are refused. These kfuncs are younger than the kernels
// that the other arena tests are compared with.
#include "arena_test.h"
#include "arena_objects.h"

struct list_item {
	struct list_item __arena *next;
	u64 value;
};

// A list of as many nodes as the first word says; the sum of its values.
SEC("syscall")
int build_list(struct arena_ctx *ctx)
{
	struct list_item __arena *head = NULL, *node;
	u64 sum = 0;
	u32 i;

	for (i = 0; i < ctx->in[0]; i++) {
		node = bpf_arena_alloc(&arena, sizeof(*node));
		if (!node)
			return 1;
		node->value = i;
		node->next = head;
		head = node;
	}
	ctx->out[0] = offset_of(head);
	node = head;
	for (i = 0; i < ctx->in[0]; i++) {
		if (!node)
			return 2;
		sum += node->value;
		node = node->next;
	}
	ctx->out[1] = sum;
	for (i = 0; i < ctx->in[0]; i++) {
		node = head->next;
		bpf_arena_free(&arena, head);
		head = node;
	}
	return 0;
}

// Each class is aligned to its size, and the sizes beyond to pages.
SEC("syscall")
int sizes(struct arena_ctx *ctx)
{
	ctx->out[0] = offset_of(bpf_arena_alloc(&arena, 1)) % 8;
	ctx->out[1] = offset_of(bpf_arena_alloc(&arena, 100)) % 128;
	ctx->out[2] = offset_of(bpf_arena_alloc(&arena, 4096)) % 4096;
	ctx->out[3] = offset_of(bpf_arena_alloc(&arena, 10000)) % 4096;
	ctx->out[4] = offset_of(bpf_arena_alloc(&arena, 0));
	ctx->out[5] = offset_of(bpf_arena_alloc(&arena, ARENA_PAGES * PAGE_SIZE + 1));
	return 0;
}

// Frees that are refused: inside an object, twice, of a page, of nothing, of another arena.
SEC("syscall")
int bad_frees(struct arena_ctx *ctx)
{
	u64 __arena *object = bpf_arena_alloc(&arena, 64);
	u64 __arena *page = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);

	if (!object || !page)
		return 1;
	object[1] = 7;
	bpf_arena_free(&arena, object + 1);
	bpf_arena_free(&arena, page);
	bpf_arena_free(&arena, PAGE(50));
	bpf_arena_free(&arena, (void __arena *)(ARENA_USER_BASE + (1ULL << 32)));
	ctx->out[0] = object[1];
	bpf_arena_free(&arena, NULL);
	bpf_arena_free(&arena, object);
	bpf_arena_free(&arena, object);
	return 0;
}

// Page free leaves objects alone.
SEC("syscall")
int page_free(struct arena_ctx *ctx)
{
	u64 __arena *object = bpf_arena_alloc(&arena, 64);

	if (!object)
		return 1;
	object[1] = 7;
	bpf_arena_free_pages(&arena, PAGE(0), ARENA_PAGES - 1);
	ctx->out[0] = object[1];
	bpf_arena_free(&arena, object);
	return 0;
}
