/* Monotonic time in nanoseconds from an arbitrary start. It never runs backwards.
 *
 * rcmgr_now_ns() is exact and takes about 20 ns on Linux (vDSO).
 *
 * rcmgr_now_coarse_ns() is the time of the last kernel tick. It moves in steps of 1 to 10 ms and
 * takes about 4 ns on Linux. Systems without such a clock use the exact one. Both count from the same
 * start, so a caller may compare them.
 *
 * Thread safe, no state. */
#ifndef RCMGR_CLOCK_H
#define RCMGR_CLOCK_H

#include <stdint.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static inline int64_t rcmgr_now_ns(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceFrequency(&per_second);
    QueryPerformanceCounter(&ticks);
    /* split so that the product cannot overflow */
    return (ticks.QuadPart / per_second.QuadPart) * 1000000000
         + (ticks.QuadPart % per_second.QuadPart) * 1000000000 / per_second.QuadPart;
}

static inline int64_t rcmgr_now_coarse_ns(void) { return rcmgr_now_ns(); }

#else
#include <time.h>

static inline int64_t rcmgr_clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t rcmgr_now_ns(void) { return rcmgr_clock_ns(CLOCK_MONOTONIC); }

#if defined(CLOCK_MONOTONIC_COARSE)
static inline int64_t rcmgr_now_coarse_ns(void) { return rcmgr_clock_ns(CLOCK_MONOTONIC_COARSE); }
#else
static inline int64_t rcmgr_now_coarse_ns(void) { return rcmgr_now_ns(); }
#endif

#endif
#endif
