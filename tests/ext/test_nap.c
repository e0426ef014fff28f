#include "nap.h"

#include "check.h"
#include "clock.h"

int main(void)
{
    int64_t before = rcmgr_now_ns();
    for (int i = 0; i < 100; i++)
        rcmgr_nap();
#ifndef _WIN32
    CHECK(rcmgr_now_ns() - before >= 100 * 10000);
#else
    CHECK(rcmgr_now_ns() >= before);
#endif
    return 0;
}
