// SPDX-License-Identifier: MIT OR Apache-2.0
//
// programs_arena: the benchmark's eight loops over memory of an arena. Each is a function of its
// own, which a verifier checks once, and a program that calls it as often as its context says.
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

// What a call costs.
PROGRAM(empty, mem)
{
	return 0;
}
