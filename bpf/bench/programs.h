/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Eight loops over a buffer, for benchmarks. Each gets the buffer's address, uses no helper, and
 * returns what depends on all that it did. The same text is compiled to BPF over plain memory, to
 * BPF over an arena, and to the host's machine code; what includes it says:
 *
 *   MEM       the type qualifier of the buffer's memory
 *   PROGRAM   (name, mem) the head of a program
 *
 * Whatever a loaded value is used for as an index is masked first, so that a verifier can follow.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

/* Bytes of the buffer. Programs find it filled with random bytes, or with what the last call of the
 * same program left, and so do not depend on order. */
#define BUFFER_SIZE 16384

/* FNV-1a of 4 KiB. */
PROGRAM(fnv, mem)
{
	u64 hash = 0xcbf29ce484222325ULL;

	for (u32 i = 0; i < 4096; i++) {
		hash ^= mem[i];
		hash *= 0x100000001b3ULL;
	}
	return hash;
}

/* Primes below 8192, a byte each. */
PROGRAM(sieve, mem)
{
	u64 count = 0;

	for (u32 i = 0; i < 8192; i++)
		mem[i] = 1;
	for (u32 i = 2; i < 8192; i++) {
		if (!mem[i])
			continue;
		count++;
		for (u32 j = i * i; j < 8192; j += i)
			mem[j] = 0;
	}
	return count;
}

/* Multiplication, division and remainder of 64 bits. */
PROGRAM(muldiv, mem)
{
	u64 MEM *words = (u64 MEM *)mem;
	u64 sum = 0, state = words[0] | 1;

	for (u32 i = 1; i < 512; i++) {
		u64 divisor = words[i] >> 32 | 1;

		state = state * 6364136223846793005ULL + 1442695040888963407ULL;
		sum += state / divisor;
		sum ^= state % (divisor + 2);
	}
	return sum;
}

/* Binary search of 256 keys among 1024 in order, which the program makes itself. */
PROGRAM(search, mem)
{
	u32 MEM *sorted = (u32 MEM *)mem;
	u32 key = 12345;
	u64 sum = 0;

	for (u32 i = 0; i < 1024; i++)
		sorted[i] = i * 4194301;
	for (u32 i = 0; i < 256; i++) {
		u32 low = 0, high = 1024;

		key = key * 1664525 + 1013904223;
		while (low < high) {
			u32 middle = (low + high) / 2 & 1023;

			if (sorted[middle] < key)
				low = middle + 1;
			else
				high = middle;
		}
		sum = sum * 31 + low;
	}
	return sum;
}

/* A walk along offsets: 1024 nodes of 16 bytes in an order that visits all. */
PROGRAM(walk, mem)
{
	u32 MEM *words = (u32 MEM *)mem;
	u32 at = 0;
	u64 sum = 0;

	for (u32 i = 0; i < 1024; i++) {
		words[i * 4] = (i * 205 + 51 & 1023) * 4;
		words[i * 4 + 1] = i;
	}
	for (u32 i = 0; i < 4096; i++) {
		sum += words[(at & 4092) + 1];
		at = words[at & 4092];
	}
	return sum;
}

/* The next set bit, over and over, in 64 words of which most are empty. */
PROGRAM(bits, mem)
{
	u64 MEM *words = (u64 MEM *)mem;
	u64 sum = 0;

	for (u32 i = 0; i < 64; i++)
		words[i] = i % 5 ? 0 : 0x8000100420010001ULL << i % 7;
	for (u32 round = 0; round < 4; round++) {
		for (u32 i = 0; i < 64; i++) {
			u64 word = words[i];

			while (word) {
				u64 low = word & -word, bit = 0;

				if (low & 0xffffffff00000000ULL)
					bit += 32;
				if (low & 0xffff0000ffff0000ULL)
					bit += 16;
				if (low & 0xff00ff00ff00ff00ULL)
					bit += 8;
				if (low & 0xf0f0f0f0f0f0f0f0ULL)
					bit += 4;
				if (low & 0xccccccccccccccccULL)
					bit += 2;
				if (low & 0xaaaaaaaaaaaaaaaaULL)
					bit += 1;
				sum += i * 64 + bit;
				word ^= low;
			}
		}
	}
	return sum;
}

/* Insertion sort of 256 numbers, which the program makes itself. */
PROGRAM(insertion, mem)
{
	u32 MEM *numbers = (u32 MEM *)mem;
	u32 state = 1;
	u64 sum = 0;

	for (u32 i = 0; i < 256; i++) {
		state = state * 1664525 + 1013904223;
		numbers[i] = state >> 8;
	}
	for (u32 i = 1; i < 256; i++) {
		u32 number = numbers[i], at = i;

		while (at > 0 && numbers[at - 1 & 255] > number) {
			numbers[at & 255] = numbers[at - 1 & 255];
			at--;
		}
		numbers[at & 255] = number;
	}
	for (u32 i = 0; i < 256; i++)
		sum = sum * 31 + numbers[i];
	return sum;
}

/* Copies 4 KiB by words, changes a byte in 128, and compares byte by byte. */
PROGRAM(copy, mem)
{
	u64 MEM *from = (u64 MEM *)mem, *to = (u64 MEM *)(mem + 8192);
	u64 differ = 0;

	for (u32 i = 0; i < 512; i++)
		to[i] = from[i];
	for (u32 i = 0; i < 4096; i += 128)
		mem[8192 + i] ^= 1;
	for (u32 i = 0; i < 4096; i++) {
		if (mem[i] != mem[8192 + i])
			differ += i;
	}
	return differ;
}
