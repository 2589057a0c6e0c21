// SPDX-License-Identifier: MIT OR Apache-2.0
//
// wild: a scheduler that is broken on purpose. It schedules like fifo, and besides touches arena
// memory that is not there, in each of the ways a real scheduler might by mistake:
//
//   wild_loads     follows a pointer into a page it freed           the load gives 0
//   wild_stores    writes past the end of what it allocated         the store is dropped
//   wild_atomics   counts in the freed page                         nothing is counted
//   wild_straddle  writes across the end of the last good page      the whole store is dropped
//   wild_kfuncs    hands kfuncs pointers to pages it never had      they meet the scratch page
//   wild_error     gives up with scx_bpf_error after `error_after`  the scheduler is ejected
//
// Every one of them is reported on the program's stderr stream, and none may hurt anybody else.
// Set them with `--set wild_error=1`.
#include "harena.h"

// Required for kfuncs; see fifo.bpf.c.
char _license[] SEC("license") = "GPL";

const volatile bool wild_loads = true;
const volatile bool wild_stores = true;
const volatile bool wild_atomics = true;
const volatile bool wild_straddle = true;
const volatile bool wild_kfuncs = true;
const volatile bool wild_error = false;
// Misbehave at every n-th enqueue.
const volatile u64 wild_every = 20;
const volatile u64 error_after = 100;
const volatile u64 slice_ns = SCX_SLICE_DFL_NS;

UEI_DEFINE(uei);

#define SHARED_DSQ 0
#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(u64))

ARENA(arena, 1024);

struct wild_stats {
	u64 nr_enqueued;
	u64 nr_loads;
	u64 nr_stores;
	u64 nr_atomics;
	u64 nr_straddles;
	u64 nr_kfuncs;
	// Loads from nowhere that gave something else than 0, and marks that changed: must stay 0.
	u64 nr_surprises;
};

struct wild_stats __arena stats;

// Two pages are allocated and the second is freed again: `kept` is good memory, `gone` is not.
// `never` was not allocated at all. It is another page than `gone`, for where a kfunc has been, the
// scratch page stays mapped, and the program's own accesses meet that.
u64 __arena *__arena kept;
u64 __arena *__arena gone;
u64 __arena *__arena never;

#define MARK 0x6b65707421ULL

static __always_inline void wild_load(u64 number)
{
	stats.nr_loads++;
	if (gone[number % WORDS_PER_PAGE])
		stats.nr_surprises++;
}

static __always_inline void wild_store(u64 number)
{
	stats.nr_stores++;
	// One element past the end, of which there are several.
	kept[WORDS_PER_PAGE + number % 8] = number;
}

static __always_inline void wild_atomic(u64 number)
{
	stats.nr_atomics++;
	__sync_fetch_and_add(&gone[number % WORDS_PER_PAGE], 1);
}

static __always_inline void wild_straddling_store(u64 number)
{
	u64 __arena *last = (u64 __arena *)((u8 __arena *)gone - 4);

	stats.nr_straddles++;
	*(volatile u64 __arena *)last = number;
	if (kept[WORDS_PER_PAGE - 1] != MARK)
		stats.nr_surprises++;
}

static __always_inline void wild_kfunc(u64 number)
{
	stats.nr_kfuncs++;
	// The host reads and writes the page itself, and finds the arena's scratch page there.
	if (bpf_ksym_exists(harena_arena_sum))
		harena_arena_sum(never + number % 8, 8);
	if (bpf_ksym_exists(harena_arena_fill))
		harena_arena_fill(never + WORDS_PER_PAGE, 8, number);
}

static __always_inline void misbehave(u64 number)
{
	if (wild_loads)
		wild_load(number);
	if (wild_stores)
		wild_store(number);
	if (wild_atomics)
		wild_atomic(number);
	if (wild_straddle)
		wild_straddling_store(number);
	if (wild_kfuncs)
		wild_kfunc(number);
}

void BPF_STRUCT_OPS(wild_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 number = __sync_fetch_and_add(&stats.nr_enqueued, 1) + 1;

	if (wild_every && number % wild_every == 0)
		misbehave(number);
	if (wild_error && number == error_after)
		scx_bpf_error("wild gives up after %llu enqueues", number);
	scx_bpf_dsq_insert(p, SHARED_DSQ, slice_ns, enq_flags);
	// An idle CPU would not look at the shared DSQ unasked. Wild, as usual, asks all of them.
	for (u32 cid = 0; cid < scx_bpf_nr_cids() && can_loop; cid++)
		scx_bpf_kick_cid(cid, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(wild_dispatch, s32 cid, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(wild_init)
{
	u64 __arena *pages = bpf_arena_alloc_pages(&arena, NULL, 2, -1, 0);

	if (!pages)
		return -ENOMEM;
	kept = pages;
	gone = pages + WORDS_PER_PAGE;
	never = pages + 16 * WORDS_PER_PAGE;
	kept[WORDS_PER_PAGE - 1] = MARK;
	bpf_arena_free_pages(&arena, gone, 1);
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(wild_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_CID_DEFINE(wild_ops,
		   .enqueue = (void *)wild_enqueue,
		   .dispatch = (void *)wild_dispatch,
		   .init = (void *)wild_init,
		   .exit = (void *)wild_exit,
		   .name = "wild");
