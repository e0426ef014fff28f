/* Monotonic time in nanoseconds, from an arbitrary start, never going back.
 *
 * rcmgr_now_ns()         exact; about 20 ns on Linux (vDSO)
 * rcmgr_now_coarse_ns()  the time of the last kernel tick where the system has such a clock
 *                        (Linux: steps of 1 to 10 ms, about 4 ns), the exact clock elsewhere.
 *                        Both count from the same start, so that the two may be compared.
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
