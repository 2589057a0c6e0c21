// SPDX-License-Identifier: MIT OR Apache-2.0
//
// link_callbacks: fifo.bpf.c without its table, which is in link_table.bpf.o.
#include "scx.h"

#undef SCX_OPS_DEFINE
#define SCX_OPS_DEFINE(...)

#include "../fifo.bpf.c"
