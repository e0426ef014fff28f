/* A short sleep, so that another thread runs. About 60 us on Linux: 10 us and the slack of its
 * timers. A signal ends it early, and no handler of Python runs. Thread safe, no state. */
#ifndef RCMGR_NAP_H
#define RCMGR_NAP_H

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static inline void rcmgr_nap(void) { SwitchToThread(); }

#else
#include <time.h>

static inline void rcmgr_nap(void)
{
    struct timespec wait = {0, 10000};
    nanosleep(&wait, NULL);
}

#endif
#endif
