/* Give free memory that the allocator keeps back to the system. 1: something went back; 0: nothing
 * did; -1: this C library has no such call. It holds the allocator's locks while it works. */
#ifndef RCMGR_TRIM_H
#define RCMGR_TRIM_H

#include <stdlib.h> /* defines __GLIBC__ */

#ifdef __GLIBC__
#include <malloc.h>

static inline int rcmgr_trim_memory(void) { return malloc_trim(0); }
#else
static inline int rcmgr_trim_memory(void) { return -1; }
#endif

#endif
