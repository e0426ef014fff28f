#include "rss.h"

#ifndef _WIN32
#include <sys/mman.h>
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
#if defined(__linux__) || defined(__APPLE__) || defined(_WIN32)
    CHECK(before > 0);
#endif
    if (before < 0)
        return; /* a system with rss_unknown.c */
    char *block = used_block();
    int64_t grown = rcmgr_rss_bytes() - before;
    CHECK(grown > BLOCK * 9 / 10);
    CHECK(grown < BLOCK * 2);
#ifndef _WIN32
    test_a_forked_child_sees_its_own(before);
#endif
    free(block);
}

#ifndef _WIN32
/* Pages of a mapped file are resident, but the kernel can drop them. */
static void test_clean_pages_of_a_file_are_not_anonymous(void)
{
    char path[] = "/tmp/rcmgr-test-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || rcmgr_anonymous_bytes() < 0)
        return;
    unlink(path);
    char *block = used_block();
    CHECK_EQ(write(fd, block, BLOCK), BLOCK);
    free(block);
    int64_t resident = rcmgr_rss_bytes(), anonymous = rcmgr_anonymous_bytes();
    CHECK(anonymous <= resident);
    volatile char *mapped = mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(mapped != MAP_FAILED);
    for (int at = 0; at < BLOCK; at += 1024)
        (void)mapped[at];
    CHECK(rcmgr_rss_bytes() - resident > BLOCK * 9 / 10);
    CHECK(rcmgr_anonymous_bytes() - anonymous < BLOCK / 10);
    block = used_block();
    CHECK(rcmgr_anonymous_bytes() - anonymous > BLOCK * 9 / 10);
    free(block);
    munmap((void *)mapped, BLOCK);
    close(fd);
}
#endif

int main(void)
{
    test_sees_memory_come();
#ifndef _WIN32
    test_clean_pages_of_a_file_are_not_anonymous();
#endif
    for (int i = 0; i < 100000; i++)
        CHECK(rcmgr_rss_bytes() != 0 && rcmgr_anonymous_bytes() != 0);
    return 0;
}
