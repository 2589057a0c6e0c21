// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Two kfuncs that only harena has. They take an arena pointer and use it unchecked, as a kernel's
// own kfuncs do since arenas can recover from a host's faults. They are weak, so that a program
// which uses them still loads elsewhere: ask `bpf_ksym_exists` first.
#pragma once

#include "scx.h"

// The sum of `nr_words` words.
u64 harena_arena_sum(const u64 __arena *ptr__arena, u32 nr_words) __ksym __weak;

// Writes `value` to `nr_words` words.
void harena_arena_fill(u64 __arena *ptr__arena, u32 nr_words, u64 value) __ksym __weak;
