/* How much memory this process has resident now, in bytes; -1: unknown.
 *
 * One C file per system defines it: rss_linux.c, rss_macos.c, rss_windows.c, and rss_unknown.c for
 * all others. About 1 us on Linux, with a kept descriptor; one system call elsewhere. Thread safe.
 * After a fork the child gets its own value. */
#ifndef RCMGR_RSS_H
#define RCMGR_RSS_H

#include <stdint.h>

int64_t rcmgr_rss_bytes(void);

#endif
