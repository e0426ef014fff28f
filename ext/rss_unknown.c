#include "rss.h"

int64_t rcmgr_rss_bytes(void) { return -1; }
