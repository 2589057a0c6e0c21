// SPDX-License-Identifier: MIT OR Apache-2.0
//
// jump_tables: programs whose `switch` statements become jump tables and `gotox`, the one source
// that is compiled with them: in a program, in a function of another section that two programs
// call, and two in one function. What each computes, its test computes too.
#include "scx.h"

char _license[] SEC("license") = "GPL";

struct jump_ctx {
	u64 in[4];
	u64 out[12];
};

// What a compiler cannot turn into arithmetic or into a table of numbers.
#define STEP(n, change) \
	case n:         \
		change; \
		ctx->out[n % 5] += n; \
		break;

static __noinline u64 turn(struct jump_ctx *ctx, u64 which, u64 value)
{
	switch (which) {
		STEP(0, value += 11)
		STEP(1, value *= 3)
		STEP(2, value ^= 0x5555)
		STEP(3, value -= 7)
		STEP(4, value <<= 2)
		STEP(5, value >>= 1)
		STEP(6, value |= 0x100)
		STEP(7, value = -value)
	default:
		return value + 1000;
	}
	return value;
}

SEC("syscall") int once(struct jump_ctx *ctx)
{
	ctx->out[8] = turn(ctx, ctx->in[0], ctx->in[1]);
	return 0;
}

SEC("syscall") int often(struct jump_ctx *ctx)
{
	u64 value = ctx->in[1];

	for (u32 round = 0; round < 20; round++) {
		switch (value % 9) {
			STEP(0, value += 5)
			STEP(1, value *= 7)
			STEP(2, value ^= ctx->in[2])
			STEP(3, value += ctx->in[3])
			STEP(4, value -= 1)
			STEP(5, value = turn(ctx, value % 16, value))
			STEP(6, value >>= 3)
			STEP(7, value ^= value << 5)
		default:
			value += round;
		}
		switch (ctx->out[round % 5] % 8) {
			STEP(0, value ^= 1)
			STEP(1, value += 2)
			STEP(2, value ^= 4)
			STEP(3, value += 8)
			STEP(4, value ^= 16)
			STEP(5, value += 32)
			STEP(6, value ^= 64)
		}
	}
	ctx->out[8] = value;
	return 0;
}
