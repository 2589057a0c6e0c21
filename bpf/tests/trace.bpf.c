// SPDX-License-Identifier: MIT OR Apache-2.0
//
// trace: a FIFO with programs that look on, at every tracepoint and function that the simulation
// has. They count, and compare what they are given with what they can see for themselves.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct trace_entry {
	u16 type;
	u8 flags;
	u8 preempt_count;
	int pid;
};

struct trace_event_raw_sched_switch {
	struct trace_entry ent;
	char prev_comm[16];
	pid_t prev_pid;
	int prev_prio;
	long prev_state;
	char next_comm[16];
	pid_t next_pid;
	int next_prio;
};

struct trace_event_raw_sched_wakeup_template {
	struct trace_entry ent;
	char comm[16];
	pid_t pid;
	int prio;
	int target_cpu;
};

struct trace_event_raw_sched_migrate_task {
	struct trace_entry ent;
	u32 __data_loc_comm;
	pid_t pid;
	int prio;
	int orig_cpu;
	int dest_cpu;
};

struct trace_event_raw_sched_process_fork {
	struct trace_entry ent;
	u32 __data_loc_parent_comm;
	pid_t parent_pid;
	u32 __data_loc_child_comm;
	pid_t child_pid;
};

struct trace_event_raw_sched_process_exit {
	struct trace_entry ent;
	char comm[16];
	pid_t pid;
	int prio;
	bool group_dead;
};

struct trace_event_raw_sched_process_template {
	struct trace_entry ent;
	u32 __data_loc_comm;
	pid_t pid;
	int prio;
};

struct trace_event_raw_cpu {
	struct trace_entry ent;
	u32 state;
	u32 cpu_id;
};

struct trace_event_raw_sched_ext_event {
	struct trace_entry ent;
	u32 __data_loc_name;
	s64 delta;
};

struct trace_event_raw_sched_stat_runtime {
	struct trace_entry ent;
	u32 __data_loc_comm;
	pid_t pid;
	u64 runtime;
};

struct trace_event_raw_x86_irq_vector {
	struct trace_entry ent;
	int vector;
};

struct trace_event_raw_softirq {
	struct trace_entry ent;
	unsigned int vec;
};

struct bpf_raw_tracepoint_args {
	u64 args[0];
};

struct pt_regs {
	unsigned long ax;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long ip;
};

struct rq {
	int cpu;
};

#pragma clang attribute pop

u32 scx_bpf_nr_cpu_ids(void) __ksym;
s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym;
bool scx_bpf_task_running(const struct task_struct *p) __ksym;

static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static u64 (*const bpf_get_func_ip)(void *ctx) = (void *)173;
static u64 (*const bpf_get_attach_cookie)(void *ctx) = (void *)174;
static long (*const bpf_get_func_arg)(void *ctx, u32 n, u64 *value) = (void *)183;
static long (*const bpf_get_func_ret)(void *ctx, u64 *value) = (void *)184;
static long (*const bpf_get_func_arg_cnt)(void *ctx) = (void *)185;

#endif

// Fields of a task that no scheduler here needs.
struct task_struct___more {
	int on_cpu;
	int prio;
	struct task_struct *real_parent;
	struct {
		u64 sum_exec_runtime;
	} se;
} __attribute__((preserve_access_index));

#define more(p) ((struct task_struct___more *)(p))

#define MAX_CPUS 64
#define MAX_PIDS 128
#define PWR_EVENT_EXIT ((u32)-1)

extern const void try_to_wake_up __ksym;

u64 nr_switch, nr_sleep, nr_raw_switch, nr_record_switch;
u64 nr_waking, nr_wakeup, nr_wakeup_new, nr_record_wakeup;
u64 nr_migrate, nr_record_migrate, nr_fork_moved;
u64 nr_fork, nr_exit, nr_free, nr_record_fork, nr_record_exit, nr_record_free;
u64 nr_idle_begin, nr_idle_end, nr_record_idle;
u64 nr_ttwu, nr_ttwu_woke, nr_ttwu_probe, nr_ttwu_probe_woke;
u64 nr_tick, nr_scx_tick, nr_schedule, nr_register;
u64 nr_kfunc, nr_kfunc_returned;
u64 nr_charged, nr_record_charged, nr_timer_irq, nr_record_timer_irq, nr_resched_irq, nr_irq_work;
u64 nr_softirq;
s64 irq_depth[MAX_CPUS];
u64 runtime_of[MAX_PIDS], last_runtime;
u64 nr_events, nr_record_events, nr_refilled;
s64 events_sum, record_events_sum;

// What was not as it should be, by the line of the check that found it first.
u64 nr_wrong;
u32 wrong_line;

u32 forked_on;
s32 next_pid[MAX_CPUS];
u64 switched_prev, switched_next, waking, woken, migrating;

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			if (!nr_wrong)                                                             \
				wrong_line = __LINE__;                                             \
			nr_wrong++;                                                                \
		}                                                                                  \
	} while (0)

static bool same_name(const char *a, const char *b)
{
	char x[16] = {}, y[16] = {};
	int i;

	bpf_probe_read_kernel_str(x, sizeof(x), a);
	bpf_probe_read_kernel_str(y, sizeof(y), b);
	for (i = 0; i < 16; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	u32 cpu = bpf_get_smp_processor_id();
	u64 arg = 0;

	nr_switch++;
	nr_sleep += prev_state == 1;
	CHECK(!preempt && prev != next);
	CHECK(bpf_get_current_task_btf() == prev);
	CHECK(!prev->pid || more(prev)->on_cpu);
	CHECK(!more(next)->on_cpu);
	CHECK(scx_bpf_task_running(next) && !scx_bpf_task_running(prev));
	if (cpu < MAX_CPUS) {
		CHECK(prev->pid == next_pid[cpu]);
		next_pid[cpu] = next->pid;
	}
	CHECK(bpf_get_func_arg_cnt(ctx) == 4);
	CHECK(!bpf_get_func_arg(ctx, 2, &arg) && arg == (u64)next);
	CHECK(bpf_get_func_arg(ctx, 4, &arg) == -EINVAL);
	CHECK(!bpf_get_attach_cookie(ctx));
	switched_prev = (u64)prev;
	switched_next = (u64)next;
	return 0;
}

SEC("raw_tp/sched_switch")
int on_raw_switch(struct bpf_raw_tracepoint_args *ctx)
{
	nr_raw_switch++;
	CHECK(ctx->args[1] == switched_prev && ctx->args[2] == switched_next);
	return 0;
}

SEC("tracepoint/sched/sched_switch")
int on_record_switch(struct trace_event_raw_sched_switch *ctx)
{
	struct task_struct *prev = (void *)switched_prev, *next = (void *)switched_next;
	s32 pid = -1, prio = -1;

	nr_record_switch++;
	CHECK(same_name(ctx->prev_comm, prev->comm) && same_name(ctx->next_comm, next->comm));
	bpf_probe_read_kernel(&pid, sizeof(pid), &prev->pid);
	CHECK(ctx->prev_pid == pid);
	bpf_probe_read_kernel(&pid, sizeof(pid), &next->pid);
	bpf_probe_read_kernel(&prio, sizeof(prio), &more(next)->prio);
	CHECK(ctx->next_pid == pid && ctx->next_prio == prio);
	// Running, asleep or dead.
	CHECK(ctx->prev_state == 0 || ctx->prev_state == 1 || ctx->prev_state == 0x10);
	return 0;
}

SEC("tp_btf/sched_waking")
int BPF_PROG(on_waking, struct task_struct *p)
{
	nr_waking++;
	waking = (u64)p;
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *p)
{
	nr_wakeup++;
	CHECK(waking == (u64)p);
	woken = (u64)p;
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *p)
{
	nr_wakeup_new++;
	return 0;
}

SEC("tp/sched/sched_wakeup")
int on_record_wakeup(struct trace_event_raw_sched_wakeup_template *ctx)
{
	struct task_struct *p = (void *)woken;

	nr_record_wakeup++;
	CHECK(same_name(ctx->comm, p->comm));
	CHECK(ctx->target_cpu == scx_bpf_task_cpu(p));
	return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(on_migrate, struct task_struct *p, int dest_cpu)
{
	nr_migrate++;
	CHECK(dest_cpu != scx_bpf_task_cpu(p));
	migrating = (u64)p;
	return 0;
}

SEC("tracepoint/sched/sched_migrate_task")
int on_record_migrate(struct trace_event_raw_sched_migrate_task *ctx)
{
	struct task_struct *p = (void *)migrating;
	u32 loc = ctx->__data_loc_comm;

	nr_record_migrate++;
	CHECK(ctx->orig_cpu == scx_bpf_task_cpu(p) && ctx->dest_cpu != ctx->orig_cpu);
	CHECK(same_name((void *)ctx + (loc & 0xffff), p->comm));
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	nr_fork++;
	CHECK(more(child)->real_parent == parent && child->pid);
	return 0;
}

SEC("tp/sched/sched_process_fork")
int on_record_fork(struct trace_event_raw_sched_process_fork *ctx)
{
	u32 parent = ctx->__data_loc_parent_comm, child = ctx->__data_loc_child_comm;

	nr_record_fork++;
	CHECK((child & 0xffff) == (parent & 0xffff) + (parent >> 16));
	CHECK(same_name((void *)ctx + (parent & 0xffff), "swapper/0"));
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *p, bool group_dead)
{
	nr_exit++;
	CHECK(group_dead && bpf_get_current_task_btf() == p);
	return 0;
}

SEC("tp/sched/sched_process_exit")
int on_record_exit(struct trace_event_raw_sched_process_exit *ctx)
{
	nr_record_exit++;
	CHECK(ctx->group_dead && ctx->pid == bpf_get_current_task_btf()->pid);
	return 0;
}

SEC("tp_btf/sched_process_free")
int BPF_PROG(on_free, struct task_struct *p)
{
	nr_free++;
	CHECK(p->pid && bpf_get_current_task_btf() != p);
	return 0;
}

SEC("tp/sched/sched_process_free")
int on_record_free(struct trace_event_raw_sched_process_template *ctx)
{
	nr_record_free++;
	CHECK(ctx->pid);
	return 0;
}

SEC("tp_btf/cpu_idle")
int BPF_PROG(on_idle, u32 state, u32 cpu)
{
	if (state == PWR_EVENT_EXIT)
		nr_idle_end++;
	else
		nr_idle_begin++;
	CHECK(cpu == bpf_get_smp_processor_id() && !bpf_get_current_task_btf()->pid);
	return 0;
}

SEC("tp/power/cpu_idle")
int on_record_idle(struct trace_event_raw_cpu *ctx)
{
	nr_record_idle++;
	CHECK(ctx->cpu_id == bpf_get_smp_processor_id());
	CHECK(ctx->state == 1 || ctx->state == PWR_EVENT_EXIT);
	return 0;
}

SEC("tp_btf/sched_stat_runtime")
int BPF_PROG(on_charged, struct task_struct *p, u64 runtime)
{
	u32 pid = p->pid;

	nr_charged++;
	last_runtime = runtime;
	CHECK(runtime);
	if (pid < MAX_PIDS) {
		runtime_of[pid] += runtime;
		CHECK(more(p)->se.sum_exec_runtime == runtime_of[pid]);
	}
	return 0;
}

SEC("tp/sched/sched_stat_runtime")
int on_record_charged(struct trace_event_raw_sched_stat_runtime *ctx)
{
	nr_record_charged++;
	CHECK(ctx->runtime == last_runtime && ctx->pid);
	return 0;
}

static void in_irq(int by)
{
	u32 cpu = bpf_get_smp_processor_id();

	if (cpu < MAX_CPUS) {
		irq_depth[cpu] += by;
		CHECK(irq_depth[cpu] == (by > 0));
	}
}

SEC("tp_btf/local_timer_entry")
int BPF_PROG(on_timer_irq, int vector)
{
	nr_timer_irq++;
	CHECK(vector == 0xec);
	in_irq(1);
	return 0;
}

SEC("tp/irq_vectors/local_timer_exit")
int on_record_timer_irq(struct trace_event_raw_x86_irq_vector *ctx)
{
	nr_record_timer_irq++;
	CHECK(ctx->vector == 0xec);
	in_irq(-1);
	return 0;
}

SEC("raw_tp/reschedule_entry")
int on_resched_irq(struct bpf_raw_tracepoint_args *ctx)
{
	nr_resched_irq++;
	CHECK(ctx->args[0] == 0xfd);
	in_irq(1);
	return 0;
}

SEC("raw_tp/reschedule_exit")
int on_resched_irq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	in_irq(-1);
	return 0;
}

SEC("tp_btf/irq_work_entry")
int BPF_PROG(on_irq_work, int vector)
{
	nr_irq_work++;
	CHECK(vector == 0xf6);
	in_irq(1);
	return 0;
}

SEC("tp_btf/irq_work_exit")
int BPF_PROG(on_irq_work_exit, int vector)
{
	in_irq(-1);
	return 0;
}

// This scheduler has no timers.
SEC("tp/irq/softirq_entry")
int on_softirq(struct trace_event_raw_softirq *ctx)
{
	nr_softirq += ctx->vec;
	return 0;
}

// Counts an event itself now and then, and so would enter itself.
SEC("tp_btf/sched_ext_event")
int BPF_PROG(on_event, const char *name, s64 delta)
{
	char text[32] = {};

	nr_events++;
	events_sum += delta;
	bpf_probe_read_kernel_str(text, sizeof(text), name);
	nr_refilled += text[7] == 'R' && text[11] == 'L';
	if (nr_events == 10)
		scx_bpf_task_set_slice((void *)switched_next, 1ULL << 50);
	return 0;
}

SEC("tp/sched_ext/sched_ext_event")
int on_record_event(struct trace_event_raw_sched_ext_event *ctx)
{
	char text[8] = {};

	nr_record_events++;
	record_events_sum += ctx->delta;
	bpf_probe_read_kernel_str(text, sizeof(text),
				  (void *)ctx + (ctx->__data_loc_name & 0xffff));
	CHECK(text[0] == 'S' && text[3] == '_' && text[5] == 'V');
	return 0;
}

SEC("fentry/try_to_wake_up")
int BPF_PROG(on_ttwu, struct task_struct *p, unsigned int state, int wake_flags)
{
	u64 value = 0;

	nr_ttwu++;
	CHECK(state == 3 && !wake_flags);
	CHECK(bpf_get_func_arg_cnt(ctx) == 3);
	CHECK(!bpf_get_func_arg(ctx, 0, &value) && value == (u64)p);
	// EOPNOTSUPP.
	CHECK(bpf_get_func_ret(ctx, &value) == -95);
	CHECK(bpf_get_func_ip(ctx) == (u64)&try_to_wake_up);
	return 0;
}

SEC("fexit/try_to_wake_up")
int BPF_PROG(on_ttwu_returned, struct task_struct *p, unsigned int state, int wake_flags, int ret)
{
	u64 value = 0;

	nr_ttwu_woke += ret;
	CHECK(!bpf_get_func_ret(ctx, &value) && (int)value == ret);
	return 0;
}

SEC("kprobe/try_to_wake_up")
int on_ttwu_probe(struct pt_regs *ctx)
{
	nr_ttwu_probe++;
	CHECK(ctx->di && ctx->si == 3 && !ctx->dx);
	CHECK(ctx->ip == (u64)&try_to_wake_up && bpf_get_func_ip(ctx) == ctx->ip);
	return 0;
}

SEC("kretprobe/try_to_wake_up")
int on_ttwu_probe_returned(struct pt_regs *ctx)
{
	nr_ttwu_probe_woke += ctx->ax;
	CHECK(bpf_get_func_ip(ctx) == (u64)&try_to_wake_up);
	return 0;
}

SEC("fentry/wake_up_new_task")
int BPF_PROG(on_wake_up_new, struct task_struct *p)
{
	forked_on = scx_bpf_task_cpu(p);
	return 0;
}

SEC("fexit/wake_up_new_task")
int BPF_PROG(on_woken_up_new, struct task_struct *p)
{
	nr_fork_moved += forked_on != (u32)scx_bpf_task_cpu(p);
	return 0;
}

SEC("fentry/sched_tick")
int BPF_PROG(on_sched_tick)
{
	nr_tick++;
	return 0;
}

SEC("fentry/scx_tick")
int BPF_PROG(on_scx_tick, struct rq *rq)
{
	nr_scx_tick++;
	CHECK(rq->cpu == (int)bpf_get_smp_processor_id());
	return 0;
}

SEC("kprobe/schedule")
int on_schedule(struct pt_regs *ctx)
{
	nr_schedule++;
	return 0;
}

SEC("fentry/bpf_scx_reg")
int BPF_PROG(on_register, struct sched_ext_ops *ops, void *link)
{
	char name[8] = {};

	nr_register++;
	bpf_probe_read_kernel_str(name, sizeof(name), ops->name);
	CHECK(name[0] == 't' && name[4] == 'e' && !name[5]);
	CHECK(ops->enqueue && !ops->tick && link);
	return 0;
}

// Calls what it looks at, and so would enter itself.
SEC("fentry/scx_bpf_nr_cpu_ids")
int BPF_PROG(on_kfunc)
{
	nr_kfunc++;
	CHECK(scx_bpf_nr_cpu_ids());
	return 0;
}

SEC("fexit/scx_bpf_nr_cpu_ids")
int BPF_PROG(on_kfunc_returned, u32 ret)
{
	nr_kfunc_returned++;
	CHECK(ret);
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(on_rename, struct task_struct *p, const char *comm)
{
	nr_wrong++;
	return 0;
}

SEC("fentry/vfs_read")
int BPF_PROG(on_read)
{
	nr_wrong++;
	return 0;
}

SEC("?tp_btf/sched_switch")
int BPF_PROG(on_switch_too)
{
	nr_wrong++;
	return 0;
}

s32 BPF_STRUCT_OPS(trace_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(trace_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (scx_bpf_nr_cpu_ids())
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL_NS, enq_flags);
}

SCX_OPS_DEFINE(trace_ops,
	       .select_cpu = (void *)trace_select_cpu,
	       .enqueue = (void *)trace_enqueue,
	       .name = "trace");
