#include "trim.h"

#include "check.h"

int main(void)
{
    int first = rcmgr_trim_memory();
    CHECK(first >= -1 && first <= 1);
#ifdef __GLIBC__
    CHECK(first >= 0);
#else
    CHECK_EQ(first, -1);
#endif
    return 0;
}
