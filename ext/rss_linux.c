/* The second field of /proc/self/statm, in pages, read through a descriptor that stays open.
 *
 * /proc/self means the process that opened it: after a fork the child would read its parent. So a
 * fork makes the descriptor stale, and the next call opens a new one. A program that becomes a
 * daemon closes descriptors it does not know, and another file gets the number. So this file parses
 * strictly, and opens statm once more if it read something else. It never closes such a foreign
 * descriptor, here or in a child. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "rss.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

enum { STALE = -1 };

static atomic_int descriptor = STALE;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static int64_t page_bytes;

/* The second of seven numbers, or -1 if this is not the text of a statm. */
static int64_t resident_pages(const char *text, ssize_t length)
{
    int64_t number = 0, second = -1;
    int fields = 0, digits = 0;
    for (ssize_t i = 0; i < length; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9') {
            if (++digits > 15)
                return -1;
            number = 10 * number + (c - '0');
        } else if ((c == ' ' || c == '\n') && digits > 0) {
            if (++fields == 2)
                second = number;
            number = digits = 0;
            if (c == '\n')
                return fields == 7 && i + 1 == length ? second : -1;
        } else {
            return -1;
        }
    }
    return -1;
}

static int64_t read_pages(int fd)
{
    char text[256];
    ssize_t length = pread(fd, text, sizeof text, 0);
    return length < 0 ? -1 : resident_pages(text, length);
}

/* Close it only if it still is a statm: the number may belong to another file by now. */
static void after_fork_in_child(void)
{
    int fd = atomic_exchange(&descriptor, STALE);
    if (fd >= 0 && read_pages(fd) >= 0)
        close(fd);
}

static void prepare(void)
{
    page_bytes = sysconf(_SC_PAGESIZE);
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

int64_t rcmgr_rss_bytes(void)
{
    pthread_once(&prepared, prepare);
    int fd = atomic_load(&descriptor);
    if (fd >= 0) {
        int64_t pages = read_pages(fd);
        if (pages >= 0)
            return pages * page_bytes;
    }
    int fresh = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fresh < 0) {
        atomic_compare_exchange_strong(&descriptor, &fd, STALE);
        return -1;
    }
    int64_t pages = read_pages(fresh);
    if (pages < 0 || !atomic_compare_exchange_strong(&descriptor, &fd, fresh))
        close(fresh); /* useless, or another thread was faster */
    return pages < 0 ? -1 : pages * page_bytes;
}
