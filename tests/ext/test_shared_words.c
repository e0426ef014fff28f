#define Py_GIL_DISABLED 1 /* otherwise the short lock is nothing */
#include "shared_words.h"

#include "check.h"

#ifndef _WIN32
#include <pthread.h>
#endif

static void test_words(void)
{
    uint64_t word = 5;
    CHECK_EQ(rcmgr_read_word(&word), 5);
    rcmgr_write_word(&word, UINT64_MAX);
    CHECK_EQ(rcmgr_read_word(&word), UINT64_MAX);
}

static void test_a_short_lock_is_taken_once(void)
{
    int object = 0;
    rcmgr_lock_shortly(&object);
    CHECK(!rcmgr_take_word(rcmgr_short_lock_of(&object)));
    rcmgr_unlock_shortly(&object);
    CHECK(rcmgr_take_word(rcmgr_short_lock_of(&object)));
    rcmgr_unlock_shortly(&object);
}

#ifndef _WIN32

enum { THREADS = 4, ROUNDS = 100000 };

static int counted; /* not atomic: only the lock keeps each step whole */

static void *count(void *object)
{
    for (int i = 0; i < ROUNDS; i++) {
        rcmgr_lock_shortly(object);
        counted++;
        rcmgr_unlock_shortly(object);
    }
    return NULL;
}

static void test_threads_take_turns(void)
{
    pthread_t threads[THREADS];
    int object = 0;
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, count, &object), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(counted, THREADS * ROUNDS);
}

#else

static void test_threads_take_turns(void) {}

#endif

int main(void)
{
    test_words();
    test_a_short_lock_is_taken_once();
    test_threads_take_turns();
    return 0;
}
