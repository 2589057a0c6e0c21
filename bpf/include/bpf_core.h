// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What every BPF program needs: sections, map definitions, helpers and loops.
#pragma once

#include "vmlinux.h"

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __hidden __attribute__((visibility("hidden")))
#define __weak __attribute__((weak))
#define __ksym __attribute__((section(".ksyms")))
#define NULL ((void *)0)

// A map definition is a struct whose member *types* carry the numbers: the loader reads them from
// BTF. A number is the length of an array, a u64 the length of two.
#define __uint(name, value) int(*name)[value]
#define __ulong(name, value) enum { ___map_##name = (value) } name
#define __type(name, value) typeof(value) *name

// True if the kernel has this (weak) kfunc; the loader turns a missing one into address 0.
#define bpf_ksym_exists(sym) (!!(void *)(sym))
#define bpf_core_field_exists(field) __builtin_preserve_field_info(field, 2)

// Helpers are called by number: clang turns a call through a constant pointer into `call imm`.
static void *(*const bpf_task_storage_get)(void *map, struct task_struct *task, void *value,
					   u64 flags) = (void *)156;
static long (*const bpf_trace_printk)(const char *fmt, u32 fmt_size, ...) = (void *)6;
static long (*const bpf_probe_read_kernel_str)(void *dst, u32 size,
					       const void *unsafe) = (void *)115;

// A loop the verifier need not count: `may_goto` leaves it when the kernel's budget is spent.
#define can_loop                                                                                   \
	({                                                                                         \
		__label__ spent, done;                                                             \
		bool go_on = true;                                                                 \
		asm volatile goto("may_goto %l[spent]" : : : : spent);                             \
		goto done;                                                                         \
	spent:                                                                                     \
		go_on = false;                                                                     \
	done:;                                                                                     \
		go_on;                                                                             \
	})

// A struct_ops program gets its arguments as an array of u64. BPF_PROG(name, args...) begins a
// function that has them as ordinary parameters, and the entry point that unpacks the array.
#define ___ctx_0() ctx
#define ___ctx_1() ctx, ctx[0]
#define ___ctx_2() ctx, ctx[0], ctx[1]
#define ___ctx_3() ctx, ctx[0], ctx[1], ctx[2]
#define ___ctx_4() ctx, ctx[0], ctx[1], ctx[2], ctx[3]
#define ___pick_ctx(_0, _1, _2, _3, _4, pick, ...) pick
#define ___unpack(...)                                                                             \
	___pick_ctx(_, ##__VA_ARGS__, ___ctx_4, ___ctx_3, ___ctx_2, ___ctx_1, ___ctx_0)()

#define BPF_PROG(name, ...)                                                                        \
	name(u64 *ctx);                                                                            \
	static __always_inline typeof(name(0)) name##_body(u64 *ctx, ##__VA_ARGS__);               \
	typeof(name(0)) name(u64 *ctx)                                                             \
	{                                                                                          \
		_Pragma("clang diagnostic push");                                                  \
		_Pragma("clang diagnostic ignored \"-Wint-conversion\"");                          \
		return name##_body(___unpack(__VA_ARGS__));                                        \
		_Pragma("clang diagnostic pop");                                                   \
	}                                                                                          \
	static __always_inline typeof(name(0)) name##_body(u64 *ctx, ##__VA_ARGS__)
