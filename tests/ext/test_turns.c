#include "turns.h"

#include "check.h"

enum { CELLS = 8, TURN = 100 };

static int64_t cells[CELLS];

static rcmgr_turns fresh(void)
{
    rcmgr_turns t = {cells, CELLS - 1, TURN};
    for (int i = 0; i < CELLS; i++)
        cells[i] = 0;
    return t;
}

static uint64_t in_cells(uint64_t first, uint64_t second) { return first | second << 32; }

static void test_grows_and_is_forgotten(void)
{
    rcmgr_turns t = fresh();
    uint64_t group = in_cells(1, 2);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1000), 0);
    rcmgr_turns_take(&t, group, 1000);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1000), TURN);
    rcmgr_turns_take(&t, group, 1000);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1000), 2 * TURN);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1150), 50);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1200), 0);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 9999), 0);
    rcmgr_turns_take(&t, group, 1150);
    CHECK_EQ(rcmgr_turns_debt(&t, group, 1150), 50 + TURN);
}

static void test_never_more_than_the_most(void)
{
    rcmgr_turns t = fresh();
    for (int i = 0; i < 3 * RCMGR_MOST_TURNS; i++)
        rcmgr_turns_take(&t, in_cells(1, 2), 1000);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 2), 1000), RCMGR_MOST_TURNS * TURN);
    rcmgr_turns_take(&t, in_cells(1, 2), 1050); /* the most that it may have then */
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 2), 1050), RCMGR_MOST_TURNS * TURN);
    rcmgr_turns_take(&t, in_cells(1, 2), 500); /* an earlier time takes nothing back */
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 2), 1050), RCMGR_MOST_TURNS * TURN);
}

static void test_a_shared_cell_is_not_held_against_a_group(void)
{
    rcmgr_turns t = fresh();
    for (int i = 0; i < 5; i++)
        rcmgr_turns_take(&t, in_cells(1, 2), 1000);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 3), 1000), 0);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(4, 2), 1000), 0);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(2, 1), 1000), 5 * TURN); /* both: it is too large */
    rcmgr_turns_take(&t, in_cells(1, 3), 1000);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 3), 1000), TURN);
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(1, 2), 1000), 5 * TURN); /* grew by its own only */
    CHECK_EQ(rcmgr_turns_debt(&t, in_cells(9, 10), 1000), 5 * TURN); /* the mask */
}

int main(void)
{
    test_grows_and_is_forgotten();
    test_never_more_than_the_most();
    test_a_shared_cell_is_not_held_against_a_group();
    return 0;
}
