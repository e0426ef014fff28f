#include "rss.h"

int64_t rcmgr_rss_bytes(void) { return -1; }
int64_t rcmgr_anonymous_bytes(void) { return -1; }
