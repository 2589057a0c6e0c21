/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The benchmark's programs as the host's compiler makes them.
 */
#define MEM
#define PROGRAM(name, mem) unsigned long long native_##name(unsigned char *mem)

#include "programs.h"
