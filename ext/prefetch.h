/* Ask the processor for memory that a later step needs, so that the step does not wait for it.
 *
 * A cache miss takes as long as a few hundred instructions. Two that do not depend on each other take
 * as long as one, if both are asked for first. Any address is allowed: nothing is read. */
#ifndef RCMGR_PREFETCH_H
#define RCMGR_PREFETCH_H

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>

static inline void rcmgr_prefetch(const void *memory)
{
#if defined(_M_X64) || defined(_M_IX86)
    _mm_prefetch((const char *)memory, _MM_HINT_T0);
#elif defined(_M_ARM64)
    __prefetch(memory);
#else
    (void)memory;
#endif
}

#else

static inline void rcmgr_prefetch(const void *memory) { __builtin_prefetch(memory, 1); }

#endif

/* The lines of an object of up to 128 bytes. */
static inline void rcmgr_prefetch_object(const void *object)
{
    rcmgr_prefetch(object);
    rcmgr_prefetch((const char *)object + 64);
}

#endif
