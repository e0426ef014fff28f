/* The working set. PSAPI_VERSION 2: the function is in kernel32, no psapi.lib is needed. */
#define PSAPI_VERSION 2
#define WIN32_LEAN_AND_MEAN
#include "rss.h"

#include <windows.h>

#include <psapi.h>

int64_t rcmgr_rss_bytes(void)
{
    PROCESS_MEMORY_COUNTERS counters;
    if (!GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters))
        return -1;
    return (int64_t)counters.WorkingSetSize;
}
