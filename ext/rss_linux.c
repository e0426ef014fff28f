/* The second and third field of /proc/self/statm, in pages: resident, and of it shared. The
 * descriptor stays open.
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

typedef struct {
    int64_t resident; /* -1: unknown */
    int64_t shared;   /* resident pages of files and of shared memory */
} pages;

static const pages UNKNOWN = {-1, -1};

/* UNKNOWN, if this is not the text of a statm: seven numbers. */
static pages parse(const char *text, ssize_t length)
{
    int64_t number = 0;
    int fields = 0, digits = 0;
    pages found = UNKNOWN;
    for (ssize_t i = 0; i < length; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9') {
            if (++digits > 15)
                return UNKNOWN;
            number = 10 * number + (c - '0');
        } else if ((c == ' ' || c == '\n') && digits > 0) {
            fields++;
            if (fields == 2)
                found.resident = number;
            else if (fields == 3)
                found.shared = number;
            number = digits = 0;
            if (c == '\n')
                return fields == 7 && i + 1 == length ? found : UNKNOWN;
        } else {
            return UNKNOWN;
        }
    }
    return UNKNOWN;
}

static pages read_pages(int fd)
{
    char text[256];
    ssize_t length = pread(fd, text, sizeof text, 0);
    return length < 0 ? UNKNOWN : parse(text, length);
}

/* Close it only if it still is a statm: the number may belong to another file by now. */
static void after_fork_in_child(void)
{
    int fd = atomic_exchange(&descriptor, STALE);
    if (fd >= 0 && read_pages(fd).resident >= 0)
        close(fd);
}

static void prepare(void)
{
    page_bytes = sysconf(_SC_PAGESIZE);
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

static pages read_now(void)
{
    pthread_once(&prepared, prepare);
    int fd = atomic_load(&descriptor);
    if (fd >= 0) {
        pages found = read_pages(fd);
        if (found.resident >= 0)
            return found;
    }
    int fresh = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fresh < 0) {
        atomic_compare_exchange_strong(&descriptor, &fd, STALE);
        return UNKNOWN;
    }
    pages found = read_pages(fresh);
    if (found.resident < 0 || !atomic_compare_exchange_strong(&descriptor, &fd, fresh))
        close(fresh); /* useless, or another thread was faster */
    return found;
}

int64_t rcmgr_rss_bytes(void)
{
    pages now = read_now();
    return now.resident < 0 ? -1 : now.resident * page_bytes;
}

int64_t rcmgr_anonymous_bytes(void)
{
    pages now = read_now();
    bool unknown = now.resident < 0 || now.resident < now.shared;
    return unknown ? -1 : (now.resident - now.shared) * page_bytes;
}
