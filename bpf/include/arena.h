// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Arena pointers. `__arena` is LLVM's address space 1: the compiler puts an `addr_space_cast`
// before each access through such a pointer, and the engine turns the access into "arena base + low
// 32 bits". A global marked `__arena` lives in the arena itself (section `.addr_space.1`).
//
// An arena pointer is never trusted and never checked: a load from an empty page gives 0, a store
// to it is dropped, and both are reported on the program's stderr stream.
#pragma once

#include "bpf_core.h"

#define __arena __attribute__((address_space(1)))
#define __arena_global __attribute__((address_space(1)))
#define PAGE_SIZE 4096

void __arena *bpf_arena_alloc_pages(void *map, void __arena *addr, u32 page_cnt, int node_id,
				    u64 flags) __ksym __weak;
void bpf_arena_free_pages(void *map, void __arena *ptr, u32 page_cnt) __ksym __weak;
int bpf_arena_reserve_pages(void *map, void __arena *ptr, u32 page_cnt) __ksym __weak;
