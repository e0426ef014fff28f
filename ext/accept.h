/* Accept TCP connections, and hang up on them for as little as the kernel takes.
 *
 * Linux and macOS. Elsewhere RCMGR_CAN_ACCEPT is 0, and the functions do nothing. Include it after
 * Python.h, or with _GNU_SOURCE: it needs more than C11. Thread safe. */
#ifndef RCMGR_ACCEPT_H
#define RCMGR_ACCEPT_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

#if defined(__linux__) || defined(__APPLE__)
#define RCMGR_CAN_ACCEPT 1
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#else
#define RCMGR_CAN_ACCEPT 0
#endif

enum {
    RCMGR_SILENT = -1,  /* the other side has sent nothing yet */
    RCMGR_HUNG_UP = -2, /* it has closed its end, or the connection is broken */
    RCMGR_LONGEST_IP = 46,
};

typedef struct {
    int fd;
    int family; /* AF_INET or AF_INET6. With another family, the fields below are 0 */
    int port;
    uint32_t flow, scope; /* IPv6 only */
    uint8_t ip[16];       /* IPv4: 4 bytes */
} rcmgr_accepted;

#if RCMGR_CAN_ACCEPT

typedef union {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct sockaddr_storage room;
} rcmgr_address;

static inline int rcmgr_accept_once(int listener, rcmgr_address *from)
{
    socklen_t size = sizeof *from;
#ifdef __linux__
    return accept4(listener, &from->any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int fd = accept(listener, &from->any, &size);
    if (fd >= 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
#endif
}

/* The next connection of a listening socket that does not block. The new descriptor does not block
 * either, and other programs do not inherit it. The result is 0, or a number of errno.h: EAGAIN if
 * no connection waits, ECONNABORTED if it has gone meanwhile. `to` changes only with 0. */
static inline int rcmgr_accept(int listener, rcmgr_accepted *to)
{
    rcmgr_address from;
    rcmgr_accepted found;
    memset(&found, 0, sizeof found);
    memset(&from, 0, sizeof from);
    do
        found.fd = rcmgr_accept_once(listener, &from);
    while (found.fd < 0 && errno == EINTR);
    if (found.fd < 0)
        return errno == EWOULDBLOCK ? EAGAIN : errno;
    found.family = from.any.sa_family;
    if (found.family == AF_INET) {
        found.port = ntohs(from.ipv4.sin_port);
        memcpy(found.ip, &from.ipv4.sin_addr, 4);
    } else if (found.family == AF_INET6) {
        found.port = ntohs(from.ipv6.sin6_port);
        found.flow = ntohl(from.ipv6.sin6_flowinfo);
        found.scope = from.ipv6.sin6_scope_id;
        memcpy(found.ip, &from.ipv6.sin6_addr, 16);
    }
    *to = found;
    return 0;
}

/* Close a connection. The other side gets a reset, and the kernel keeps no state. */
static inline void rcmgr_reset(int fd)
{
    static const struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd); /* the descriptor is free, also after an error */
}

static inline void rcmgr_close(int fd) { close(fd); }

/* The first byte that the other side sent, 0 to 255, which stays unread. */
static inline int rcmgr_first_byte(int fd)
{
    unsigned char byte;
    ssize_t count;
    do
        count = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (count < 0 && errno == EINTR);
    if (count > 0)
        return byte;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? RCMGR_SILENT : RCMGR_HUNG_UP;
}

static inline char *rcmgr_put_number(char *at, unsigned value) /* 0 to 255 */
{
    if (value >= 100)
        *at++ = (char)('0' + value / 100);
    if (value >= 10)
        *at++ = (char)('0' + value / 10 % 10);
    *at++ = (char)('0' + value % 10);
    return at;
}

/* The address as text, without a scope. Empty if the family has no such address. */
static inline void rcmgr_ip_text(const rcmgr_accepted *from, char text[RCMGR_LONGEST_IP])
{
    if (from->family == AF_INET) { /* inet_ntop takes ten times as long */
        for (int part = 0; part < 4; part++) {
            text = rcmgr_put_number(text, from->ip[part]);
            *text++ = part < 3 ? '.' : '\0';
        }
    } else if (inet_ntop(from->family, from->ip, text, RCMGR_LONGEST_IP) == NULL)
        text[0] = '\0';
}

#else

static inline int rcmgr_accept(int listener, rcmgr_accepted *to)
{
    (void)listener;
    (void)to;
    return ENOSYS;
}

static inline void rcmgr_reset(int fd) { (void)fd; }

static inline void rcmgr_close(int fd) { (void)fd; }

static inline int rcmgr_first_byte(int fd)
{
    (void)fd;
    return RCMGR_HUNG_UP;
}

static inline void rcmgr_ip_text(const rcmgr_accepted *from, char text[RCMGR_LONGEST_IP])
{
    (void)from;
    text[0] = '\0';
}

#endif

#endif
