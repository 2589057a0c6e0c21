// SPDX-License-Identifier: MIT OR Apache-2.0
//
// owned7: objects by the names that Linux 7 gives the kfuncs, and those that it has added.
#include "scx.h"
#include "owned.h"

char _license[] SEC("license") = "GPL";

#undef bpf_obj_new
#undef bpf_obj_drop
#undef bpf_percpu_obj_new
#undef bpf_percpu_obj_drop
#undef bpf_refcount_acquire
#undef bpf_list_push_front
#undef bpf_list_push_back
#undef bpf_rbtree_add

void *bpf_obj_new(u64 local_type_id) __ksym;
void bpf_obj_drop(void *object) __ksym;
void *bpf_percpu_obj_new(u64 local_type_id) __ksym;
void bpf_percpu_obj_drop(void *object) __ksym;
void *bpf_refcount_acquire(void *object) __ksym;
int bpf_list_push_front(struct bpf_list_head *head, struct bpf_list_node *node) __ksym;
int bpf_list_push_back(struct bpf_list_head *head, struct bpf_list_node *node) __ksym;
int bpf_list_add(struct bpf_list_head *head, struct bpf_list_node *new,
		 struct bpf_list_node *prev) __ksym;
struct bpf_list_node *bpf_list_del(struct bpf_list_head *head, struct bpf_list_node *node) __ksym;
bool bpf_list_empty(struct bpf_list_head *head) __ksym;
bool bpf_list_is_first(struct bpf_list_head *head, struct bpf_list_node *node) __ksym;
bool bpf_list_is_last(struct bpf_list_head *head, struct bpf_list_node *node) __ksym;
int bpf_rbtree_add(struct bpf_rb_root *root, struct bpf_rb_node *node,
		   bool (*less)(struct bpf_rb_node *a, const struct bpf_rb_node *b)) __ksym;

#define NEW(type) ((type *)bpf_obj_new(__builtin_btf_type_id(*(type *)0, 0)))

struct owned_ctx {
	u64 in[4];
	u64 out[12];
};

struct item {
	u64 key;
	struct bpf_refcount refs;
	struct bpf_list_node in_list;
	struct bpf_rb_node in_tree;
};

struct pair {
	struct item __kptr *left, *right;
};

struct copies {
	u64 value;
};

// As large as an object can be, and one byte more.
struct largest {
	u8 bytes[4088];
};

struct too_large {
	u8 bytes[4089];
};

struct large_copies {
	u8 bytes[513];
};

struct nothing {
};

// Drops the older of its pairs to make room.
struct {
	__uint(type, 9); // BPF_MAP_TYPE_LRU_HASH
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct pair);
} pairs SEC(".maps");

in_section(A) struct bpf_res_spin_lock lock;
in_section(A) struct bpf_list_head list __contains(item, in_list);
in_section(A) struct bpf_rb_root tree __contains(item, in_tree);

static bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct item, in_tree)->key <
	       container_of(b, struct item, in_tree)->key;
}

static __always_inline struct item *new_item(u64 key)
{
	struct item *item = NEW(struct item);

	if (item)
		item->key = key;
	return item;
}

// Items 1, 2, 3 by three ways into the list; then what is where, and out again.
SEC("syscall") int middle(struct owned_ctx *ctx)
{
	struct item *one = new_item(1), *two = new_item(2), *three = new_item(3), *same;
	struct bpf_list_node *node;
	int i;

	if (!one || !two || !three)
		return 1;
	same = bpf_refcount_acquire(two);
	if (bpf_res_spin_lock(&lock))
		return 2;
	ctx->out[0] = bpf_list_empty(&list);
	bpf_list_push_front(&list, &three->in_list);
	bpf_list_push_front(&list, &one->in_list);
	ctx->out[1] = bpf_list_add(&list, &two->in_list, &one->in_list);
	// It is there already: one owner less.
	ctx->out[2] = bpf_list_add(&list, &same->in_list, &one->in_list);
	ctx->out[3] = bpf_list_is_first(&list, &one->in_list) |
		      bpf_list_is_last(&list, &three->in_list) << 1 |
		      bpf_list_is_first(&list, &two->in_list) << 2 |
		      bpf_list_is_last(&list, &two->in_list) << 3 | bpf_list_empty(&list) << 4;
	node = bpf_list_del(&list, &two->in_list);
	ctx->out[4] = !node;
	ctx->out[5] = !bpf_list_del(&list, &two->in_list);
	bpf_res_spin_unlock(&lock);
	if (!node)
		return 3;
	bpf_obj_drop(container_of(node, struct item, in_list));
	for (i = 6; i < 8; i++) {
		if (bpf_res_spin_lock(&lock))
			return 4;
		node = bpf_list_pop_front(&list);
		bpf_res_spin_unlock(&lock);
		if (!node)
			return 5;
		ctx->out[i] = container_of(node, struct item, in_list)->key;
		bpf_obj_drop(container_of(node, struct item, in_list));
	}
	return 0;
}

SEC("syscall") int tree_of_two(struct owned_ctx *ctx)
{
	struct item *one = new_item(1), *two = new_item(2);
	struct bpf_rb_node *first, *second;

	if (!one || !two)
		return 1;
	if (bpf_res_spin_lock(&lock))
		return 2;
	bpf_rbtree_add(&tree, &two->in_tree, less);
	bpf_rbtree_add(&tree, &one->in_tree, less);
	first = bpf_rbtree_remove(&tree, &two->in_tree);
	// It is not in the tree any more.
	ctx->out[0] = !bpf_rbtree_remove(&tree, &two->in_tree);
	ctx->out[1] = !bpf_rbtree_left(&tree, &two->in_tree);
	second = bpf_rbtree_remove(&tree, &one->in_tree);
	bpf_res_spin_unlock(&lock);
	if (!first || !second)
		return 3;
	ctx->out[2] = container_of(first, struct item, in_tree)->key;
	bpf_obj_drop(container_of(first, struct item, in_tree));
	bpf_obj_drop(container_of(second, struct item, in_tree));
	return 0;
}

SEC("syscall") int sizes(struct owned_ctx *ctx)
{
	struct largest *largest = NEW(struct largest);
	void *copies = bpf_percpu_obj_new(__builtin_btf_type_id(*(struct copies *)0, 0));

	ctx->out[0] = !largest;
	if (largest)
		bpf_obj_drop(largest);
	ctx->out[1] = !NEW(struct too_large);
	ctx->out[2] = !NEW(struct nothing);
	ctx->out[3] = !copies;
	if (copies)
		bpf_percpu_obj_drop(copies);
	if (ctx->in[0])
		bpf_percpu_obj_new(__builtin_btf_type_id(*(struct large_copies *)0, 0));
	return 0;
}

// A pair of items in an object that is dropped, or (in[1]) under the key in[0] in the map.
SEC("syscall") int pair(struct owned_ctx *ctx)
{
	struct pair *pair = NEW(struct pair), *slot, empty = {};
	struct item *left = new_item(1), *right = new_item(2);
	u32 key = ctx->in[0];

	if (!pair || !left || !right)
		return 1;
	if (ctx->in[1]) {
		bpf_map_update_elem(&pairs, &key, &empty, 0);
		slot = bpf_map_lookup_elem(&pairs, &key);
	} else {
		slot = pair;
	}
	if (!slot)
		return 2;
	ctx->out[0] = !bpf_kptr_xchg(&slot->left, left);
	ctx->out[1] = !bpf_kptr_xchg(&slot->right, right);
	bpf_obj_drop(pair);
	return 0;
}

// The memory of what is dropped stays for the run; nobody owns it again.
SEC("syscall") int late(struct owned_ctx *ctx)
{
	struct item *item = new_item(5);

	if (!item)
		return 1;
	bpf_obj_drop(item);
	ctx->out[0] = item->key;
	ctx->out[1] = !bpf_refcount_acquire(item);
	return 0;
}
