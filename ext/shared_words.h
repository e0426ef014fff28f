/* Words that several threads use without a common lock, and a lock for a few instructions.
 *
 * rcmgr_read_word, rcmgr_write_word and those with 32 bits are relaxed atomics: a reader never sees
 * half of a value. They order nothing else.
 *
 * A short lock guards pointers to Python objects: a reader takes its reference before a writer drops
 * the old one. No code between lock and unlock waits or runs Python, so no thread waits for long. A
 * thread may take it inside a critical section, which it does not suspend. Objects share 64 locks. On
 * a build with a GIL it is nothing. */
#ifndef RCMGR_SHARED_WORDS_H
#define RCMGR_SHARED_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#if defined(_MSC_VER) && !defined(__clang__)

static inline uint64_t rcmgr_read_word(const uint64_t *word)
{
    return *(const volatile uint64_t *)word;
}

static inline void rcmgr_write_word(uint64_t *word, uint64_t value)
{
    *(volatile uint64_t *)word = value;
}

static inline uint32_t rcmgr_read_word32(const uint32_t *word)
{
    return *(const volatile uint32_t *)word;
}

static inline void rcmgr_write_word32(uint32_t *word, uint32_t value)
{
    *(volatile uint32_t *)word = value;
}

#else

static inline uint64_t rcmgr_read_word(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void rcmgr_write_word(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline uint32_t rcmgr_read_word32(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void rcmgr_write_word32(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

#endif

#if defined(Py_GIL_DISABLED)

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static inline bool rcmgr_take_word(volatile long *taken) { return InterlockedExchange(taken, 1) == 0; }
static inline void rcmgr_give_word(volatile long *taken) { InterlockedExchange(taken, 0); }
static inline void rcmgr_let_others_run(void) { SwitchToThread(); }

#else
#include <sched.h>

static inline bool rcmgr_take_word(volatile long *taken)
{
    return __atomic_exchange_n(taken, 1, __ATOMIC_ACQUIRE) == 0;
}

static inline void rcmgr_give_word(volatile long *taken)
{
    __atomic_store_n(taken, 0, __ATOMIC_RELEASE);
}

static inline void rcmgr_let_others_run(void) { sched_yield(); }

#endif

enum { RCMGR_SHORT_LOCKS = 64, RCMGR_LINE = 64 };

/* One array in each module: one module alone locks the fields of an object. Each lock has a
 * separate line, so that threads with different locks do not wait for each other's line. */
static union {
    volatile long taken;
    char line[RCMGR_LINE];
} rcmgr_short_locks[RCMGR_SHORT_LOCKS];

static inline volatile long *rcmgr_short_lock_of(const void *object)
{
    return &rcmgr_short_locks[((uintptr_t)object >> 4) % RCMGR_SHORT_LOCKS].taken;
}

static inline void rcmgr_lock_shortly(const void *object)
{
    while (!rcmgr_take_word(rcmgr_short_lock_of(object)))
        rcmgr_let_others_run();
}

static inline void rcmgr_unlock_shortly(const void *object)
{
    rcmgr_give_word(rcmgr_short_lock_of(object));
}

#else

static inline void rcmgr_lock_shortly(const void *object) { (void)object; }
static inline void rcmgr_unlock_shortly(const void *object) { (void)object; }

#endif

#endif
