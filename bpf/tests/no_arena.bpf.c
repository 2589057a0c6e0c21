// SPDX-License-Identifier: MIT OR Apache-2.0
//
// no_arena: a cid-form scheduler without an arena, which registration refuses.
#include "scx.h"

char _license[] SEC("license") = "GPL";

void BPF_STRUCT_OPS(no_arena_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

SCX_OPS_CID_DEFINE(no_arena_ops,
		   .enqueue = (void *)no_arena_enqueue,
		   .name = "no_arena");
