#include "rss.h"

#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"

enum { BLOCK = 64 << 20 };

/* Memory that is really used: a plain memset before free may be optimised away. */
static char *used_block(void)
{
    char *block = malloc(BLOCK);
    CHECK(block != NULL);
    for (volatile char *at = block; at < block + BLOCK; at += 1024)
        *at = 1;
    return block;
}

#ifndef _WIN32
/* `before`: the memory of the process without the block that it holds now. */
static void test_a_forked_child_sees_its_own(int64_t before)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int64_t mine = rcmgr_rss_bytes();
        char *more = used_block();
        CHECK(rcmgr_rss_bytes() - mine > BLOCK * 9 / 10);
        free(more);
        exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    /* the memory of the child does not count here */
    CHECK(rcmgr_rss_bytes() - before < BLOCK * 3 / 2);
}
#endif

static void test_sees_memory_come(void)
{
    int64_t before = rcmgr_rss_bytes();
    if (before < 0)
        return; /* a system that rss_unknown.c stands in for */
    char *block = used_block();
    int64_t grown = rcmgr_rss_bytes() - before;
    CHECK(grown > BLOCK * 9 / 10);
    CHECK(grown < BLOCK * 2);
#ifndef _WIN32
    test_a_forked_child_sees_its_own(before);
#endif
    free(block);
}

int main(void)
{
    test_sees_memory_come();
    for (int i = 0; i < 100000; i++)
        CHECK(rcmgr_rss_bytes() != 0);
    return 0;
}
