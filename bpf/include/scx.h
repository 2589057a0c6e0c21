// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The one header a scheduler includes.
//
// It comes in two halves that offer the same names: ours, small enough to be read, and (with
// HARENA_SCX_HEADERS) the ones the scx project publishes, for people who build against those.
// A test compiles every scheduler both ways.
#pragma once

#ifdef HARENA_SCX_HEADERS

#include <scx/common.bpf.h>

#else

#include "bpf_core.h"
#include "arena.h"
#include "cmask.h"

// struct_ops programs that may sleep (init, init_task, exit) say so in their section's name.
#define BPF_STRUCT_OPS(name, ...) SEC("struct_ops/" #name) BPF_PROG(name, ##__VA_ARGS__)
#define BPF_STRUCT_OPS_SLEEPABLE(name, ...) SEC("struct_ops.s/" #name) BPF_PROG(name, ##__VA_ARGS__)

// The table of callbacks. The type's name chooses the form: plain CPUs or cids.
#define SCX_OPS_DEFINE(name, ...) SEC(".struct_ops.link") struct sched_ext_ops name = {__VA_ARGS__}
#define SCX_OPS_CID_DEFINE(name, ...)                                                              \
	SEC(".struct_ops.link") struct sched_ext_ops_cid name = {__VA_ARGS__}

// kfuncs of the sched_ext core. `___v2` picks one of the kernel's versions by its prototype; a last
// `___suffix` is not part of the name.
s32 scx_bpf_create_dsq(u64 dsq_id, s32 node) __ksym;
void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym;
bool __scx_bpf_dsq_insert_vtime(struct task_struct *p,
				struct scx_bpf_dsq_insert_vtime_args *args) __ksym;
bool scx_bpf_dsq_move_to_local___v2___compat(u64 dsq_id, u64 enq_flags) __ksym;
bool scx_bpf_task_set_slice(struct task_struct *p, u64 slice) __ksym;
s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev_cpu, u64 wake_flags,
			   bool *is_idle) __ksym;
s32 scx_bpf_pick_idle_cpu(const struct cpumask *allowed, u64 flags) __ksym;
void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
void scx_bpf_kick_cid(s32 cid, u64 flags) __ksym;
u32 scx_bpf_nr_cids(void) __ksym;
s32 scx_bpf_cid_to_cpu(s32 cid) __ksym;
s32 scx_bpf_task_cid(const struct task_struct *p) __ksym;
void scx_bpf_error_bstr(char *fmt, unsigned long long *data, u32 data__sz) __ksym;
void scx_bpf_exit_bstr(s64 exit_code, char *fmt, unsigned long long *data, u32 data__sz) __ksym;

struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
void bpf_task_release(struct task_struct *p) __ksym;
void bpf_rcu_read_lock(void) __ksym;
void bpf_rcu_read_unlock(void) __ksym;
bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *cpumask) __ksym;
int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

static __always_inline bool scx_bpf_dsq_move_to_local(u64 dsq_id, u64 enq_flags)
{
	return scx_bpf_dsq_move_to_local___v2___compat(dsq_id, enq_flags);
}

static __always_inline bool scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq_id, u64 slice,
						     u64 vtime, u64 enq_flags)
{
	struct scx_bpf_dsq_insert_vtime_args args = {
		.dsq_id = dsq_id,
		.slice = slice,
		.vtime = vtime,
		.enq_flags = enq_flags,
	};

	return __scx_bpf_dsq_insert_vtime(p, &args);
}

// Ends the scheduler with a message. The kernel reads the values from an array of u64, which must
// not be empty.
#define scx_bpf_error(fmt, ...)                                                                    \
	({                                                                                         \
		static char ___fmt[] = fmt;                                                        \
		unsigned long long ___args[] = {__VA_ARGS__ __VA_OPT__(, ) 0};                     \
		scx_bpf_error_bstr(___fmt, ___args, sizeof(___args));                              \
	})

// The same without an error: the scheduler leaves of its own accord, with a code.
#define scx_bpf_exit(code, fmt, ...)                                                               \
	({                                                                                         \
		static char ___fmt[] = fmt;                                                        \
		unsigned long long ___args[] = {__VA_ARGS__ __VA_OPT__(, ) 0};                     \
		scx_bpf_exit_bstr(code, ___fmt, ___args, sizeof(___args));                         \
	})

// What a user-space loader reads after the scheduler has gone: `kind` is written last.
struct user_exit_info {
	int kind;
	s32 exit_cpu;
	s64 exit_code;
	char reason[128];
	char msg[1024];
};

#define UEI_DEFINE(name) struct user_exit_info name SEC(".data")
#define UEI_RECORD(name, info)                                                                     \
	({                                                                                         \
		bpf_probe_read_kernel_str(name.reason, sizeof(name.reason), (info)->reason);       \
		bpf_probe_read_kernel_str(name.msg, sizeof(name.msg), (info)->msg);                \
		name.exit_code = (info)->exit_code;                                                \
		name.exit_cpu = (info)->exit_cpu;                                                  \
		__sync_val_compare_and_swap(&name.kind, name.kind, (int)(info)->kind);             \
	})

#endif

#define TASK_STORAGE(name, value_type)                                                             \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_TASK_STORAGE);                                           \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, int);                                                                  \
		__type(value, value_type);                                                         \
	} name SEC(".maps")

// The kernel's default slice, as a constant for initialisers (the published headers make
// SCX_SLICE_DFL a variable that the loader fills).
#define SCX_SLICE_DFL_NS 20000000ULL

#ifndef ENOMEM
#define ENOMEM 12
#endif
#ifndef EINVAL
#define EINVAL 22
#endif

// The scheduler's arena. Its user address is fixed, so that pointers stored in it are equal in
// every run: 16 TiB, which is free in an ordinary x86 process.
#define ARENA_USER_BASE (1ULL << 44)
#define ARENA(name, pages)                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARENA);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, pages);                                                        \
		__ulong(map_extra, ARENA_USER_BASE);                                               \
	} name SEC(".maps")

// A program belongs to an arena if it names its map. One that only follows pointers says so here.
#define use_arena(name) asm volatile("" : : "r"(&name))
