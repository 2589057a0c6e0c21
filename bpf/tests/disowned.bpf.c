// SPDX-License-Identifier: MIT OR Apache-2.0
//
// disowned: misuses objects, lists and trees in the one way that in[0] chooses. No kernel loads it.
#include "scx.h"
#include "owned.h"

char _license[] SEC("license") = "GPL";

enum mode {
	CORRECT,
	LEAK,
	DROP_TWICE,
	DROP_ANOTHERS,
	ADD_UNLOCKED,
	ADD_OTHER_LOCK,
	ADD_TWICE,
	ADD_OTHER_TYPE,
	ADD_NO_NODE,
	NO_ROOT,
	CHANGE_IN_LESS,
	UNLOCK_IN_LESS,
	DROP_IN_LESS,
	NEW_UNDER_LOCK,
	LEAK_LOCK,
	USE_DROPPED,
	COUNT_UNCOUNTED,
	NO_TYPE,
	DROP_ADDED,
	LEAK_REMOVED,
	SCRIBBLE,
	STORE_OTHER_TYPE,
	PERCPU_SPECIAL,
	LESS_NOWHERE,
	STORE_ANYWHERE,
};

struct disowned_ctx {
	u64 in[4];
	u64 out[12];
};

struct thing {
	u64 key;
	struct bpf_rb_node node;
	struct bpf_list_node link;
};

struct other {
	u64 key;
	struct bpf_rb_node node;
};

struct slot {
	struct thing __kptr *thing;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

in_section(A) struct bpf_spin_lock lock;
in_section(A) struct bpf_rb_root root __contains(thing, node);
in_section(A) struct bpf_list_head list __contains(thing, link);
in_section(B) struct bpf_spin_lock other_lock;
in_section(B) struct bpf_rb_root other_root __contains(other, node);

// What the callback does besides comparing.
u32 in_less;

static bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	if (in_less == CHANGE_IN_LESS)
		bpf_rbtree_remove(&root, (struct bpf_rb_node *)b);
	if (in_less == UNLOCK_IN_LESS)
		bpf_spin_unlock(&lock);
	if (in_less == DROP_IN_LESS)
		bpf_obj_drop(container_of(a, struct thing, node));
	return container_of(a, struct thing, node)->key < container_of(b, struct thing, node)->key;
}

static __always_inline struct thing *new_thing(u64 key)
{
	struct thing *thing = bpf_obj_new(struct thing);

	if (thing)
		thing->key = key;
	return thing;
}

static int __noinline add(u64 key)
{
	struct thing *thing = new_thing(key);

	if (!thing)
		return 1;
	bpf_spin_lock(&lock);
	bpf_rbtree_add(&root, &thing->node, less);
	bpf_spin_unlock(&lock);
	return 0;
}

static int __noinline take(u32 mode)
{
	struct bpf_rb_node *node;

	bpf_spin_lock(&lock);
	node = bpf_rbtree_first(&root);
	if (node)
		node = bpf_rbtree_remove(&root, node);
	bpf_spin_unlock(&lock);
	if (!node)
		return 2;
	if (mode != LEAK_REMOVED)
		bpf_obj_drop(container_of(node, struct thing, node));
	return 0;
}

static int __noinline misuse_tree(u32 mode, struct thing *thing)
{
	struct other *other;

	switch (mode) {
	case ADD_UNLOCKED:
		bpf_rbtree_add(&root, &thing->node, less);
		return 0;
	case ADD_OTHER_LOCK:
		bpf_spin_lock(&other_lock);
		bpf_rbtree_add(&root, &thing->node, less);
		return 0;
	case ADD_TWICE:
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &thing->node, less);
		bpf_rbtree_add(&root, &thing->node, less);
		return 0;
	case ADD_OTHER_TYPE:
		other = bpf_obj_new(struct other);
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &other->node, less);
		return 0;
	case ADD_NO_NODE:
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, (void *)&thing->link, less);
		return 0;
	case NO_ROOT:
		bpf_spin_lock(&lock);
		bpf_rbtree_add((void *)&list, &thing->node, less);
		return 0;
	case LESS_NOWHERE:
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &thing->node, (void *)0x1234);
		return 0;
	case DROP_ADDED:
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &thing->node, less);
		bpf_spin_unlock(&lock);
		bpf_obj_drop(thing);
		return 0;
	case NEW_UNDER_LOCK:
		bpf_spin_lock(&lock);
		new_thing(2);
		return 0;
	case LEAK_LOCK:
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &thing->node, less);
		return 0;
	}
	return -1;
}

SEC("syscall") int misuse(struct disowned_ctx *ctx)
{
	u32 mode = ctx->in[0], key = 0;
	struct thing *thing;
	struct slot *slot;

	in_less = 0;
	if (add(1))
		return 1;
	in_less = mode;
	if (mode == CHANGE_IN_LESS || mode == UNLOCK_IN_LESS || mode == DROP_IN_LESS)
		return add(2);
	if (take(mode))
		return 2;
	if (mode == NO_TYPE)
		return !bpf_obj_new_impl(1, NULL);
	if (mode == PERCPU_SPECIAL)
		return !bpf_percpu_obj_new(struct thing);
	thing = new_thing(ctx->in[1]);
	if (!thing)
		return 3;
	switch (mode) {
	case LEAK:
		return 0;
	case DROP_ANOTHERS:
		bpf_obj_drop((void *)thing + 8);
		return 0;
	case COUNT_UNCOUNTED:
		bpf_refcount_acquire(thing);
		return 0;
	case STORE_OTHER_TYPE:
		slot = bpf_map_lookup_elem(&slots, &key);
		if (!slot)
			return 4;
		bpf_kptr_xchg(&slot->thing, bpf_obj_new(struct other));
		return 0;
	case STORE_ANYWHERE:
		bpf_kptr_xchg(&root, thing);
		return 0;
	case SCRIBBLE:
		// Whatever lies in a node or root is nobody's truth.
		__builtin_memset(&thing->node, 0xff, sizeof(thing->node));
		bpf_spin_lock(&lock);
		__builtin_memset(&root, 0xaa, sizeof(root));
		bpf_rbtree_add(&root, &thing->node, less);
		__builtin_memset(&thing->node, 0x55, sizeof(thing->node));
		bpf_spin_unlock(&lock);
		return take(mode);
	}
	if (mode >= ADD_UNLOCKED && mode <= NO_ROOT)
		return misuse_tree(mode, thing);
	if (mode == NEW_UNDER_LOCK || mode == LEAK_LOCK || mode == DROP_ADDED ||
	    mode == LESS_NOWHERE)
		return misuse_tree(mode, thing);
	bpf_obj_drop(thing);
	if (mode == DROP_TWICE)
		bpf_obj_drop(thing);
	if (mode == USE_DROPPED) {
		bpf_spin_lock(&lock);
		bpf_rbtree_add(&root, &thing->node, less);
	}
	return 0;
}

// Lists in objects in lists: no type of a kernel's program may own itself.
struct nest {
	struct bpf_spin_lock lock;
	struct bpf_list_head inner __contains(nest, link);
	struct bpf_list_node link;
};

SEC("syscall") int nest(struct disowned_ctx *ctx)
{
	struct nest *outer = bpf_obj_new(struct nest), *around;
	u64 i;

	for (i = 0; outer && i < ctx->in[0]; i++) {
		around = bpf_obj_new(struct nest);
		if (!around)
			break;
		bpf_spin_lock(&around->lock);
		bpf_list_push_back(&around->inner, &outer->link);
		bpf_spin_unlock(&around->lock);
		outer = around;
	}
	ctx->out[0] = i;
	if (outer)
		bpf_obj_drop(outer);
	return 0;
}

// Without a program of its own: a kptr that it stores itself and that another one owns.
SEC("syscall") int forge(struct disowned_ctx *ctx)
{
	struct slot *slot;
	u32 key = 0;
	u64 thing;

	if (add(ctx->in[0]))
		return 1;
	bpf_spin_lock(&lock);
	thing = (u64)container_of(bpf_rbtree_first(&root), struct thing, node);
	bpf_spin_unlock(&lock);
	slot = bpf_map_lookup_elem(&slots, &key);
	if (!slot)
		return 2;
	*(volatile u64 *)&slot->thing = thing;
	return 0;
}
