"""Connections that were just accepted, before anything is spent on them.

A refusal needs the accept and the close of a descriptor, and no object of Python's socket module.
"""

cimport cython
from libc.errno cimport EAGAIN, EBADF
from libc.stdint cimport int64_t

import logging
import os
import socket

from rcmgr.admission._accept cimport (
    RCMGR_CAN_ACCEPT, RCMGR_HUNG_UP, RCMGR_LONGEST_IP, RCMGR_SILENT, rcmgr_accept, rcmgr_accepted,
    rcmgr_close, rcmgr_first_byte, rcmgr_ip_text, rcmgr_reset,
)

__all__ = ["AcceptedSocket", "Door", "accept"]

CAN_ACCEPT = bool(RCMGR_CAN_ACCEPT)
"""Whether `accept` works here: on Linux and macOS."""

cdef int IPV6 = socket.AF_INET6
cdef object LOG = logging.getLogger("rcmgr.admission.door")


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.binding(False)
cdef class AcceptedSocket:
    """AcceptedSocket()\n--\n
    An accepted TCP connection: a descriptor that does not block, and the address it came from.

    `accept` makes it; the class itself makes a closed one. It has the methods of a socket that a
    refusal needs. Dropping it closes it. Thread safe.
    """

    cdef rcmgr_accepted at  # the lock of the object guards `at.fd`; the rest is constant
    cdef readonly str ip
    """The remote IP address as text, as `socket.accept` gives it. Empty: unknown."""

    def __cinit__(self):
        self.at.fd = -1

    cdef int take(self) noexcept:
        cdef int fd
        with cython.critical_section(self):
            fd = self.at.fd
            self.at.fd = -1
        return fd

    @property
    def address(self):
        """The remote address, as `socket.accept` gives it."""
        if self.at.family == IPV6:
            return self.ip, self.at.port, self.at.flow, self.at.scope
        return self.ip, self.at.port

    def fileno(self):
        """The descriptor; -1: closed or detached."""
        cdef int fd
        with cython.critical_section(self):
            fd = self.at.fd
        return fd

    def peek(self):
        """The first byte that the other side sent. b"": it hung up. None: it is silent."""
        cdef int fd, first = RCMGR_HUNG_UP
        with cython.critical_section(self):  # another thread must not close it meanwhile
            fd = self.at.fd
            if fd >= 0:
                first = rcmgr_first_byte(fd)
        if first == RCMGR_SILENT:
            return None
        return b"" if first == RCMGR_HUNG_UP else bytes((first,))

    def close(self):
        """Hang up as usual. Does nothing a second time."""
        cdef int fd = self.take()
        if fd >= 0:
            rcmgr_close(fd)

    def reset(self):
        """Hang up with a reset, after which the kernel keeps nothing. As `close` otherwise."""
        cdef int fd = self.take()
        if fd >= 0:
            rcmgr_reset(fd)

    def detach(self):
        """The connection as a `socket.socket`, which the caller owns from then on.

        OSError: it is closed or detached.
        """
        cdef int fd = self.take()
        check_open(fd)
        try:
            made = socket.socket(self.at.family, socket.SOCK_STREAM, 0, fileno=fd)
        except BaseException:
            rcmgr_close(fd)
            raise
        made.setblocking(False)  # it does not know
        return made

    def getsockname(self):
        """The local address. OSError: as `socket.getsockname`."""
        return self.asked("getsockname")

    def getpeername(self):
        """The remote address. OSError: as `socket.getpeername`."""
        return self.asked("getpeername")

    cdef object asked(self, str method):
        cdef int fd = self.fileno()
        check_open(fd)
        found = socket.socket(self.at.family, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            return getattr(found, method)()
        finally:
            found.detach()

    def __dealloc__(self):
        # no reset: a forked child that drops its copy must not break the parent's connection
        if self.at.fd >= 0:
            rcmgr_close(self.at.fd)

    def __repr__(self):
        return f"AcceptedSocket({self.address!r}, fd={self.fileno()})"


cdef int check_open(int fd) except -1:
    if fd < 0:
        raise OSError(EBADF, os.strerror(EBADF))
    return 0


def accept(int listener):
    """The next connection of a listening socket that does not block, as an AcceptedSocket.

    listener: the descriptor. None: no connection waits. OSError: as `socket.accept`. About 0.3 us
    beyond the system call.
    """
    return next_of(listener)


cdef AcceptedSocket next_of(int listener):
    cdef AcceptedSocket found
    cdef rcmgr_accepted at
    cdef char[RCMGR_LONGEST_IP] text
    cdef int error = rcmgr_accept(listener, &at)
    if error == EAGAIN:
        return None
    if error != 0:
        raise OSError(error, os.strerror(error))
    try:
        rcmgr_ip_text(&at, text)
        ip = text.decode("ascii")
        found = AcceptedSocket.__new__(AcceptedSocket)
    except BaseException:
        rcmgr_close(at.fd)
        raise
    found.at = at
    found.ip = ip
    return found


@cython.final
@cython.binding(False)
cdef class Door:
    """Door()\n--\n
    Accepts connections, asks about each, and hangs up on those that are refused.

    Its attributes may change at any time. An exception of the functions below is logged, and the
    connection is let in: the code behind the door can end that one connection. For one thread.
    """

    cdef public object ask
    """Called with the IP address of a connection: a handle, or None: refused. None: all are let in.
    """
    cdef public object wait
    """Called with an AcceptedSocket before `ask`: whether it is kept elsewhere. None: none is."""
    cdef public object refuse
    """Called with an AcceptedSocket that is refused. It hangs up. None: `hang_up` does."""
    cdef public object goodbyes
    """A TokenBucket: so many refusals end as usual, and the others with a reset. None: no reset."""
    cdef public bint drops_gone
    """Whether to drop connections whose other side has hung up already, without a question."""
    cdef public int64_t turned_away
    """How many connections were refused, or dropped."""

    cpdef object hang_up(self, AcceptedSocket accepted):
        """End a connection, in the way that `goodbyes` says."""
        if self.goodbyes is None or self.goodbyes.try_consume():
            accepted.close()
        else:
            accepted.reset()

    def next(self, listener, int most):
        """The next connection that is let in: (AcceptedSocket, its handle), and whether more wait.

        listener: an object with `fileno()`, which may be closed at any time.
        most: how many connections to accept at most. OSError: as `accept`.
        """
        cdef AcceptedSocket found
        cdef int _
        for _ in range(most):
            found = next_of(listener.fileno())
            if found is None:
                return None, False
            handle = None
            if self.drops_gone and is_gone(found):
                rcmgr_reset(found.take())
                self.turned_away += 1
                continue
            try:
                if self.wait is not None and self.wait(found):
                    continue
                if self.ask is not None:
                    handle = self.ask(found.ip)
                    if handle is None:
                        if self.refuse is None:
                            self.hang_up(found)
                        else:
                            self.refuse(found)
                        self.turned_away += 1
                        continue
            except Exception:
                LOG.exception("asking for a connection from %s failed", found.address)
                if found.at.fd < 0:
                    continue
            return (found, handle), True
        return None, True


cdef bint is_gone(AcceptedSocket accepted) noexcept:
    return rcmgr_first_byte(accepted.at.fd) == RCMGR_HUNG_UP
