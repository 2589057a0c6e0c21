// SPDX-License-Identifier: MIT OR Apache-2.0
//
// owned: objects with one owner or several, in lists, red-black trees and kptrs.
//
// Each program is of type `syscall` and gives its results in a context. A kernel with the kfuncs of
// Linux 6.16 loads all of them; those that misuse objects are in `disowned.bpf.c`.
#include "scx.h"
#include "owned.h"

char _license[] SEC("license") = "GPL";

struct owned_ctx {
	u64 in[4];
	u64 out[12];
};

// What most programs here work with: it can be in a list and in a tree, and be owned by both.
struct item {
	u64 key;
	struct bpf_refcount refs;
	struct bpf_list_node in_list;
	struct bpf_rb_node in_tree;
};

// Can be in a tree and nothing else.
struct leaf {
	struct bpf_rb_node node;
	u64 key;
};

// Owns others: a tree with its lock, and one of a kind.
struct box {
	u64 id;
	struct bpf_spin_lock lock;
	struct bpf_rb_root leaves __contains(leaf, node);
	struct leaf __kptr *spare;
};

struct counter {
	u64 value;
	u32 parts[4];
};

struct shelf {
	u64 label;
	struct bpf_spin_lock lock;
	struct bpf_list_head items __contains(item, in_list);
	struct item __kptr *stashed;
	struct box __kptr *box;
	struct counter __percpu_kptr *counter;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, u32);
	__type(value, struct shelf);
} shelves SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct shelf);
} racks SEC(".maps");

in_section(A) struct bpf_spin_lock tree_lock;
in_section(A) struct bpf_rb_root tree __contains(item, in_tree);
in_section(A) struct bpf_list_head list __contains(item, in_list);
in_section(B) struct bpf_spin_lock leaf_lock;
in_section(B) struct bpf_rb_root leaves __contains(leaf, node);

static bool item_less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct item, in_tree)->key <
	       container_of(b, struct item, in_tree)->key;
}

static bool leaf_less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct leaf, node)->key < container_of(b, struct leaf, node)->key;
}

static __always_inline int add_leaf(u64 key)
{
	struct leaf *leaf = bpf_obj_new(struct leaf);

	if (!leaf)
		return -1;
	leaf->key = key;
	bpf_spin_lock(&leaf_lock);
	bpf_rbtree_add(&leaves, &leaf->node, leaf_less);
	bpf_spin_unlock(&leaf_lock);
	return 0;
}

// Adds a leaf with the key in[0].
SEC("syscall") int grow(struct owned_ctx *ctx)
{
	return add_leaf(ctx->in[0]);
}

// The keys of the first leaf, of the one at the top, and of its grandchildren.
SEC("syscall") int shape(struct owned_ctx *ctx)
{
	struct bpf_rb_node *top, *at;

	bpf_spin_lock(&leaf_lock);
	at = bpf_rbtree_first(&leaves);
	if (at)
		ctx->out[0] = container_of(at, struct leaf, node)->key;
	top = bpf_rbtree_root(&leaves);
	if (!top)
		goto done;
	ctx->out[1] = container_of(top, struct leaf, node)->key;
	at = bpf_rbtree_left(&leaves, top);
	if (at) {
		ctx->out[2] = container_of(at, struct leaf, node)->key;
		at = bpf_rbtree_left(&leaves, at);
		if (at)
			ctx->out[4] = container_of(at, struct leaf, node)->key;
	}
	at = bpf_rbtree_left(&leaves, top);
	if (at) {
		at = bpf_rbtree_right(&leaves, at);
		if (at)
			ctx->out[5] = container_of(at, struct leaf, node)->key;
	}
	at = bpf_rbtree_right(&leaves, top);
	if (at) {
		ctx->out[3] = container_of(at, struct leaf, node)->key;
		at = bpf_rbtree_left(&leaves, at);
		if (at)
			ctx->out[6] = container_of(at, struct leaf, node)->key;
	}
	at = bpf_rbtree_right(&leaves, top);
	if (at) {
		at = bpf_rbtree_right(&leaves, at);
		if (at)
			ctx->out[7] = container_of(at, struct leaf, node)->key;
	}
done:
	bpf_spin_unlock(&leaf_lock);
	return 0;
}

// Takes out the first leaf (in[0] is 0) or the one at the top; gives its key.
SEC("syscall") int prune(struct owned_ctx *ctx)
{
	struct bpf_rb_node *node;
	struct leaf *leaf;

	bpf_spin_lock(&leaf_lock);
	if (ctx->in[0])
		node = bpf_rbtree_root(&leaves);
	else
		node = bpf_rbtree_first(&leaves);
	if (!node) {
		bpf_spin_unlock(&leaf_lock);
		return 1;
	}
	node = bpf_rbtree_remove(&leaves, node);
	bpf_spin_unlock(&leaf_lock);
	if (!node)
		return 2;
	leaf = container_of(node, struct leaf, node);
	ctx->out[0] = leaf->key;
	bpf_obj_drop(leaf);
	return 0;
}

// An item in the list and in the tree, twice owned; each end gives it back once.
SEC("syscall") int twice(struct owned_ctx *ctx)
{
	struct bpf_list_node *listed;
	struct bpf_rb_node *node;
	struct item *item, *same;

	item = bpf_obj_new(struct item);
	if (!item)
		return 1;
	item->key = ctx->in[0];
	same = bpf_refcount_acquire(item);
	bpf_spin_lock(&tree_lock);
	ctx->out[0] = bpf_rbtree_add(&tree, &item->in_tree, item_less);
	ctx->out[1] = bpf_list_push_back(&list, &same->in_list);
	bpf_spin_unlock(&tree_lock);

	bpf_spin_lock(&tree_lock);
	listed = bpf_list_pop_front(&list);
	bpf_spin_unlock(&tree_lock);
	if (!listed)
		return 2;
	item = container_of(listed, struct item, in_list);
	ctx->out[2] = item->key;
	item->key++;
	bpf_obj_drop(item);

	bpf_spin_lock(&tree_lock);
	node = bpf_rbtree_first(&tree);
	if (!node) {
		bpf_spin_unlock(&tree_lock);
		return 3;
	}
	node = bpf_rbtree_remove(&tree, node);
	bpf_spin_unlock(&tree_lock);
	if (!node)
		return 4;
	item = container_of(node, struct item, in_tree);
	ctx->out[3] = item->key;
	bpf_obj_drop(item);
	return 0;
}

// A node that is in a tree already is refused, and uses up one owner.
SEC("syscall") int already(struct owned_ctx *ctx)
{
	struct bpf_rb_node *node;
	struct item *item, *same;

	item = bpf_obj_new(struct item);
	if (!item)
		return 1;
	item->key = 5;
	same = bpf_refcount_acquire(item);
	bpf_spin_lock(&tree_lock);
	ctx->out[0] = bpf_rbtree_add(&tree, &item->in_tree, item_less);
	ctx->out[1] = bpf_rbtree_add(&tree, &same->in_tree, item_less);
	node = bpf_rbtree_first(&tree);
	if (!node) {
		bpf_spin_unlock(&tree_lock);
		return 2;
	}
	node = bpf_rbtree_remove(&tree, node);
	bpf_spin_unlock(&tree_lock);
	if (!node)
		return 3;
	item = container_of(node, struct item, in_tree);
	ctx->out[2] = item->key;
	bpf_obj_drop(item);
	return 0;
}

// Pushes three items and pops from both ends.
SEC("syscall") int queue(struct owned_ctx *ctx)
{
	struct bpf_list_node *node;
	struct item *item;
	int i;

	for (i = 0; i < 4; i++) {
		item = bpf_obj_new(struct item);
		if (!item)
			return 1;
		item->key = 10 + i;
		bpf_spin_lock(&tree_lock);
		if (i & 1)
			bpf_list_push_front(&list, &item->in_list);
		else
			bpf_list_push_back(&list, &item->in_list);
		bpf_spin_unlock(&tree_lock);
	}
	bpf_spin_lock(&tree_lock);
	node = bpf_list_front(&list);
	if (node)
		ctx->out[4] = container_of(node, struct item, in_list)->key;
	node = bpf_list_back(&list);
	if (node)
		ctx->out[5] = container_of(node, struct item, in_list)->key;
	bpf_spin_unlock(&tree_lock);
	for (i = 0; i < 5; i++) {
		bpf_spin_lock(&tree_lock);
		if (i == 1)
			node = bpf_list_pop_back(&list);
		else
			node = bpf_list_pop_front(&list);
		bpf_spin_unlock(&tree_lock);
		if (!node) {
			ctx->out[6] = i;
			break;
		}
		item = container_of(node, struct item, in_list);
		if (i < 4)
			ctx->out[i] = item->key;
		bpf_obj_drop(item);
	}
	return 0;
}

// Fills a map's value with all that it can own: out[0] is what was there before.
static __always_inline int fill(struct shelf *shelf, u64 *out)
{
	struct counter __percpu_kptr *counter;
	struct item *item, *old;
	struct leaf *leaf;
	struct box *box;

	item = bpf_obj_new(struct item);
	if (!item)
		return 1;
	item->key = 1;
	bpf_spin_lock(&shelf->lock);
	bpf_list_push_back(&shelf->items, &item->in_list);
	bpf_spin_unlock(&shelf->lock);

	item = bpf_obj_new(struct item);
	if (!item)
		return 2;
	item->key = 2;
	old = bpf_kptr_xchg(&shelf->stashed, item);
	if (old) {
		*out = old->key;
		bpf_obj_drop(old);
	}

	box = bpf_obj_new(struct box);
	if (!box)
		return 3;
	leaf = bpf_obj_new(struct leaf);
	if (!leaf) {
		bpf_obj_drop(box);
		return 4;
	}
	leaf->key = 3;
	bpf_spin_lock(&box->lock);
	bpf_rbtree_add(&box->leaves, &leaf->node, leaf_less);
	bpf_spin_unlock(&box->lock);
	box = bpf_kptr_xchg(&shelf->box, box);
	if (box)
		bpf_obj_drop(box);

	counter = bpf_percpu_obj_new(struct counter);
	if (!counter)
		return 5;
	counter = bpf_kptr_xchg(&shelf->counter, counter);
	if (counter)
		bpf_percpu_obj_drop(counter);
	return 0;
}

SEC("syscall") int fill_shelf(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf new = {}, *shelf;

	bpf_map_update_elem(&shelves, &key, &new, 1);
	shelf = bpf_map_lookup_elem(&shelves, &key);
	if (!shelf)
		return -1;
	return fill(shelf, &ctx->out[0]);
}

SEC("syscall") int fill_rack(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf *rack = bpf_map_lookup_elem(&racks, &key);

	if (!rack)
		return -1;
	return fill(rack, &ctx->out[0]);
}

// What a value owns, by bits: 1 the list, 2 the item, 4 the box, 8 the counter.
static __always_inline u64 look(struct shelf *shelf)
{
	u64 has = 0;

	bpf_spin_lock(&shelf->lock);
	if (bpf_list_front(&shelf->items))
		has |= 1;
	bpf_spin_unlock(&shelf->lock);
	bpf_rcu_read_lock();
	if (shelf->stashed)
		has |= 2;
	if (shelf->box)
		has |= 4;
	if (shelf->counter)
		has |= 8;
	bpf_rcu_read_unlock();
	return has;
}

SEC("syscall") int look_at_shelf(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf *shelf = bpf_map_lookup_elem(&shelves, &key);

	if (!shelf)
		return 1;
	ctx->out[0] = look(shelf);
	ctx->out[1] = shelf->label;
	return 0;
}

SEC("syscall") int look_at_rack(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf *rack = bpf_map_lookup_elem(&racks, &key);

	if (!rack)
		return 1;
	ctx->out[0] = look(rack);
	ctx->out[1] = rack->label;
	return 0;
}

SEC("syscall") int clear_shelf(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];

	return bpf_map_delete_elem(&shelves, &key);
}

// Replaces a value; what the old one owned goes.
SEC("syscall") int relabel(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf new = { .label = ctx->in[1] };
	long err;

	err = bpf_map_update_elem(&shelves, &key, &new, 0);
	return err ?: bpf_map_update_elem(&racks, &key, &new, 0);
}

// The copies of the counter in a rack: adds to this CPU's, and gives that of CPU 0.
SEC("syscall") int count(struct owned_ctx *ctx)
{
	u32 key = ctx->in[0];
	struct shelf *rack = bpf_map_lookup_elem(&racks, &key);
	struct counter __percpu_kptr *counter;
	struct counter *mine, *first;

	if (!rack)
		return -1;
	bpf_rcu_read_lock();
	counter = rack->counter;
	if (!counter) {
		bpf_rcu_read_unlock();
		return 1;
	}
	mine = bpf_this_cpu_ptr(counter);
	mine->value++;
	mine->parts[3] += 2;
	first = bpf_per_cpu_ptr(counter, 0);
	if (first)
		ctx->out[0] = first->value + first->parts[3];
	ctx->out[1] = !bpf_per_cpu_ptr(counter, 1 << 20);
	bpf_rcu_read_unlock();
	return 0;
}
