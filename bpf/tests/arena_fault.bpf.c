// SPDX-License-Identifier: MIT OR Apache-2.0
//
// arena_fault: a program's own accesses to arena pages that are not there. A load gives 0, a store
// is dropped whole, and the program goes on; an atomic leaves its operand as it was.
#include "arena_test.h"

#define EMPTY PAGE(8)

SEC("syscall")
int load_empty(struct arena_ctx *ctx)
{
	volatile u64 __arena *p = EMPTY;

	use_arena(arena);
	ctx->out[0] = p[0];
	ctx->out[1] = *(volatile u32 __arena *)&p[1];
	ctx->out[2] = *(volatile u16 __arena *)&p[2];
	ctx->out[3] = *(volatile u8 __arena *)&p[3];
	ctx->out[4] = *(volatile s32 __arena *)&p[4];
	ctx->out[5] = *(volatile s16 __arena *)&p[5];
	ctx->out[6] = *(volatile s8 __arena *)&p[6];
	// The last bytes of the page, and the first of the arena's last page but one.
	ctx->out[7] = p[WORDS_PER_PAGE - 1];
	ctx->out[8] = *(volatile u64 __arena *)PAGE(ARENA_PAGES - 2);
	return 0;
}

// No page comes into being: the page can be allocated afterwards, and is zero.
SEC("syscall")
int store_empty(struct arena_ctx *ctx)
{
	volatile u64 __arena *p = EMPTY;
	u64 __arena *page;

	p[0] = ctx->in[0];
	*(volatile u32 __arena *)&p[1] = 1;
	*(volatile u16 __arena *)&p[2] = 2;
	*(volatile u8 __arena *)&p[3] = 3;
	ctx->out[0] = p[0];
	page = bpf_arena_alloc_pages(&arena, EMPTY, 1, -1, 0);
	ctx->out[1] = offset_of(page);
	if (!page)
		return 1;
	ctx->out[2] = page[0] | page[1] | page[2] | page[3];
	page[0] = ctx->in[0];
	ctx->out[3] = page[0];
	bpf_arena_free_pages(&arena, page, 1);
	ctx->out[4] = p[0];
	return 0;
}

// Atomics of 64 bits, in assembly where that shows what a fault leaves in the registers.
SEC("syscall")
int atomic64_empty(struct arena_ctx *ctx)
{
	u64 __arena *p = EMPTY;
	// Inline assembly wants the form of the pointer that accesses use.
	u64 *host = (u64 *)p;
	u64 value;

	use_arena(arena);
	__sync_fetch_and_add(p, 1);
	value = 5;
	asm volatile("%[v] = atomic_fetch_add((u64 *)(%[p] + 0), %[v])"
		     : [v] "+r"(value)
		     : [p] "r"(host)
		     : "memory");
	ctx->out[0] = value;
	value = 7;
	asm volatile("%[v] = xchg_64(%[p] + 0, %[v])"
		     : [v] "+r"(value)
		     : [p] "r"(host)
		     : "memory");
	ctx->out[1] = value;
	// Looks successful: r0 keeps the expected value.
	ctx->out[2] = __sync_val_compare_and_swap(p, 8, 9);
	ctx->out[3] = *(volatile u64 __arena *)p;
	return 0;
}

SEC("syscall")
int atomic32_empty(struct arena_ctx *ctx)
{
	u32 __arena *p = (u32 __arena *)EMPTY;
	u32 *host = (u32 *)p;
	u32 value;

	use_arena(arena);
	__sync_fetch_and_add(p, 1);
	value = 5;
	asm volatile("%[v] = atomic_fetch_add((u32 *)(%[p] + 0), %[v])"
		     : [v] "+w"(value)
		     : [p] "r"(host)
		     : "memory");
	ctx->out[0] = value;
	ctx->out[1] = __sync_val_compare_and_swap(p, 8, 9);
	return 0;
}

SEC("syscall")
int atomics_present(struct arena_ctx *ctx)
{
	u64 __arena *p = bpf_arena_alloc_pages(&arena, PAGE(10), 1, -1, 0);

	if (!p)
		return 1;
	ctx->out[0] = __sync_fetch_and_add(p, 5);
	ctx->out[1] = __sync_lock_test_and_set(p, 0x1234567890abcdef);
	ctx->out[2] = __sync_val_compare_and_swap(p, 0x1234567890abcdef, 9);
	ctx->out[3] = __sync_val_compare_and_swap(p, 1, 2);
	ctx->out[4] = *p;
	p[1] = 0xffffffffffffffff;
	ctx->out[5] = __sync_fetch_and_add((u32 __arena *)&p[1], 2);
	ctx->out[6] = p[1];
	// Without a result they are other instructions.
	__atomic_fetch_or(&p[2], 0xf0, __ATOMIC_RELAXED);
	__atomic_fetch_and(&p[2], 0x3c, __ATOMIC_RELAXED);
	__atomic_fetch_xor(&p[2], 0x11, __ATOMIC_RELAXED);
	__atomic_fetch_add(&p[2], 1, __ATOMIC_RELAXED);
	ctx->out[7] = p[2];
	bpf_arena_free_pages(&arena, p, 1);
	return 0;
}

// The fetching bit operations, which not every kernel's JIT accepts on arena memory.
SEC("syscall")
int fetch_bits(struct arena_ctx *ctx)
{
	u64 __arena *p = bpf_arena_alloc_pages(&arena, PAGE(10), 1, -1, 0);
	u64 *host = (u64 *)EMPTY;
	u64 value = 6;

	if (!p)
		return 1;
	ctx->out[0] = __sync_fetch_and_or(p, 0x30);
	ctx->out[1] = __sync_fetch_and_and(p, 0x21);
	ctx->out[2] = __sync_fetch_and_xor(p, 0x101);
	ctx->out[3] = *p;
	asm volatile("%[v] = atomic_fetch_or((u64 *)(%[p] + 0), %[v])"
		     : [v] "+r"(value)
		     : [p] "r"(host)
		     : "memory");
	ctx->out[4] = value;
	bpf_arena_free_pages(&arena, p, 1);
	return 0;
}

// Eight bytes of which four lie in a page that is there and four in one that is not.
SEC("syscall")
int straddle(struct arena_ctx *ctx)
{
	u8 __arena *page = bpf_arena_alloc_pages(&arena, PAGE(12), 1, -1, 0);
	u64 __arena *across;

	if (!page)
		return 1;
	across = (u64 __arena *)(page + PAGE_SIZE - 4);
	*(u32 __arena *)across = 0xabcdef01;
	opaque(across);
	ctx->out[0] = *(volatile u64 __arena *)across;
	*(volatile u64 __arena *)across = ctx->in[0];
	ctx->out[1] = *(volatile u32 __arena *)across;
	// And from the empty page below into the good one.
	*(u32 __arena *)page = 0x12345678;
	across = (u64 __arena *)(page - 4);
	opaque(across);
	ctx->out[2] = *(volatile u64 __arena *)across;
	*(volatile u64 __arena *)across = ctx->in[0];
	ctx->out[3] = *(volatile u32 __arena *)page;
	return 0;
}

// Only the low 32 bits of an address count, so a pointer far outside the window may be good, and
// one past the arena's end meets an empty page like any other.
SEC("syscall")
int outside(struct arena_ctx *ctx)
{
	u64 __arena *page = bpf_arena_alloc_pages(&arena, PAGE(14), 1, -1, 0);
	u64 __arena *alias = (u64 __arena *)(14ULL * PAGE_SIZE + (7ULL << 32));

	if (!page)
		return 1;
	page[3] = ctx->in[0];
	opaque(alias);
	ctx->out[0] = alias[3];
	alias[4] = ctx->in[1];
	ctx->out[1] = page[4];
	ctx->out[2] = *(volatile u64 __arena *)PAGE(ARENA_PAGES);
	*(volatile u64 __arena *)PAGE(ARENA_PAGES + 100) = 1;
	ctx->out[3] = *(volatile u64 __arena *)AT(0xfffffff0);
	return 0;
}
