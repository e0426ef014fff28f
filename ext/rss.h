/* How much memory this process uses now, in bytes; -1: unknown.
 *
 * rcmgr_rss_bytes: the resident set.
 * rcmgr_anonymous_bytes: the part of it that the kernel cannot drop. Clean pages of mapped files
 * are not in it.
 *   Linux: resident minus shared pages. macOS: the physical footprint. Windows: private bytes.
 *
 * One C file per system defines both: rss_linux.c, rss_macos.c, rss_windows.c, and rss_unknown.c
 * for all others. About 1 us with the kept descriptor of Linux, one system call elsewhere. Thread
 * safe. After a fork the child gets its own value. */
#ifndef RCMGR_RSS_H
#define RCMGR_RSS_H

#include <stdint.h>

int64_t rcmgr_rss_bytes(void);
int64_t rcmgr_anonymous_bytes(void);

#endif
