// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_cast: casts between the two forms of an arena pointer, globals that live in the arena, and
// pointers kept in arena memory.
#include "arena_test.h"

struct link {
	struct link __arena *next;
	u64 value;
};

u64 __arena zeroed[4];
u64 __arena initialised[4] = {11, 22, 33, 44};
struct link __arena *__arena head;

// A cast to the user's form restores the high half; NULL stays NULL.
SEC("syscall")
int casts(struct arena_ctx *ctx)
{
	u64 __arena *page = bpf_arena_alloc_pages(&arena, PAGE(5), 1, -1, 0);
	void __arena *null = NULL;
	void *as_host;

	if (!page)
		return 1;
	// What the program computes with is the user's address.
	ctx->out[0] = (u64)page;
	// The other form is only good for comparing offsets: take its low half.
	as_host = (void *)page;
	opaque(as_host);
	ctx->out[1] = (u32)(u64)as_host;
	ctx->out[2] = (u64)(u64 __arena *)as_host;
	opaque(null);
	ctx->out[3] = (u64)null;
	return 0;
}

SEC("syscall")
int globals(struct arena_ctx *ctx)
{
	ctx->out[0] = zeroed[0] | zeroed[1] | zeroed[2] | zeroed[3];
	ctx->out[1] = initialised[0] + initialised[1] + initialised[2] + initialised[3];
	zeroed[ctx->in[0] & 3] = ctx->in[1];
	initialised[1] += 1;
	ctx->out[2] = zeroed[2];
	ctx->out[3] = offset_of(&zeroed[0]) / PAGE_SIZE;
	return 0;
}

// A list that the user side can follow, for the pointers in it are user addresses.
SEC("syscall")
int build_list(struct arena_ctx *ctx)
{
	struct link __arena *nodes = bpf_arena_alloc_pages(&arena, PAGE(6), 1, -1, 0);

	if (!nodes)
		return 1;
	for (u32 i = 0; i < 10 && can_loop; i++) {
		nodes[i].value = i * i;
		nodes[i].next = head;
		head = &nodes[i];
	}
	ctx->out[0] = (u64)head;
	return 0;
}

SEC("syscall")
int sum_list(struct arena_ctx *ctx)
{
	u64 sum = 0;
	u64 nr_nodes = 0;

	for (struct link __arena *node = head; node && can_loop; node = node->next) {
		sum += node->value;
		nr_nodes++;
	}
	ctx->out[0] = sum;
	ctx->out[1] = nr_nodes;
	return 0;
}

// What the verifier lets a program read of the map itself.
SEC("syscall")
int arena_fields(struct arena_ctx *ctx)
{
	struct bpf_arena *map = (struct bpf_arena *)&arena;

	ctx->out[0] = map->user_vm_start;
	ctx->out[1] = map->user_vm_end;
	ctx->out[2] = map->map.max_entries;
	return 0;
}
