// SPDX-License-Identifier: MIT OR Apache-2.0
//
// strings: the kfuncs on strings, and the iterator over bits. A kernel loads all of it.
#include "scx.h"

char _license[] SEC("license") = "GPL";

#ifndef HARENA_SCX_HEADERS

struct bpf_iter_bits {
	u64 __opaque[2];
} __attribute__((aligned(8)));

struct bpf_dynptr {
	u64 __opaque[2];
} __attribute__((aligned(8)));

static long (*const bpf_strtol)(const char *buf, u64 buf_len, u64 flags,
				 long *res) = (void *)105;
static long (*const bpf_strtoul)(const char *buf, u64 buf_len, u64 flags,
				  unsigned long *res) = (void *)106;
static long (*const bpf_dynptr_from_mem)(void *data, u64 size, u64 flags,
					 struct bpf_dynptr *ptr) = (void *)197;

#endif

int bpf_dynptr_memset(const struct bpf_dynptr *p, u64 offset, u64 size, u8 val) __ksym;

int bpf_iter_bits_new(struct bpf_iter_bits *it, const u64 *unsafe_ptr__ign, u32 nr_words) __ksym;
int *bpf_iter_bits_next(struct bpf_iter_bits *it) __ksym;
void bpf_iter_bits_destroy(struct bpf_iter_bits *it) __ksym;

int bpf_strlen(const char *s__ign) __ksym;
int bpf_strnlen(const char *s__ign, u64 count) __ksym;
int bpf_strcmp(const char *s1__ign, const char *s2__ign) __ksym;
int bpf_strchr(const char *s__ign, char c) __ksym;
int bpf_strnchr(const char *s__ign, u64 count, char c) __ksym;
int bpf_strchrnul(const char *s__ign, char c) __ksym;
int bpf_strrchr(const char *s__ign, int c) __ksym;
int bpf_strspn(const char *s__ign, const char *accept__ign) __ksym;
int bpf_strcspn(const char *s__ign, const char *reject__ign) __ksym;
int bpf_strstr(const char *s1__ign, const char *s2__ign) __ksym;
int bpf_strnstr(const char *s1__ign, const char *s2__ign, u64 len) __ksym;
int bpf_strcasecmp(const char *s1__ign, const char *s2__ign) __ksym __weak;
int bpf_strncasecmp(const char *s1__ign, const char *s2__ign, u64 len) __ksym __weak;
int bpf_strcasestr(const char *s1__ign, const char *s2__ign) __ksym __weak;
int bpf_strncasestr(const char *s1__ign, const char *s2__ign, u64 len) __ksym __weak;

struct strings_ctx {
	u64 in[4];
	u64 out[12];
};

#define LONG (1 << 17)

char text[] = "a scheduler";
char word[] = "sch";
char upper[] = "A Scheduler, \xc0";
char lower[] = "a sCHEDULER, \xe0";
char empty[] = "";
char aaa[] = "aaab";
char endless[LONG];
u64 words[600];

SEC("syscall") int lengths(struct strings_ctx *ctx)
{
	ctx->out[0] = bpf_strlen(text);
	ctx->out[1] = bpf_strnlen(text, 4);
	ctx->out[2] = bpf_strnlen(text, 40);
	ctx->out[3] = bpf_strlen(empty);
	ctx->out[4] = bpf_strnlen(text, 0);
	ctx->out[5] = bpf_strspn(text, "a chs");
	ctx->out[6] = bpf_strspn(text, "x");
	ctx->out[7] = bpf_strcspn(text, "uvw");
	ctx->out[8] = bpf_strcspn(text, "xyz");
	ctx->out[9] = bpf_strspn(text, text);
	return 0;
}

SEC("syscall") int characters(struct strings_ctx *ctx)
{
	ctx->out[0] = bpf_strchr(text, 'e');
	ctx->out[1] = bpf_strchr(text, 'x');
	ctx->out[2] = bpf_strchr(text, 0);
	ctx->out[3] = bpf_strnchr(text, 5, 'e');
	ctx->out[4] = bpf_strnchr(text, 6, 'e');
	ctx->out[5] = bpf_strrchr(text, 'e');
	ctx->out[6] = bpf_strrchr(text, 0);
	ctx->out[7] = bpf_strrchr(text, 'x');
	ctx->out[8] = bpf_strchrnul(text, 'x');
	ctx->out[9] = bpf_strchrnul(text, 'e');
	ctx->out[10] = bpf_strrchr(text, 'e' + 256);
	ctx->out[11] = bpf_strnchr(text, 0, 'a');
	return 0;
}

SEC("syscall") int comparisons(struct strings_ctx *ctx)
{
	ctx->out[0] = bpf_strcmp(text, text);
	ctx->out[1] = bpf_strcmp(text, word);
	ctx->out[2] = bpf_strcmp(word, text);
	ctx->out[3] = bpf_strcmp(upper, lower);
	ctx->out[4] = bpf_strcmp(empty, text);
	ctx->out[5] = bpf_strcmp("\x80", "\x7f");
	return 0;
}

SEC("syscall") int searches(struct strings_ctx *ctx)
{
	ctx->out[0] = bpf_strstr(text, word);
	ctx->out[1] = bpf_strstr(word, text);
	ctx->out[2] = bpf_strstr(text, empty);
	ctx->out[3] = bpf_strnstr(text, word, 4);
	ctx->out[4] = bpf_strnstr(text, word, 5);
	ctx->out[5] = bpf_strnstr(text, word, 6);
	ctx->out[6] = bpf_strstr(aaa, "aab");
	ctx->out[7] = bpf_strnstr(text, empty, 0);
	ctx->out[8] = bpf_strnstr(text, "x", 0);
	ctx->out[9] = bpf_strstr(empty, empty);
	ctx->out[10] = bpf_strstr(text, "ler");
	return 0;
}

// Without case. Kernels before 7.0 have one of the four.
SEC("syscall") int caseless(struct strings_ctx *ctx)
{
	if (bpf_ksym_exists(bpf_strcasecmp)) {
		ctx->out[0] = bpf_strcasecmp(upper, lower);
		ctx->out[1] = bpf_strcasecmp(upper, text);
		ctx->out[2] = bpf_strcasecmp(word, upper);
	}
	if (bpf_ksym_exists(bpf_strncasecmp)) {
		ctx->out[3] = bpf_strncasecmp(upper, text, 11);
		ctx->out[4] = bpf_strncasecmp(upper, text, 12);
	}
	if (bpf_ksym_exists(bpf_strcasestr))
		ctx->out[5] = bpf_strcasestr(text, "SCHED");
	if (bpf_ksym_exists(bpf_strncasestr)) {
		ctx->out[6] = bpf_strncasestr(text, "SCHED", 7);
		ctx->out[7] = bpf_strncasestr(text, "SCHED", 6);
	}
	return 0;
}

// Pointers to no string: of users, to nothing, and to a very long one.
SEC("syscall") int no_strings(struct strings_ctx *ctx)
{
	char *user = (void *)0x1000, *gone = (void *)0xffff800000000000;
	struct bpf_dynptr all;

	bpf_dynptr_from_mem(endless, LONG, 0, &all);
	bpf_dynptr_memset(&all, 0, LONG, 'x');
	ctx->out[0] = bpf_strlen(NULL);
	ctx->out[1] = bpf_strlen(user);
	ctx->out[2] = bpf_strlen(gone);
	ctx->out[3] = bpf_strlen(endless);
	ctx->out[4] = bpf_strnlen(endless, 65535);
	ctx->out[5] = bpf_strcmp(text, gone);
	ctx->out[6] = bpf_strcmp(endless, endless);
	ctx->out[7] = bpf_strchr(endless, 'y');
	ctx->out[8] = bpf_strstr(endless, "y");
	ctx->out[9] = bpf_strspn(endless, "x");
	ctx->out[10] = bpf_strnlen(gone, 0);
	ctx->out[11] = bpf_strstr(text, endless);
	return 0;
}

// Texts by in[0], of which in[2] bytes are looked at if that is not 0, in the base in[1].
char numbers[][72] = {
	"42 and more",
	" \t-17",
	"0x1F",
	"017",
	"0x",
	"0xg",
	"08",
	"",
	"-",
	"abc",
	"9223372036854775807",
	"9223372036854775808",
	"-9223372036854775808",
	"-9223372036854775809",
	"18446744073709551615",
	"18446744073709551616",
	"-0",
	"+5",
	"\xa0\v7",
	"0000000000000000000000000000000000000000000000000000000000000000012",
	"- 5",
	"0X7fz",
};

SEC("syscall") int numbers_in_text(struct strings_ctx *ctx)
{
	u64 which = ctx->in[0], len = ctx->in[2] ?: sizeof(numbers[0]);
	unsigned long natural = 99;
	long whole = 99;

	if (which >= sizeof(numbers) / sizeof(numbers[0]) || len > sizeof(numbers[0]))
		return 1;
	ctx->out[0] = bpf_strtol(numbers[which], len, ctx->in[1], &whole);
	ctx->out[1] = whole;
	ctx->out[2] = bpf_strtoul(numbers[which], len, ctx->in[1], &natural);
	ctx->out[3] = natural;
	return 0;
}

// The bits of in[1] words that are in[2], in[3], 0, …: how many, their sum, the last one.
SEC("syscall") int bits(struct strings_ctx *ctx)
{
	struct bpf_iter_bits it;
	int *bit;

	words[0] = ctx->in[2];
	words[1] = ctx->in[3];
	words[510] = 1ULL << 63;
	ctx->out[0] = bpf_iter_bits_new(&it, ctx->in[0] ? NULL : words, ctx->in[1]);
	while ((bit = bpf_iter_bits_next(&it)) && can_loop) {
		ctx->out[1]++;
		ctx->out[2] += *bit;
		ctx->out[3] = *bit;
	}
	bpf_iter_bits_destroy(&it);
	return 0;
}
