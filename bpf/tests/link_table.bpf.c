// SPDX-License-Identifier: MIT OR Apache-2.0
//
// link_table: the table of fifo.bpf.c, whose callbacks are in link_callbacks.bpf.o.
#include "scx.h"

char _license[] SEC("license") = "GPL";

s32 fifo_select_cpu(u64 *ctx);
void fifo_enqueue(u64 *ctx);
void fifo_dispatch(u64 *ctx);
s32 fifo_init(u64 *ctx);
void fifo_exit(u64 *ctx);

SCX_OPS_DEFINE(fifo_ops,
	       .select_cpu = (void *)fifo_select_cpu,
	       .enqueue = (void *)fifo_enqueue,
	       .dispatch = (void *)fifo_dispatch,
	       .init = (void *)fifo_init,
	       .exit = (void *)fifo_exit,
	       .name = "fifo");
