/* The parser and the descriptor of rss_linux.c. Other systems have nothing to test here. */
#include "check.h"

#ifdef __linux__
#include "rss_linux.c"

#include <string.h>
#include <sys/resource.h>

static void check_parsed(const char *text, int64_t resident, int64_t shared)
{
    pages found = parse(text, (ssize_t)strlen(text));
    CHECK_EQ(found.resident, resident);
    CHECK_EQ(found.shared, shared);
}

static void test_the_text_of_a_statm(void)
{
    check_parsed("9 20 3 4 5 6 7\n", 20, 3);
    check_parsed("0 0 0 0 0 0 0\n", 0, 0);
    check_parsed("1 999999999999999 123456780 4 5 6 7\n", 999999999999999, 123456780);
    static const char *const others[] = {
        "", "\n", " \n", "1 2 3 4 5 6 7", "1 2 3 4 5 6\n", "1 2 3 4 5 6 7 8\n",
        "1 2 3 4 5 6 7 8 9\n", "1 2 3 4 5 6 7\n8\n", "1 2 3 4 5 6 7\n\n", "1 2 3 4 5 6 7 \n",
        "1  3 4 5 6 7\n", " 1 2 3 4 5 6 7\n", "1 x 3 4 5 6 7\n", "1 -2 3 4 5 6 7\n",
        "1 2: 3 4 5 6 7\n", "1 2/ 3 4 5 6 7\n", "1 1000000000000000 3 4 5 6 7\n",
        "1 2 3 4 5 6 9999999999999999\n", "1\t2 3 4 5 6 7\n",
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        check_parsed(others[i], -1, -1);
}

/* The lowest number that no file has: it grows if a descriptor leaks. */
static int next_number(void)
{
    int number = dup(2);
    CHECK(number >= 0);
    close(number);
    return number;
}

static void test_one_descriptor_stays_open(void)
{
    CHECK(rcmgr_rss_bytes() > 0);
    CHECK_EQ(rcmgr_rss_bytes() % sysconf(_SC_PAGESIZE), 0);
    int fd = atomic_load(&descriptor), next = next_number();
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(rcmgr_rss_bytes() > 0 && rcmgr_anonymous_bytes() > 0);
    CHECK(rcmgr_anonymous_bytes() < rcmgr_rss_bytes());
    CHECK_EQ(atomic_load(&descriptor), fd);
    CHECK_EQ(next_number(), next);
}

static void take_number(int fd)
{
    int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(other >= 0);
    CHECK_EQ(dup2(other, fd), fd);
    close(other);
}

static void test_another_file_with_its_number(void)
{
    CHECK(rcmgr_rss_bytes() > 0);
    int fd = atomic_load(&descriptor);
    take_number(fd);
    CHECK(rcmgr_rss_bytes() > 0);
    CHECK(atomic_load(&descriptor) >= 0 && atomic_load(&descriptor) != fd);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* still theirs */
    close(fd);
}

static void limit_files(rlim_t most)
{
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = most == 0 ? 0 : limit.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void test_no_descriptor_is_left(void)
{
    CHECK(rcmgr_rss_bytes() > 0);
    int fd = atomic_load(&descriptor);
    take_number(fd);
    limit_files(0);
    CHECK_EQ(rcmgr_rss_bytes(), -1);
    CHECK_EQ(rcmgr_anonymous_bytes(), -1);
    CHECK_EQ(atomic_load(&descriptor), STALE);
    CHECK_EQ(rcmgr_rss_bytes(), -1);
    limit_files(1);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    CHECK(rcmgr_rss_bytes() > 0);
}

static void test_a_child_closes_only_its_own(void)
{
    CHECK(rcmgr_rss_bytes() > 0);
    int fd = atomic_load(&descriptor);
    after_fork_in_child();
    CHECK_EQ(atomic_load(&descriptor), STALE);
    CHECK(fcntl(fd, F_GETFD) < 0);
    after_fork_in_child();
    CHECK(rcmgr_rss_bytes() > 0);
    fd = atomic_load(&descriptor);
    take_number(fd);
    after_fork_in_child();
    CHECK_EQ(atomic_load(&descriptor), STALE);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    close(fd);
}

/* A daemon closes its standard input, so that the next file gets the number 0. */
static void test_number_zero(void)
{
    after_fork_in_child();
    close(0);
    CHECK(rcmgr_rss_bytes() > 0);
    CHECK_EQ(atomic_load(&descriptor), 0);
    CHECK(rcmgr_rss_bytes() > 0);
    CHECK_EQ(atomic_load(&descriptor), 0);
    CHECK_EQ(next_number(), 3);
    after_fork_in_child();
    CHECK(fcntl(0, F_GETFD) < 0);
}
#endif

int main(void)
{
#ifdef __linux__
    test_the_text_of_a_statm();
    test_one_descriptor_stays_open();
    test_another_file_with_its_number();
    test_no_descriptor_is_left();
    test_a_child_closes_only_its_own();
    test_number_zero();
#endif
    return 0;
}
