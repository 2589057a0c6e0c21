// SPDX-License-Identifier: MIT OR Apache-2.0
//
// context: inserts a task from ops.running, where no task may be inserted.
#include "scx.h"

char _license[] SEC("license") = "GPL";

void BPF_STRUCT_OPS(context_running, struct task_struct *p)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, 0);
}

SCX_OPS_DEFINE(context_ops,
	       .running = (void *)context_running,
	       .name = "context");
