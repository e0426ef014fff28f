/* accept.h on real sockets of loopback. Other systems have nothing to test here. */
#include "accept.h"

#include "check.h"

#if RCMGR_CAN_ACCEPT
#include <poll.h>
#include <sys/resource.h>

typedef struct {
    int fd;
    rcmgr_address at;
    socklen_t size;
} listener;

/* a listener that does not block, and its address */
static listener listening(int family)
{
    listener made = {socket(family, SOCK_STREAM, 0), {{0}}, 0};
    memset(&made.at, 0, sizeof made.at);
    made.at.any.sa_family = (sa_family_t)family;
    if (family == AF_INET)
        made.at.ipv4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        made.at.ipv6.sin6_addr = in6addr_loopback;
    made.size = family == AF_INET ? sizeof made.at.ipv4 : sizeof made.at.ipv6;
    if (made.fd < 0 || bind(made.fd, &made.at.any, made.size) != 0) {
        if (made.fd >= 0)
            close(made.fd);
        made.fd = -1; /* no IPv6 here */
        return made;
    }
    CHECK_EQ(listen(made.fd, 8), 0);
    CHECK_EQ(getsockname(made.fd, &made.at.any, &made.size), 0);
    CHECK_EQ(fcntl(made.fd, F_SETFL, O_NONBLOCK), 0);
    return made;
}

static int connected_to(const listener *to)
{
    int fd = socket(to->at.any.sa_family, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, &to->at.any, to->size), 0);
    return fd;
}

static int accepted(const listener *from, rcmgr_accepted *to)
{
    struct pollfd ready = {from->fd, POLLIN, 0};
    CHECK_EQ(poll(&ready, 1, 10000), 1);
    return rcmgr_accept(from->fd, to);
}

static void wait_readable(int fd)
{
    struct pollfd ready = {fd, POLLIN, 0};
    CHECK_EQ(poll(&ready, 1, 10000), 1);
}

static void test_accepts(int family, const char *text)
{
    listener here = listening(family);
    if (here.fd < 0)
        return;
    rcmgr_accepted at = {.fd = -7};
    CHECK_EQ(rcmgr_accept(here.fd, &at), EAGAIN);
    CHECK_EQ(at.fd, -7);
    int client = connected_to(&here);
    rcmgr_address own;
    socklen_t size = sizeof own;
    CHECK_EQ(getsockname(client, &own.any, &size), 0);
    CHECK_EQ(accepted(&here, &at), 0);
    CHECK_EQ(at.family, family);
    CHECK_EQ(at.port, ntohs(family == AF_INET ? own.ipv4.sin_port : own.ipv6.sin6_port));
    CHECK_EQ(at.scope, 0);
    CHECK(fcntl(at.fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(at.fd, F_GETFL) & O_NONBLOCK);
    char seen[RCMGR_LONGEST_IP];
    rcmgr_ip_text(&at, seen);
    CHECK_EQ(strcmp(seen, text), 0);
    rcmgr_close(at.fd);
    close(client);
    close(here.fd);
}

static void test_what_the_other_side_sent(void)
{
    listener here = listening(AF_INET);
    rcmgr_accepted at;
    int client = connected_to(&here);
    CHECK_EQ(accepted(&here, &at), 0);
    CHECK_EQ(rcmgr_first_byte(at.fd), RCMGR_SILENT);
    CHECK_EQ(send(client, "\xff\x01", 2, 0), 2);
    wait_readable(at.fd);
    for (int i = 0; i < 2; i++) /* it stays unread */
        CHECK_EQ(rcmgr_first_byte(at.fd), 0xff);
    char both[2];
    CHECK_EQ(recv(at.fd, both, 2, 0), 2);
    CHECK_EQ(rcmgr_first_byte(at.fd), RCMGR_SILENT);
    close(client);
    wait_readable(at.fd);
    CHECK_EQ(rcmgr_first_byte(at.fd), RCMGR_HUNG_UP);
    rcmgr_close(at.fd);
    CHECK_EQ(rcmgr_first_byte(at.fd), RCMGR_HUNG_UP); /* not open */
    client = connected_to(&here);
    CHECK_EQ(accepted(&here, &at), 0);
    rcmgr_reset(client);
    wait_readable(at.fd);
    CHECK_EQ(rcmgr_first_byte(at.fd), RCMGR_HUNG_UP);
    rcmgr_close(at.fd);
    close(here.fd);
}

static void test_a_reset_and_a_close(void)
{
    listener here = listening(AF_INET);
    rcmgr_accepted at;
    char byte;
    for (int with_reset = 0; with_reset < 2; with_reset++) {
        int client = connected_to(&here);
        CHECK_EQ(accepted(&here, &at), 0);
        if (with_reset)
            rcmgr_reset(at.fd);
        else
            rcmgr_close(at.fd);
        CHECK(fcntl(at.fd, F_GETFD) == -1 && errno == EBADF);
        wait_readable(client);
        CHECK_EQ(recv(client, &byte, 1, 0), with_reset ? -1 : 0);
        CHECK(!with_reset || errno == ECONNRESET);
        close(client);
    }
    close(here.fd);
}

static void test_errors(void)
{
    listener here = listening(AF_INET);
    rcmgr_accepted at = {.fd = -7};
    CHECK_EQ(rcmgr_accept(-1, &at), EBADF);
    int pipes[2];
    CHECK_EQ(pipe(pipes), 0);
    CHECK_EQ(rcmgr_accept(pipes[0], &at), ENOTSOCK);
    struct rlimit before, none;
    int client = connected_to(&here);
    wait_readable(here.fd);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(rcmgr_accept(here.fd, &at), EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    CHECK_EQ(at.fd, -7);
    CHECK_EQ(rcmgr_accept(here.fd, &at), 0); /* the connection has waited */
    rcmgr_close(at.fd);
    close(client);
    close(here.fd);
}

static void test_an_address_without_text(void)
{
    rcmgr_accepted at = {.family = AF_UNIX};
    char text[RCMGR_LONGEST_IP] = "before";
    rcmgr_ip_text(&at, text);
    CHECK_EQ(strlen(text), 0);
}

static void test_the_text_of_each_number(void)
{
    for (int number = 0; number < 256; number++) {
        rcmgr_accepted at = {.family = AF_INET, .ip = {(uint8_t)number, 0, 255, (uint8_t)number}};
        char text[RCMGR_LONGEST_IP], expected[RCMGR_LONGEST_IP];
        rcmgr_ip_text(&at, text);
        inet_ntop(AF_INET, at.ip, expected, sizeof expected);
        CHECK_EQ(strcmp(text, expected), 0);
    }
}

int main(void)
{
    test_accepts(AF_INET, "127.0.0.1");
    test_accepts(AF_INET6, "::1");
    test_what_the_other_side_sent();
    test_a_reset_and_a_close();
    test_errors();
    test_an_address_without_text();
    test_the_text_of_each_number();
    return 0;
}
#else
int main(void)
{
    rcmgr_accepted at;
    CHECK_EQ(rcmgr_accept(0, &at), ENOSYS);
    CHECK_EQ(rcmgr_first_byte(0), RCMGR_HUNG_UP);
    return 0;
}
#endif
