// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Small objects in an arena: 8 to 4096 bytes in powers of two, larger ones by the page. Both kfuncs
// may be called from any context. They are younger than the headers that the scx project publishes,
// so they are declared apart; include this after `scx.h`.
#pragma once

void __arena *bpf_arena_alloc(void *map, u32 size) __ksym __weak;
void bpf_arena_free(void *map, void __arena *ptr) __ksym __weak;
