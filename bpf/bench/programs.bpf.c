// SPDX-License-Identifier: MIT OR Apache-2.0
//
// programs: the benchmark's eight loops over plain memory. The context is the buffer.
#define SEC(name) __attribute__((section(name), used))
#define MEM
// The target has no memset or memcpy to call.
#define PROGRAM(name, mem) \
	SEC("syscall") __attribute__((no_builtin)) unsigned long long name(unsigned char *mem)

#include "programs.h"

// What a call costs.
PROGRAM(empty, mem)
{
	return 0;
}
