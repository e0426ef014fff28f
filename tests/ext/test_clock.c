#include "clock.h"

#include "check.h"

#define ROUNDS 200000

static void sleep_50_ms(void)
{
#ifdef _WIN32
    Sleep(50);
#else
    struct timespec wait = {0, 50000000};
    CHECK_EQ(nanosleep(&wait, NULL), 0);
#endif
}

int main(void)
{
    int64_t start = rcmgr_now_ns(), last = start, last_coarse = rcmgr_now_coarse_ns();
    int steps = 0, coarse_steps = 0;
    CHECK(start > 0);
    for (int i = 0; i < ROUNDS; i++) {
        int64_t coarse = rcmgr_now_coarse_ns(), now = rcmgr_now_ns();
        CHECK(now >= last);
        CHECK(coarse >= last_coarse);
        /* the two clocks share one start: the coarse clock is never ahead of the exact one */
        CHECK(coarse <= now);
        steps += now > last;
        coarse_steps += coarse > last_coarse;
        last = now;
        last_coarse = coarse;
    }
    CHECK(steps > 0);

    /* nanoseconds: a wait by the system's own clock takes as long by ours */
    int64_t before = rcmgr_now_ns(), coarse_before = rcmgr_now_coarse_ns();
    sleep_50_ms();
    CHECK(rcmgr_now_ns() - before >= 50000000);
    CHECK(rcmgr_now_coarse_ns() - coarse_before >= 50000000 - 20000000);
    CHECK(coarse_steps > 0 || rcmgr_now_coarse_ns() > last_coarse);
    return 0;
}
