// SPDX-License-Identifier: MIT OR Apache-2.0
//
// programs_arena: the benchmark's eight loops over memory of an arena, and two of accesses alone.
// Each is a function of its own, which a verifier checks once, and a program that calls it as often
// as its context says.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define ARENA_PAGES 64
ARENA(arena, ARENA_PAGES);

struct rounds_ctx {
	u64 rounds;
	// What the last call returned.
	u64 result;
};

#define BUFFER_BYTES 16384
u8 __arena buffer[BUFFER_BYTES];

#define MEM __arena
#define PROGRAM(name, mem) \
	static __always_inline u64 name##_in(u8 __arena *mem); \
	__attribute__((noinline, no_builtin)) u64 name##_once(void) \
	{ \
		return name##_in(buffer); \
	} \
	SEC("syscall") int name(struct rounds_ctx *ctx) \
	{ \
		for (u64 round = 0; round < ctx->rounds && can_loop; round++) \
			ctx->result = name##_once(); \
		return 0; \
	} \
	static __always_inline __attribute__((no_builtin)) u64 name##_in(u8 __arena *mem)

#include "programs.h"

// Loads and stores alone, of each word of the buffer. With eight accesses a round little of the
// time is the loop's.
#define WORDS (BUFFER_BYTES / 8)

PROGRAM(loads, mem)
{
	u64 __arena *words = (u64 __arena *)mem;
	u64 sum = 0;

	for (u32 i = 0; i < WORDS; i += 8) {
		sum += words[i];
		sum += words[i + 1];
		sum += words[i + 2];
		sum += words[i + 3];
		sum += words[i + 4];
		sum += words[i + 5];
		sum += words[i + 6];
		sum += words[i + 7];
	}
	return sum;
}

PROGRAM(stores, mem)
{
	u64 __arena *words = (u64 __arena *)mem;

	for (u32 i = 0; i < WORDS; i += 8) {
		words[i] = i;
		words[i + 1] = i;
		words[i + 2] = i;
		words[i + 3] = i;
		words[i + 4] = i;
		words[i + 5] = i;
		words[i + 6] = i;
		words[i + 7] = i;
	}
	return words[WORDS - 1];
}
