"""Values by network: which networks of a table an address is in.

A look-up costs one dict access per prefix length in use, not per network. Keys are bytes, because
strangers choose addresses, and the hash of bytes is keyed.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

import threading

__all__ = ["PrefixTable"]

cdef object NOTHING = object()

cdef enum:
    LONGEST_IP = 16


cdef bytes prefix_of(bytes ip, Py_ssize_t bits):
    """The first bits of an address, in as many bytes as they need. The bits after them are 0."""
    cdef char[LONGEST_IP] prefix
    cdef Py_ssize_t size = PyBytes_GET_SIZE(ip), whole = bits >> 3, rest = bits & 7
    if bits == 8 * size:
        return ip
    if size > LONGEST_IP or bits > 8 * size:
        raise ValueError(f"an IP address has 4 or 16 bytes, not {size}")
    memcpy(prefix, PyBytes_AS_STRING(ip), size)
    if rest:
        prefix[whole] = <char>(<unsigned char>prefix[whole] & (0xFF00 >> rest))
        whole += 1
    return PyBytes_FromStringAndSize(prefix, whole)


@cython.final
@cython.binding(False)
cdef class PrefixTable:
    """PrefixTable()\n--\n
    Values by network. A look-up takes about 0.1 us and runs no Python code. Thread safe.

    An address is 4 or 16 bytes, and IPv4 is apart from IPv6.
    """

    # By family: pairs of a prefix length and a dict of the networks of that length, longest first.
    # The lock of the object guards both tuples. The dicts have their own locks.
    cdef tuple _ipv4, _ipv6
    cdef object _changing  # held by the one thread that changes something

    def __cinit__(self):
        self._ipv4 = self._ipv6 = ()
        self._changing = threading.Lock()

    cdef tuple tables(self, bint is_ipv4):
        cdef tuple tables
        with cython.critical_section(self):
            tables = self._ipv4 if is_ipv4 else self._ipv6
        return tables

    cdef int replace(self, bint is_ipv4, tuple tables) except -1:
        with cython.critical_section(self):
            if is_ipv4:
                _former, self._ipv4 = self._ipv4, tables  # freed outside of the lock
            else:
                _former, self._ipv6 = self._ipv6, tables
        return 0

    def set(self, network, value):
        """Give a `Network` a value."""
        with self._changing:
            tables = self.tables(network.is_ipv4)
            for bits, values in tables:
                if bits == network.bits:
                    values[network.prefix] = value
                    return
            added = (*tables, (network.bits, {network.prefix: value}))
            self.replace(network.is_ipv4, tuple(sorted(added, key=minus_bits)))

    def remove(self, network):
        """KeyError: the network has no value."""
        with self._changing:
            tables = self.tables(network.is_ipv4)
            for bits, values in tables:
                if bits == network.bits and network.prefix in values:
                    del values[network.prefix]
                    if not values:
                        self.replace(
                            network.is_ipv4, tuple([each for each in tables if each[0] != bits]))
                    return
        raise KeyError(str(network))

    def lengths(self, bint is_ipv4):
        """The prefix lengths in use, longest first. A look-up costs a dict access for each."""
        return tuple([bits for bits, _ in self.tables(is_ipv4)])

    def longest(self, bytes ip not None):
        """Length and value of the longest prefix of an address, or None."""
        for bits, values in self.tables(PyBytes_GET_SIZE(ip) == 4):
            value = (<dict>values).get(prefix_of(ip, bits), NOTHING)
            if value is not NOTHING:
                return bits, value
        return None

    def matching(self, bytes ip not None):
        """Length and value of every prefix of an address, longest first."""
        cdef list found = []
        for bits, values in self.tables(PyBytes_GET_SIZE(ip) == 4):
            value = (<dict>values).get(prefix_of(ip, bits), NOTHING)
            if value is not NOTHING:
                found.append((bits, value))
        return found


def minus_bits(pair):
    return -pair[0]
