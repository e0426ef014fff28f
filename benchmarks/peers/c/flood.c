/* Connects to a port of this machine at a steady rate: flood PORT PER_SECOND SECONDS

   Each socket stays open until the other side closes it, and sends nothing. At most 4,096 are open
   at once. It prints how many it opened, how many were closed, and the seconds that passed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_OPEN = 4096, EVENTS = 512 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "flood PORT PER_SECOND SECONDS\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET};
    double per_second = atof(arguments[2]), seconds = atof(arguments[3]);
    address.sin_port = htons(atoi(arguments[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct rlimit files = {MOST_OPEN + 64, MOST_OPEN + 64};
    setrlimit(RLIMIT_NOFILE, &files);

    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0);
    long opened = 0, closed = 0, skipped = 0;
    double start = now(), passed = 0;
    while ((passed = now() - start) < seconds) {
        long due = (long)(passed * per_second) - skipped;
        while (opened < due) {
            int socket_ = opened - closed < MOST_OPEN
                ? socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) : -1;
            if (socket_ < 0) { /* a flood does not catch up */
                skipped += due - opened;
                break;
            }
            struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = socket_};
            connect(socket_, (struct sockaddr *)&address, sizeof address);
            epoll_ctl(epoll, EPOLL_CTL_ADD, socket_, &event);
            opened++;
        }
        int ready = epoll_wait(epoll, events, EVENTS, 1);
        for (int i = 0; i < ready; i++) {
            close(events[i].data.fd);
            closed++;
        }
    }
    printf("%ld %ld %.3f\n", opened, closed, passed);
    return 0;
}
