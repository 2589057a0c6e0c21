// SPDX-License-Identifier: MIT OR Apache-2.0
//
// link_whole: link_main and link_lib compiled as one file, to compare with.
#define LINK_WHOLE
// Both have a static variable of this name.
#define counter lib_counter
#define counter_step lib_counter_step
#include "link_lib.bpf.c"
#undef counter
#undef counter_step
#include "link_main.bpf.c"
