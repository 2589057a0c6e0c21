// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What the arena test programs share: an arena and a context.
//
// The programs are of type `syscall`: a test runs one with a context, and reads back the return
// value, the context and the arena's memory. They run in harena and, where that is possible, in a
// real kernel, and must do the same in both. Nothing here depends on where the host keeps the
// arena.
#pragma once

#include "scx.h"

// Required for kfuncs; see fifo.bpf.c.
char _license[] SEC("license") = "GPL";

// 64 pages, the last of which holds the arena's globals.
#define ARENA_PAGES 64
ARENA(arena, ARENA_PAGES);

#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(u64))

// An address inside the window, `offset` bytes from its start.
#define AT(offset) ((u64 __arena *)(ARENA_USER_BASE + (offset)))
#define PAGE(number) AT((u64)(number) * PAGE_SIZE)

// How far a user address is into the window; -1 for NULL.
static __always_inline u64 offset_of(void __arena *ptr)
{
	return ptr ? (u64)ptr - ARENA_USER_BASE : -1ULL;
}

struct arena_ctx {
	u64 in[4];
	u64 out[12];
};

// Makes the compiler forget what it knows about a value, so that it performs the access we test.
#define opaque(value) asm volatile("" : "+r"(value))
