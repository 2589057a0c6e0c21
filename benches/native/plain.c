/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The benchmark's programs as a compiler makes them that neither unrolls nor uses vectors: what
 * one can hope for from code that is translated instruction by instruction.
 */
#define MEM
#define PROGRAM(name, mem) unsigned long long plain_##name(unsigned char *mem)

#include "programs.h"
