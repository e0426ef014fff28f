/* The working set. PSAPI_VERSION 2: the function is in kernel32, no psapi.lib is needed. */
#define PSAPI_VERSION 2
#define WIN32_LEAN_AND_MEAN
#include "rss.h"

#include <windows.h>

#include <psapi.h>

static BOOL read_counters(PROCESS_MEMORY_COUNTERS_EX *counters)
{
    return GetProcessMemoryInfo(
        GetCurrentProcess(), (PROCESS_MEMORY_COUNTERS *)counters, sizeof *counters);
}

int64_t rcmgr_rss_bytes(void)
{
    PROCESS_MEMORY_COUNTERS_EX counters;
    return read_counters(&counters) ? (int64_t)counters.WorkingSetSize : -1;
}

int64_t rcmgr_anonymous_bytes(void)
{
    PROCESS_MEMORY_COUNTERS_EX counters;
    return read_counters(&counters) ? (int64_t)counters.PrivateUsage : -1;
}
