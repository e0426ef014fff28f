#include "prefetch.h"
#include "pointer_table.h"

#include <string.h>

#include "check.h"

/* A request for memory is a hint: no address is wrong, and nothing changes. */
static void any_address_is_allowed(void)
{
    char object[128];
    memset(object, 7, sizeof object);
    rcmgr_prefetch(NULL);
    rcmgr_prefetch(object + 1);
    rcmgr_prefetch_object(object);
    for (size_t i = 0; i < sizeof object; i++)
        CHECK_EQ(object[i], 7);
}

/* A table is the same after a hash was expected in it, whether the hash is there or not. */
static void a_table_stays_as_it_is(void)
{
    char item[16];
    rcmgr_slot slots[RCMGR_TABLE_MIN_SLOTS] = {{0}};
    rcmgr_table table = {0};
    rcmgr_table_move(&table, slots, RCMGR_TABLE_MIN_SLOTS);
    rcmgr_table_put(&table, rcmgr_table_home(&table, UINT64_MAX), UINT64_MAX, item);
    rcmgr_table before = table;
    rcmgr_table_expect(&table, UINT64_MAX);
    rcmgr_table_expect_item(&table, UINT64_MAX);
    rcmgr_table_expect_item(&table, 0);
    CHECK_EQ(memcmp(&before, &table, sizeof table), 0);
}

int main(void)
{
    any_address_is_allowed();
    a_table_stays_as_it_is();
    return 0;
}
