// SPDX-License-Identifier: MIT OR Apache-2.0
//
// dynptr: pointers with a length, to a map's value and to records of a ring buffer.
//
// Programs of type `syscall` that give their results in a context. A kernel loads all but the last
// ones, of which `misuse` does what in[0] says.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS

struct bpf_dynptr {
	u64 __opaque[2];
} __attribute__((aligned(8)));

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_copy_from_user)(void *dst, u32 size, const void *user) = (void *)148;
static long (*const bpf_dynptr_from_mem)(void *data, u64 size, u64 flags,
					 struct bpf_dynptr *ptr) = (void *)197;
static long (*const bpf_ringbuf_reserve_dynptr)(void *ringbuf, u32 size, u64 flags,
						struct bpf_dynptr *ptr) = (void *)198;
static void (*const bpf_ringbuf_submit_dynptr)(struct bpf_dynptr *ptr, u64 flags) = (void *)199;
static void (*const bpf_ringbuf_discard_dynptr)(struct bpf_dynptr *ptr, u64 flags) = (void *)200;
static long (*const bpf_dynptr_read)(void *dst, u64 len, const struct bpf_dynptr *src, u64 offset,
				     u64 flags) = (void *)201;
static long (*const bpf_dynptr_write)(const struct bpf_dynptr *dst, u64 offset, void *src, u64 len,
				      u64 flags) = (void *)202;
static void *(*const bpf_dynptr_data)(const struct bpf_dynptr *ptr, u64 offset,
				      u64 len) = (void *)203;

#define BPF_MAP_TYPE_RINGBUF 27

#endif

int bpf_dynptr_adjust(struct bpf_dynptr *p, u64 start, u64 end) __ksym;
bool bpf_dynptr_is_null(const struct bpf_dynptr *p) __ksym;
bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *p) __ksym;
u64 bpf_dynptr_size(const struct bpf_dynptr *p) __ksym;
int bpf_dynptr_clone(const struct bpf_dynptr *p, struct bpf_dynptr *clone__uninit) __ksym;
void *bpf_dynptr_slice(const struct bpf_dynptr *p, u64 offset, void *buffer__nullable,
		       u64 buffer__szk) __ksym;
void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *p, u64 offset, void *buffer__nullable,
			    u64 buffer__szk) __ksym;
int bpf_dynptr_copy(const struct bpf_dynptr *dst_ptr, u64 dst_off, const struct bpf_dynptr *src_ptr,
		    u64 src_off, u64 size) __ksym;
int bpf_dynptr_memset(const struct bpf_dynptr *p, u64 offset, u64 size, u8 val) __ksym;

int bpf_probe_read_kernel_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size,
				 const void *unsafe_ptr__ign) __ksym;
int bpf_probe_read_kernel_str_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size,
				     const void *unsafe_ptr__ign) __ksym;
int bpf_probe_read_user_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size,
			       const void *unsafe_ptr__ign) __ksym;
int bpf_copy_from_user_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size,
			      const void *unsafe_ptr__ign) __ksym;
int bpf_copy_from_user_str(void *dst, u32 dst__sz, const void *unsafe_ptr__ign, u64 flags) __ksym;

struct dynptr_ctx {
	u64 in[4];
	u64 out[12];
};

#define BYTES 64

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, u8[BYTES]);
} memory SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

// Two views of a value: what goes in by one comes out of the other.
SEC("syscall") int local(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr all, part, none;
	u64 word = 0x1122334455667788;
	u32 key = 0;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key), *byte;

	if (!bytes)
		return 1;
	if (bpf_dynptr_from_mem(bytes, BYTES, 0, &all))
		return 2;
	ctx->out[0] = bpf_dynptr_size(&all);
	ctx->out[1] = bpf_dynptr_write(&all, 8, &word, sizeof(word), 0);
	bpf_dynptr_clone(&all, &part);
	ctx->out[2] = bpf_dynptr_adjust(&part, 8, 24);
	ctx->out[3] = bpf_dynptr_size(&part);
	bpf_dynptr_adjust(&part, 2, 16);
	word = 0;
	ctx->out[4] = bpf_dynptr_read(&word, 4, &part, 0, 0);
	ctx->out[5] = word;
	byte = bpf_dynptr_data(&all, 8, 1);
	if (byte)
		ctx->out[6] = *byte;
	byte = bpf_dynptr_slice(&part, 5, NULL, 1);
	if (byte)
		ctx->out[7] = *byte;
	byte = bpf_dynptr_data(&part, 6, 1);
	if (byte)
		*byte = 0x99;
	ctx->out[8] = bytes[16];
	ctx->out[9] = bpf_dynptr_is_null(&all) | bpf_dynptr_is_rdonly(&all) << 1;
	ctx->out[10] = bpf_dynptr_from_mem(bytes, BYTES, 1, &none);
	ctx->out[11] = bpf_dynptr_is_null(&none) | bpf_dynptr_is_rdonly(&none) << 1;
	return 0;
}

// What is too far, with in[0] as a length and in[1] as an offset.
SEC("syscall") int errors(struct dynptr_ctx *ctx)
{
	u64 len = ctx->in[0], offset = ctx->in[1], word = 0;
	struct bpf_dynptr all, none, clone;
	u32 key = 1;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key);

	if (!bytes || len > 8)
		return 1;
	bpf_dynptr_from_mem(bytes, BYTES, 0, &all);
	ctx->out[0] = bpf_dynptr_read(&word, len, &all, offset, 0);
	ctx->out[1] = bpf_dynptr_write(&all, offset, &word, len, 0);
	ctx->out[2] = bpf_dynptr_read(&word, len, &all, offset, 1);
	ctx->out[3] = bpf_dynptr_write(&all, offset, &word, len, 1);
	ctx->out[4] = !bpf_dynptr_slice(&all, offset, NULL, 8);
	ctx->out[5] = bpf_dynptr_adjust(&all, offset, len);
	ctx->out[6] = bpf_dynptr_adjust(&all, 0, offset);
	ctx->out[7] = bpf_dynptr_size(&all);
	bpf_dynptr_from_mem(bytes, BYTES, 2, &none);
	ctx->out[8] = bpf_dynptr_read(&word, len, &none, offset, 0);
	ctx->out[9] = bpf_dynptr_adjust(&none, 0, 0);
	ctx->out[10] = bpf_dynptr_clone(&none, &clone);
	ctx->out[11] = (u32)bpf_dynptr_size(&clone);
	return 0;
}

// Copies and fills.
SEC("syscall") int fill(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr a, b, none;
	u32 zero = 0, one = 1;
	u8 *from = bpf_map_lookup_elem(&memory, &zero);
	u8 *to = bpf_map_lookup_elem(&memory, &one);

	if (!from || !to)
		return 1;
	bpf_dynptr_from_mem(from, BYTES, 0, &a);
	bpf_dynptr_from_mem(to, BYTES, 0, &b);
	bpf_dynptr_from_mem(to, BYTES, 1, &none);
	ctx->out[0] = bpf_dynptr_memset(&a, 4, 8, ctx->in[0]);
	ctx->out[1] = bpf_dynptr_copy(&b, 16, &a, 0, 16);
	ctx->out[2] = *(u64 *)(to + 16);
	ctx->out[3] = bpf_dynptr_copy(&b, 56, &a, 0, 16);
	ctx->out[4] = bpf_dynptr_copy(&b, 0, &a, 56, 16);
	ctx->out[5] = bpf_dynptr_copy(&none, 0, &a, 0, 1);
	ctx->out[6] = bpf_dynptr_copy(&b, 0, &none, 0, 1);
	ctx->out[7] = bpf_dynptr_copy(&b, 0, &none, 0, 0);
	ctx->out[8] = bpf_dynptr_memset(&b, 60, 5, 1);
	ctx->out[9] = bpf_dynptr_memset(&none, 0, 1, 1);
	// Overlapping.
	bpf_dynptr_memset(&a, 0, 64, 0);
	bpf_dynptr_memset(&a, 0, 4, 7);
	bpf_dynptr_copy(&a, 2, &a, 0, 8);
	ctx->out[10] = *(u64 *)from;
	return 0;
}

// A record with in[0] in it, or two that are discarded; then one that never fits.
SEC("syscall") int record(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr ptr, clone;
	u64 value = ctx->in[0], *word;

	ctx->out[0] = bpf_ringbuf_reserve_dynptr(&ring, 16, 0, &ptr);
	ctx->out[1] = bpf_dynptr_size(&ptr);
	bpf_dynptr_clone(&ptr, &clone);
	bpf_dynptr_adjust(&clone, 8, 16);
	bpf_dynptr_write(&ptr, 0, &value, sizeof(value), 0);
	word = bpf_dynptr_data(&clone, 0, 8);
	if (word)
		*word = ~value;
	if (ctx->in[1])
		bpf_ringbuf_discard_dynptr(&clone, 0);
	else
		bpf_ringbuf_submit_dynptr(&ptr, 0);
	ctx->out[2] = bpf_ringbuf_reserve_dynptr(&ring, 8192, 0, &ptr);
	ctx->out[3] = bpf_dynptr_is_null(&ptr);
	bpf_ringbuf_submit_dynptr(&ptr, 0);
	ctx->out[4] = bpf_ringbuf_reserve_dynptr(&ring, 8, 1, &ptr);
	bpf_ringbuf_discard_dynptr(&ptr, 0);
	ctx->out[5] = bpf_ringbuf_reserve_dynptr(&ring, 1 << 24, 0, &ptr);
	bpf_ringbuf_discard_dynptr(&ptr, 0);
	return 0;
}

char text[16] = "a scheduler";

// Into a dynptr, from a text and from where nothing is.
SEC("syscall") int probes(struct dynptr_ctx *ctx)
{
	const void *gone = (void *)0xffff800000000000;
	struct bpf_dynptr all, none;
	u32 key = 0;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key);

	if (!bytes)
		return 1;
	bpf_dynptr_from_mem(bytes, BYTES, 0, &all);
	bpf_dynptr_from_mem(bytes, BYTES, 1, &none);
	bpf_dynptr_memset(&all, 0, BYTES, 0xee);
	ctx->out[0] = bpf_probe_read_kernel_dynptr(&all, 0, 5, text);
	ctx->out[1] = *(u64 *)bytes;
	ctx->out[2] = bpf_probe_read_kernel_dynptr(&all, 60, 5, text);
	ctx->out[3] = bpf_probe_read_kernel_dynptr(&none, 0, 5, text);
	// What is left there then depends on the machine.
	ctx->out[4] = bpf_probe_read_kernel_dynptr(&all, 8, 8, gone);
	ctx->out[5] = *(u64 *)(bytes + 16);
	ctx->out[6] = bpf_probe_read_kernel_str_dynptr(&all, 16, 16, text);
	ctx->out[7] = *(u64 *)(bytes + 24);
	ctx->out[8] = bpf_probe_read_kernel_str_dynptr(&all, 32, 4, text);
	ctx->out[9] = *(u64 *)(bytes + 32);
	ctx->out[10] = bpf_probe_read_kernel_str_dynptr(&all, 40, 4, gone);
	ctx->out[11] = *(u64 *)(bytes + 40);
	return 0;
}

// From a user that is not there.
SEC("syscall") int users(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr all;
	u64 word = 0x1111111111111111;
	u32 key = 0;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key);

	if (!bytes)
		return 1;
	bpf_dynptr_from_mem(bytes, BYTES, 0, &all);
	bpf_dynptr_memset(&all, 0, BYTES, 0xee);
	ctx->out[0] = bpf_probe_read_user_dynptr(&all, 0, 4, NULL);
	ctx->out[1] = *(u64 *)bytes;
	ctx->out[2] = bpf_copy_from_user_dynptr(&all, 8, 4, NULL);
	ctx->out[3] = bpf_copy_from_user_dynptr(&all, 62, 4, NULL);
	ctx->out[4] = bpf_copy_from_user_str(&word, 4, NULL, 0);
	ctx->out[5] = word;
	ctx->out[6] = bpf_copy_from_user_str(&word, 4, NULL, 1);
	ctx->out[7] = word;
	ctx->out[8] = bpf_copy_from_user_str(&word, 4, NULL, 2);
	ctx->out[9] = bpf_copy_from_user(&word, 8, NULL);
	ctx->out[10] = word;
	ctx->out[11] = *(u64 *)(bytes + 8);
	return 0;
}

enum mode {
	CORRECT,
	LEAK,
	LEAK_NULL,
	SUBMIT_TWICE,
	SUBMIT_LOCAL,
	READ_CLONE_OF_SUBMITTED,
	READ_NOTHING,
	READ_OVERWRITTEN,
	FROM_STACK,
	NOT_ON_STACK,
	FROM_NOWHERE,
	READ_TO_NOWHERE,
};

static __noinline int in_frame(struct dynptr_ctx *ctx, u8 *bytes)
{
	struct bpf_dynptr ptr;

	return bpf_dynptr_from_mem(bytes, BYTES, 0, &ptr);
}

#ifndef FOR_A_KERNEL

// For programs that write to packets, where there are some.
SEC("syscall") int sliced(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr all;
	u32 key = 0;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key), *byte;

	if (!bytes)
		return 1;
	bpf_dynptr_from_mem(bytes, BYTES, 0, &all);
	byte = bpf_dynptr_slice_rdwr(&all, 6, NULL, 1);
	if (!byte)
		return 2;
	*byte = ctx->in[0];
	ctx->out[0] = bytes[6];
	ctx->out[1] = !bpf_dynptr_slice_rdwr(&all, 60, NULL, 5);
	return 0;
}

SEC("syscall") int misuse(struct dynptr_ctx *ctx)
{
	struct bpf_dynptr ptr, clone;
	u64 mode = ctx->in[0], word = 0;
	u32 key = 0;
	u8 *bytes = bpf_map_lookup_elem(&memory, &key);

	if (!bytes)
		return 1;
	switch (mode) {
	case LEAK:
		return bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &ptr);
	case LEAK_NULL:
		return bpf_ringbuf_reserve_dynptr(&ring, 1 << 20, 0, &ptr);
	case SUBMIT_TWICE:
		bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &ptr);
		bpf_ringbuf_submit_dynptr(&ptr, 0);
		bpf_ringbuf_submit_dynptr(&ptr, 0);
		return 0;
	case SUBMIT_LOCAL:
		bpf_dynptr_from_mem(bytes, BYTES, 0, &ptr);
		bpf_ringbuf_submit_dynptr(&ptr, 0);
		return 0;
	case READ_CLONE_OF_SUBMITTED:
		bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &ptr);
		bpf_dynptr_clone(&ptr, &clone);
		bpf_ringbuf_submit_dynptr(&ptr, 0);
		return bpf_dynptr_read(&word, 8, &clone, 0, 0);
	case READ_NOTHING:
		ptr.__opaque[0] = ptr.__opaque[1] = (u64)bytes;
		return bpf_dynptr_read(&word, 8, &ptr, 0, 0);
	case READ_OVERWRITTEN:
		bpf_dynptr_from_mem(bytes, BYTES, 0, &ptr);
		*(volatile u64 *)&ptr.__opaque[1] = ~0ULL >> 8;
		return bpf_dynptr_read(&word, 8, &ptr, 1 << 20, 0);
	case FROM_STACK:
		return bpf_dynptr_from_mem(&word, 8, 0, &ptr);
	case NOT_ON_STACK:
		return bpf_dynptr_from_mem(bytes, 8, 0, (void *)(bytes + 16));
	case FROM_NOWHERE:
		return bpf_dynptr_from_mem((void *)0x1234, 8, 0, &ptr);
	case READ_TO_NOWHERE:
		bpf_dynptr_from_mem(bytes, BYTES, 0, &ptr);
		return bpf_dynptr_read((void *)0x1234, 8, &ptr, 0, 0);
	}
	return in_frame(ctx, bytes);
}

#endif
