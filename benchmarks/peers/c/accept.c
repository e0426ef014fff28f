/* The least that a program can do to refuse TCP connections: accept each, and reset it.

   It prints its port. For each line that it reads, it prints the number of connections that it
   refused, and the nanoseconds of processor time of the process. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const struct linger RESET = {.l_onoff = 1, .l_linger = 0};

static int failed(const char *what)
{
    perror(what);
    return 1;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) ||
        listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&address, &length))
        return failed("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    long refused = 0;
    struct pollfd waits[] = {{.fd = listener, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    for (;;) {
        if (poll(waits, 2, -1) < 0)
            return failed("poll");
        if (waits[0].revents) {
            int connection;
            while ((connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(connection, SOL_SOCKET, SO_LINGER, &RESET, sizeof RESET);
                close(connection);
                refused++;
            }
        }
        if (waits[1].revents) {
            char line[64];
            struct timespec used;
            if (read(0, line, sizeof line) <= 0)
                return 0;
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
            printf("%ld %lld\n", refused, used.tv_sec * 1000000000LL + used.tv_nsec);
            fflush(stdout);
        }
    }
}
