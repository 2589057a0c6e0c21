// SPDX-License-Identifier: MIT OR Apache-2.0
//
// cmask: keeps the last cmask that the core handed over, and where it lay.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define NR_WORDS 4

// Frees the page in which the core keeps its cmasks, which is not ours to free.
const volatile bool free_it = false;

ARENA(arena, 64);

struct seen {
	u64 nr_calls;
	u64 address;
	u32 base;
	u32 nr_cids;
	u32 alloc_words;
	s32 pid;
	u64 words[NR_WORDS];
};

struct seen __arena seen;

void BPF_STRUCT_OPS(cmask_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

void BPF_STRUCT_OPS(cmask_set_cmask, struct task_struct *p, const struct scx_cmask *arena_addr)
{
	const struct scx_cmask __arena *cmask = (const struct scx_cmask __arena *)(u64)arena_addr;

	seen.nr_calls++;
	seen.address = (u64)arena_addr;
	seen.base = cmask->base;
	seen.nr_cids = cmask->nr_cids;
	seen.alloc_words = cmask->alloc_words;
	seen.pid = p->pid;
	for (u32 i = 0; i < NR_WORDS && i < cmask->alloc_words && can_loop; i++)
		seen.words[i] = cmask->bits[i];
	if (free_it)
		bpf_arena_free_pages(&arena, (void __arena *)cmask, 1);
}

SCX_OPS_CID_DEFINE(cmask_ops,
		   .enqueue = (void *)cmask_enqueue,
		   .set_cmask = (void *)cmask_set_cmask,
		   .name = "cmask");
