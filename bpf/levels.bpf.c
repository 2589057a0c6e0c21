// SPDX-License-Identifier: MIT OR Apache-2.0
//
// levels: five weight levels, all state in a BPF arena. harena's default scheduler.
//
//   nice      ..-10   -9..-4  -3..3   4..9   10..     a task's weight chooses its level
//   level        0       1      2       3      4
//   share       16       8      4       2      1      of a CPU's time, when all have work for it
//
// A waking task goes straight to an idle cid of its cmask, nearest first. If there is none it joins
// the end of its level's list. Levels take turns on each CPU, and a turn lasts until the level's
// credit is used up. A CPU that needs work takes the first task that may run on it from the level
// whose turn it is; when that level has nothing for it, the turn passes on; and when only levels
// without credit have something, it steals from the first of those. So no CPU idles while a task
// waits that may run there, and no level starves.
//
// What lives where:
//   arena    task contexts with their cmasks, the lists through them, the idle cmask, the credit
//            on each cid, the statistics: the host reads and writes all of it as plain memory
//   storage  one pointer per task, to its context
//
// This is a cid-form scheduler: CPUs are numbered densely in topology order (see cmask.h).
#include "scx.h"

// The kernel offers its kfuncs only to programs that say "GPL" here. That is a statement to the
// loader about calling kernel functions; this file's own licence is the one in its first line.
char _license[] SEC("license") = "GPL";

// How long a task may run before others get a turn.
const volatile u64 slice_ns = 4000000;

UEI_DEFINE(uei);

#define NR_LEVELS 5
#define MAX_CIDS 512
#define MAX_CMASK_WORDS CMASK_NR_WORDS(MAX_CIDS)

ARENA(arena, 4096);

// A cmask with room for every cid: `words` is where the bits of `mask` are.
struct cmask_store {
	struct scx_cmask mask;
	u64 words[MAX_CMASK_WORDS];
};

struct task_ctx {
	// Neighbours in the level's list, or the next free context.
	struct task_ctx __arena *next;
	struct task_ctx __arena *prev;
	s32 pid;
	u32 level;
	// Of the list the context is linked in; the level may change meanwhile.
	u32 queued_level;
	bool queued;
	// What it had consumed in all when it began to run.
	u64 ran_before_ns;
	struct cmask_store allowed;
};

struct level {
	struct task_ctx __arena *first;
	struct task_ctx __arena *last;
	u64 nr_queued;
};

// Whose turn it is on a cid, and how long each level may run there. A level that ran for longer
// than its credit owes the rest, and its next turns are shorter or none.
struct turn {
	u32 level;
	s64 credit_ns[NR_LEVELS];
};

struct levels_stats {
	u64 nr_tasks;
	u64 nr_pages;
	// Wakeups and requeues that found an idle cid, or had to wait in a level's list.
	u64 nr_direct;
	u64 nr_queued[NR_LEVELS];
	u64 nr_dispatched[NR_LEVELS];
	// Dispatches from levels that had used up their credit, for want of others.
	u64 nr_stolen;
	// Idle cids woken because a task was waiting for them.
	u64 nr_kicked;
	// The running task kept its cid, nothing else being there.
	u64 nr_kept;
	// The lock gave up (only a kernel does that, rather than deadlock).
	u64 nr_lock_failed;
};

struct level __arena levels[NR_LEVELS];
struct turn __arena turns[MAX_CIDS];
struct cmask_store __arena idle;
struct task_ctx __arena *__arena free_ctxs;
struct levels_stats __arena stats;

// Guards `levels`, `turns` and `free_ctxs`. A lock that the verifier checks cannot lie in the
// arena, which anybody may scribble over; it has a data section of its own.
struct bpf_res_spin_lock lists_lock __hidden SEC(".data.lists_lock");

// The pointer to a task's context is all that is kept outside the arena.
struct task_slot {
	struct task_ctx __arena *ctx;
};
TASK_STORAGE(task_slots, struct task_slot);

static __always_inline void count(u64 __arena *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static struct task_ctx __arena *ctx_of(struct task_struct *p)
{
	struct task_slot *slot = bpf_task_storage_get(&task_slots, p, NULL, 0);

	use_arena(arena);
	return slot ? slot->ctx : NULL;
}

static __always_inline bool lock_lists(void)
{
	if (!bpf_res_spin_lock(&lists_lock))
		return true;
	count(&stats.nr_lock_failed);
	return false;
}

static __always_inline u32 level_of_weight(u32 weight)
{
	if (weight >= 800)
		return 0;
	if (weight >= 220)
		return 1;
	if (weight >= 46)
		return 2;
	if (weight >= 12)
		return 3;
	return 4;
}

// ---- lists; the caller holds the lock -----------------------------------------------------------

static __always_inline void push_last(struct task_ctx __arena *taskc)
{
	struct level __arena *level = &levels[taskc->level % NR_LEVELS];
	struct task_ctx __arena *last = level->last;

	taskc->next = NULL;
	taskc->prev = last;
	taskc->queued_level = taskc->level;
	taskc->queued = true;
	if (last)
		last->next = taskc;
	else
		level->first = taskc;
	level->last = taskc;
	level->nr_queued++;
}

static __always_inline void unlink(struct task_ctx __arena *taskc)
{
	struct level __arena *level = &levels[taskc->queued_level % NR_LEVELS];

	if (taskc->prev)
		taskc->prev->next = taskc->next;
	else
		level->first = taskc->next;
	if (taskc->next)
		taskc->next->prev = taskc->prev;
	else
		level->last = taskc->prev;
	taskc->queued = false;
	level->nr_queued--;
}

// The first task of a level that may run on `cid`. Every task is looked at if need be: stopping
// early would let a CPU idle beside a long queue of tasks bound elsewhere.
static __always_inline struct task_ctx __arena *first_for(u32 level, u32 cid)
{
	struct task_ctx __arena *taskc = levels[level].first;

	while (taskc && can_loop) {
		if (cmask_test(cid, &taskc->allowed.mask))
			return taskc;
		taskc = taskc->next;
	}
	return NULL;
}

static __always_inline bool any_for(u32 cid)
{
	for (u32 level = 0; level < NR_LEVELS && can_loop; level++)
		if (first_for(level, cid))
			return true;
	return false;
}

// Passes the turn to the next level and gives it new credit, which it cannot save up.
static __always_inline void pass_turn(struct turn __arena *turn)
{
	u32 level = (turn->level + 1) % NR_LEVELS;
	s64 most = (slice_ns << (NR_LEVELS - 1 - level)) / 4;
	s64 credit = turn->credit_ns[level] + most;

	turn->credit_ns[level] = credit < most ? credit : most;
	turn->level = level;
}

// Takes a task for `cid` off its list. Each cid has turns of its own: with common ones the other
// CPUs could use up every turn of a level that only this CPU can serve.
static __always_inline s32 take_for(u32 cid)
{
	struct turn __arena *turn = &turns[cid % MAX_CIDS];
	struct task_ctx __arena *taskc = NULL;
	struct task_ctx __arena *without_credit = NULL;

	// Every level once, and the first again with new credit.
	for (u32 i = 0; i <= NR_LEVELS && can_loop; i++) {
		u32 level = turn->level % NR_LEVELS;

		taskc = first_for(level, cid);
		if (taskc && turn->credit_ns[level] > 0)
			break;
		if (taskc && !without_credit)
			without_credit = taskc;
		taskc = NULL;
		pass_turn(turn);
	}
	if (!taskc) {
		if (!without_credit)
			return -1;
		taskc = without_credit;
		count(&stats.nr_stolen);
	}
	count(&stats.nr_dispatched[taskc->queued_level % NR_LEVELS]);
	unlink(taskc);
	return taskc->pid;
}

static __always_inline bool any_queued(void)
{
	for (u32 i = 0; i < NR_LEVELS && can_loop; i++)
		if (levels[i].nr_queued)
			return true;
	return false;
}

// ---- idle cids ----------------------------------------------------------------------------------

// Takes an idle cid that the task may use, the nearest at or after `prev_cid`. The bit comes back
// when the CPU next goes idle (levels_update_idle).
static __always_inline s32 take_idle_cid(struct task_ctx __arena *taskc, s32 prev_cid)
{
	while (can_loop) {
		u32 cid = cmask_next_and_set_wrap(&idle.mask, &taskc->allowed.mask, prev_cid);

		if (cid >= cmask_end(&idle.mask))
			break;
		// Another CPU may have been quicker.
		if (cmask_test_and_clear(cid, &idle.mask))
			return cid;
	}
	return -1;
}

// ---- the way of a task --------------------------------------------------------------------------

s32 BPF_STRUCT_OPS(levels_select_cid, struct task_struct *p, s32 prev_cid, u64 wake_flags)
{
	struct task_ctx __arena *taskc = ctx_of(p);
	s32 cid;

	if (!taskc)
		return prev_cid;
	cid = take_idle_cid(taskc, prev_cid);
	if (cid < 0)
		return prev_cid;
	count(&stats.nr_direct);
	// From here SCX_DSQ_LOCAL means the cid we return. levels_enqueue is not called then.
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
	return cid;
}

void BPF_STRUCT_OPS(levels_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx __arena *taskc = ctx_of(p);
	s32 cid;

	if (!taskc || !lock_lists()) {
		// Any order is better than a lost task.
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, slice_ns, enq_flags);
		return;
	}
	if (!taskc->queued)
		push_last(taskc);
	bpf_res_spin_unlock(&lists_lock);
	count(&stats.nr_queued[taskc->level % NR_LEVELS]);

	// First on the list, then look for an idle cid, while a CPU that goes idle first sets its
	// bit and then looks at the lists (levels_update_idle): whichever comes second sees the
	// other, so no CPU sleeps through the arrival of a task.
	cid = take_idle_cid(taskc, scx_bpf_task_cid(p));
	if (cid >= 0) {
		count(&stats.nr_kicked);
		scx_bpf_kick_cid(cid, SCX_KICK_IDLE);
	}
}

// The task leaves our hands: because we dispatched it (then it is on no list any more), or because
// its affinity, weight or class is about to change.
void BPF_STRUCT_OPS(levels_dequeue, struct task_struct *p, u64 deq_flags)
{
	struct task_ctx __arena *taskc = ctx_of(p);

	if (!taskc || !taskc->queued || !lock_lists())
		return;
	if (taskc->queued)
		unlink(taskc);
	bpf_res_spin_unlock(&lists_lock);
}

void BPF_STRUCT_OPS(levels_dispatch, s32 cid, struct task_struct *prev)
{
	while (any_queued() && can_loop) {
		struct task_struct *p;
		s32 pid;

		if (!lock_lists())
			break;
		pid = take_for(cid);
		bpf_res_spin_unlock(&lists_lock);
		if (pid < 0)
			break;
		p = bpf_task_from_pid(pid);
		if (!p)
			continue;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
		bpf_task_release(p);
		return;
	}
	// Nothing else for this cid: the running task goes on, with a slice of ours rather than the
	// core's longer one, so that a task waking next waits no longer than usual.
	if (prev && (prev->scx.flags & SCX_TASK_QUEUED)) {
		count(&stats.nr_kept);
		scx_bpf_task_set_slice(prev, slice_ns);
	}
}

void BPF_STRUCT_OPS(levels_running, struct task_struct *p)
{
	struct task_ctx __arena *taskc = ctx_of(p);

	if (taskc)
		taskc->ran_before_ns = p->se.sum_exec_runtime;
}

// Charges the level for the time its task had on this cid. Only this CPU touches its credit.
void BPF_STRUCT_OPS(levels_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx __arena *taskc = ctx_of(p);
	u32 cid = scx_bpf_task_cid(p);
	u64 ran_ns;

	if (!taskc)
		return;
	ran_ns = p->se.sum_exec_runtime - taskc->ran_before_ns;
	turns[cid % MAX_CIDS].credit_ns[taskc->level % NR_LEVELS] -= ran_ns;
}

void BPF_STRUCT_OPS(levels_update_idle, s32 cid, bool is_idle)
{
	bool wanted = false;

	if (!is_idle) {
		cmask_clear(cid, &idle.mask);
		return;
	}
	cmask_set(cid, &idle.mask);
	if (!any_queued() || !lock_lists())
		return;
	wanted = any_for(cid);
	bpf_res_spin_unlock(&lists_lock);
	if (wanted && cmask_test_and_clear(cid, &idle.mask)) {
		count(&stats.nr_kicked);
		scx_bpf_kick_cid(cid, SCX_KICK_IDLE);
	}
}

// ---- what tasks are -----------------------------------------------------------------------------

void BPF_STRUCT_OPS(levels_set_weight, struct task_struct *p, u32 weight)
{
	struct task_ctx __arena *taskc = ctx_of(p);

	if (taskc)
		taskc->level = level_of_weight(weight);
}

// The core has written the task's affinity into the arena and passes where: read it in place.
void BPF_STRUCT_OPS(levels_set_cmask, struct task_struct *p, const struct scx_cmask *arena_addr)
{
	const struct scx_cmask __arena *cmask = (const struct scx_cmask __arena *)(u64)arena_addr;
	struct task_ctx __arena *taskc = ctx_of(p);

	if (!taskc)
		return;
	for (u32 i = 0; i < MAX_CMASK_WORDS && i < cmask->alloc_words && can_loop; i++)
		taskc->allowed.mask.bits[i] = cmask->bits[i];
}

// A page's worth of free contexts. May sleep, so it is called without the lock.
static __always_inline bool grow(void)
{
	u32 nr_ctxs = PAGE_SIZE / sizeof(struct task_ctx);
	struct task_ctx __arena *ctxs;

	ctxs = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);
	if (!ctxs)
		return false;
	for (u32 i = 0; i + 1 < nr_ctxs && can_loop; i++)
		ctxs[i].next = &ctxs[i + 1];
	if (!lock_lists())
		return false;
	ctxs[nr_ctxs - 1].next = free_ctxs;
	free_ctxs = ctxs;
	bpf_res_spin_unlock(&lists_lock);
	count(&stats.nr_pages);
	return true;
}

static __always_inline struct task_ctx __arena *take_free_ctx(void)
{
	struct task_ctx __arena *taskc;

	if (!lock_lists())
		return NULL;
	taskc = free_ctxs;
	if (taskc)
		free_ctxs = taskc->next;
	bpf_res_spin_unlock(&lists_lock);
	return taskc;
}

static __always_inline struct task_ctx __arena *new_ctx(void)
{
	struct task_ctx __arena *taskc = take_free_ctx();

	// Twice, should another task's init take all we made; then give up.
	for (u32 i = 0; !taskc && i < 2; i++) {
		if (!grow())
			return NULL;
		taskc = take_free_ctx();
	}
	return taskc;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(levels_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	u32 nr_cids = scx_bpf_nr_cids();
	struct task_ctx __arena *taskc;
	struct task_slot *slot;

	slot = bpf_task_storage_get(&task_slots, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!slot)
		return -ENOMEM;
	taskc = new_ctx();
	if (!taskc)
		return -ENOMEM;
	taskc->pid = p->pid;
	taskc->level = level_of_weight(p->scx.weight ?: 100);
	taskc->queued = false;
	// A forked task keeps its parent's affinity and set_cmask is not called for it.
	cmask_init(&taskc->allowed.mask, 0, nr_cids);
	bpf_rcu_read_lock();
	for (u32 cid = 0; cid < nr_cids && can_loop; cid++) {
		s32 cpu = scx_bpf_cid_to_cpu(cid);

		if (cpu >= 0 && bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			__cmask_set(cid, &taskc->allowed.mask);
	}
	bpf_rcu_read_unlock();
	slot->ctx = taskc;
	count(&stats.nr_tasks);
	return 0;
}

void BPF_STRUCT_OPS(levels_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	struct task_slot *slot = bpf_task_storage_get(&task_slots, p, NULL, 0);
	struct task_ctx __arena *taskc = slot ? slot->ctx : NULL;

	if (!taskc || !lock_lists())
		return;
	if (taskc->queued)
		unlink(taskc);
	taskc->next = free_ctxs;
	free_ctxs = taskc;
	bpf_res_spin_unlock(&lists_lock);
	slot->ctx = NULL;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(levels_init)
{
	u32 nr_cids = scx_bpf_nr_cids();

	if (nr_cids > MAX_CIDS) {
		scx_bpf_error("%d cids, room for %d", nr_cids, MAX_CIDS);
		return -EINVAL;
	}
	cmask_init(&idle.mask, 0, nr_cids);
	return 0;
}

void BPF_STRUCT_OPS(levels_exit, struct scx_exit_info *info)
{
	UEI_RECORD(uei, info);
}

SCX_OPS_CID_DEFINE(levels_ops,
		   .select_cid = (void *)levels_select_cid,
		   .enqueue = (void *)levels_enqueue,
		   .dequeue = (void *)levels_dequeue,
		   .dispatch = (void *)levels_dispatch,
		   .running = (void *)levels_running,
		   .stopping = (void *)levels_stopping,
		   .update_idle = (void *)levels_update_idle,
		   .set_weight = (void *)levels_set_weight,
		   .set_cmask = (void *)levels_set_cmask,
		   .init_task = (void *)levels_init_task,
		   .exit_task = (void *)levels_exit_task,
		   .init = (void *)levels_init,
		   .exit = (void *)levels_exit,
		   .name = "levels");
