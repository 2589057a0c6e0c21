// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Masks over cids, in the arena.
//
// cids are dense and ordered by topology: neighbours share a core, then a last-level cache, then a
// node. So "the next set bit after prev_cid" is also "the nearest CPU", give or take the wrap.
//
// Words are aligned to the global grid of 64 cids, not to `base`; bits outside
// [base, base + nr_cids) stay zero.
#pragma once

#include "arena.h"

#define CMASK_NR_WORDS(nr_cids) ((u32)(((u64)(nr_cids) + 63) / 64 + 1))

static __always_inline bool cmask_has(u32 cid, const struct scx_cmask __arena *m)
{
	return cid - m->base < m->nr_cids;
}

static __always_inline u64 __arena *cmask_word_of(u32 cid, const struct scx_cmask __arena *m)
{
	return (u64 __arena *)&m->bits[cid / 64 - m->base / 64];
}

static __always_inline void cmask_init(struct scx_cmask __arena *m, u32 base, u32 nr_cids)
{
	m->base = base;
	m->nr_cids = nr_cids;
	m->alloc_words = CMASK_NR_WORDS(nr_cids);
	for (u32 i = 0; i < m->alloc_words && can_loop; i++)
		m->bits[i] = 0;
}

static __always_inline bool cmask_test(u32 cid, const struct scx_cmask __arena *m)
{
	return cmask_has(cid, m) && (*cmask_word_of(cid, m) >> (cid % 64) & 1);
}

// For a mask that nobody else sees yet.
static __always_inline void __cmask_set(u32 cid, struct scx_cmask __arena *m)
{
	if (cmask_has(cid, m))
		*cmask_word_of(cid, m) |= 1ULL << (cid % 64);
}

// Changes the bit of `cid`, which the mask has, and tells what it was. A compare-and-swap rather
// than a fetching `or`, which not every kernel's JIT accepts on arena memory.
static __always_inline bool cmask_change(u32 cid, struct scx_cmask __arena *m, bool to)
{
	u64 __arena *word = cmask_word_of(cid, m);
	u64 bit = 1ULL << (cid % 64);

	while (can_loop) {
		u64 old = *word;

		if (!!(old & bit) == to)
			break;
		if (__sync_val_compare_and_swap(word, old, old ^ bit) == old)
			return !to;
	}
	return to;
}

static __always_inline void cmask_set(u32 cid, struct scx_cmask __arena *m)
{
	if (cmask_has(cid, m))
		cmask_change(cid, m, true);
}

static __always_inline void cmask_clear(u32 cid, struct scx_cmask __arena *m)
{
	if (cmask_has(cid, m))
		cmask_change(cid, m, false);
}

// True for exactly one of several CPUs that race to take the bit.
static __always_inline bool cmask_test_and_clear(u32 cid, struct scx_cmask __arena *m)
{
	return cmask_has(cid, m) && cmask_change(cid, m, false);
}

// One past the last cid of the mask.
static __always_inline u32 cmask_end(const struct scx_cmask __arena *m)
{
	return m->base + m->nr_cids;
}

// The first cid at or after `start` that both masks have set, or else `a`'s end. Word by word, so
// that it is quick on a large machine.
static __always_inline u32 cmask_next_and_set(const struct scx_cmask __arena *a,
					      const struct scx_cmask __arena *b, u32 start)
{
	u32 end = cmask_end(a) < cmask_end(b) ? cmask_end(a) : cmask_end(b);

	if (start < a->base)
		start = a->base;
	if (start < b->base)
		start = b->base;
	while (start < end && can_loop) {
		// Bits before `start` go out on the right, so the first one left is the nearest.
		u64 both = (*cmask_word_of(start, a) & *cmask_word_of(start, b)) >> (start % 64);

		if (both)
			return start + __builtin_ctzll(both);
		start = (start / 64 + 1) * 64;
	}
	return cmask_end(a);
}

// The same, going on from the beginning when there is none after `start`.
static __always_inline u32 cmask_next_and_set_wrap(const struct scx_cmask __arena *a,
						   const struct scx_cmask __arena *b, u32 start)
{
	u32 found = cmask_next_and_set(a, b, start);

	return found < cmask_end(a) ? found : cmask_next_and_set(a, b, a->base);
}
