// SPDX-License-Identifier: MIT OR Apache-2.0
//
// masks: every bpf_cpumask kfunc once, in ops.init, on a machine of 8 CPUs. A check that fails
// sets its bit in `failed`.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS

struct bpf_cpumask {
	struct cpumask cpumask;
};

struct bpf_cpumask *bpf_cpumask_create(void) __ksym;
struct bpf_cpumask *bpf_cpumask_acquire(struct bpf_cpumask *cpumask) __ksym;
void bpf_cpumask_release(struct bpf_cpumask *cpumask) __ksym;
u32 bpf_cpumask_first(const struct cpumask *cpumask) __ksym;
u32 bpf_cpumask_first_zero(const struct cpumask *cpumask) __ksym;
void bpf_cpumask_set_cpu(u32 cpu, struct bpf_cpumask *cpumask) __ksym;
void bpf_cpumask_clear_cpu(u32 cpu, struct bpf_cpumask *cpumask) __ksym;
bool bpf_cpumask_test_and_set_cpu(u32 cpu, struct bpf_cpumask *cpumask) __ksym;
bool bpf_cpumask_test_and_clear_cpu(u32 cpu, struct bpf_cpumask *cpumask) __ksym;
void bpf_cpumask_setall(struct bpf_cpumask *cpumask) __ksym;
void bpf_cpumask_clear(struct bpf_cpumask *cpumask) __ksym;
bool bpf_cpumask_and(struct bpf_cpumask *dst, const struct cpumask *src1,
		     const struct cpumask *src2) __ksym;
void bpf_cpumask_or(struct bpf_cpumask *dst, const struct cpumask *src1,
		    const struct cpumask *src2) __ksym;
void bpf_cpumask_xor(struct bpf_cpumask *dst, const struct cpumask *src1,
		     const struct cpumask *src2) __ksym;
bool bpf_cpumask_equal(const struct cpumask *src1, const struct cpumask *src2) __ksym;
bool bpf_cpumask_intersects(const struct cpumask *src1, const struct cpumask *src2) __ksym;
bool bpf_cpumask_subset(const struct cpumask *src1, const struct cpumask *src2) __ksym;
bool bpf_cpumask_empty(const struct cpumask *cpumask) __ksym;
bool bpf_cpumask_full(const struct cpumask *cpumask) __ksym;
void bpf_cpumask_copy(struct bpf_cpumask *dst, const struct cpumask *src) __ksym;
u32 bpf_cpumask_any_distribute(const struct cpumask *cpumask) __ksym;
u32 bpf_cpumask_any_and_distribute(const struct cpumask *src1, const struct cpumask *src2) __ksym;
u32 bpf_cpumask_weight(const struct cpumask *cpumask) __ksym;
const struct cpumask *scx_bpf_get_possible_cpumask(void) __ksym;
const struct cpumask *scx_bpf_get_online_cpumask(void) __ksym;
void scx_bpf_put_cpumask(const struct cpumask *cpumask) __ksym;
u32 scx_bpf_nr_cpu_ids(void) __ksym;

#endif

// The published headers do not declare this one.
u32 bpf_cpumask_first_and(const struct cpumask *src1, const struct cpumask *src2) __ksym;

u64 failed;
u64 nr_checks;

static __always_inline void check(bool ok)
{
	if (!ok)
		failed |= 1ULL << (nr_checks & 63);
	nr_checks++;
}

static __always_inline const struct cpumask *mask_of(const struct bpf_cpumask *m)
{
	return (const struct cpumask *)m;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(masks_init)
{
	const struct cpumask *possible = scx_bpf_get_possible_cpumask();
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	struct bpf_cpumask *a = bpf_cpumask_create();
	struct bpf_cpumask *b = bpf_cpumask_create();
	struct bpf_cpumask *c = bpf_cpumask_create();
	u32 first;

	if (!a || !b || !c) {
		if (a)
			bpf_cpumask_release(a);
		if (b)
			bpf_cpumask_release(b);
		if (c)
			bpf_cpumask_release(c);
		scx_bpf_put_cpumask(online);
		scx_bpf_put_cpumask(possible);
		return -ENOMEM;
	}
	check(scx_bpf_nr_cpu_ids() == 8);
	check(bpf_cpumask_weight(possible) == 8);
	check(bpf_cpumask_full(possible));
	check(bpf_cpumask_equal(possible, online));
	check(bpf_cpumask_empty(mask_of(a)));
	check(bpf_cpumask_first(mask_of(a)) >= 8);
	check(bpf_cpumask_first_zero(mask_of(a)) == 0);

	bpf_cpumask_set_cpu(2, a);
	check(!bpf_cpumask_test_and_set_cpu(5, a));
	check(bpf_cpumask_test_and_set_cpu(5, a));
	bpf_cpumask_set_cpu(5, b);
	bpf_cpumask_set_cpu(7, b);
	// No such CPU: nothing happens.
	bpf_cpumask_set_cpu(8, b);
	check(bpf_cpumask_weight(mask_of(b)) == 2);
	check(bpf_cpumask_first(mask_of(a)) == 2);
	check(bpf_cpumask_first_and(mask_of(a), mask_of(b)) == 5);
	check(bpf_cpumask_test_cpu(2, mask_of(a)) && !bpf_cpumask_test_cpu(2, mask_of(b)));
	check(a->cpumask.bits[0] == 0x24);

	check(bpf_cpumask_and(c, mask_of(a), mask_of(b)));
	check(c->cpumask.bits[0] == 0x20);
	bpf_cpumask_or(c, mask_of(a), mask_of(b));
	check(c->cpumask.bits[0] == 0xa4);
	check(bpf_cpumask_subset(mask_of(a), mask_of(c)) &&
	      !bpf_cpumask_subset(mask_of(c), mask_of(a)));
	bpf_cpumask_xor(c, mask_of(a), mask_of(b));
	check(c->cpumask.bits[0] == 0x84);
	check(bpf_cpumask_intersects(mask_of(a), mask_of(b)));
	bpf_cpumask_clear_cpu(7, c);
	check(bpf_cpumask_test_and_clear_cpu(2, c));
	check(bpf_cpumask_empty(mask_of(c)));
	check(!bpf_cpumask_intersects(mask_of(a), mask_of(c)));
	bpf_cpumask_copy(c, mask_of(a));
	check(bpf_cpumask_equal(mask_of(a), mask_of(c)));
	bpf_cpumask_setall(c);
	check(bpf_cpumask_equal(possible, mask_of(c)));

	// Round robin: the two CPUs in turn.
	first = bpf_cpumask_any_distribute(mask_of(a));
	check(first == 2 || first == 5);
	check(bpf_cpumask_any_distribute(mask_of(a)) == 7 - first);
	check(bpf_cpumask_any_and_distribute(mask_of(a), mask_of(b)) == 5);
	bpf_cpumask_clear(a);
	check(bpf_cpumask_any_distribute(mask_of(a)) >= 8);

	bpf_cpumask_release(bpf_cpumask_acquire(b));
	check(bpf_cpumask_weight(mask_of(b)) == 2);
	bpf_cpumask_release(a);
	bpf_cpumask_release(b);
	bpf_cpumask_release(c);
	scx_bpf_put_cpumask(online);
	scx_bpf_put_cpumask(possible);
	return 0;
}

SCX_OPS_DEFINE(masks_ops,
	       .init = (void *)masks_init,
	       .name = "masks");
