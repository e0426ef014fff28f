"""How much memory this process uses, at most 100 ms old."""

import logging
import os
import sys
import warnings
from weakref import WeakSet

cimport cython
from libc.stdint cimport int64_t

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns

from rcmgr.limits.checks import check_choice, check_count, check_number


cdef extern from "rss.h" nogil:
    int64_t rcmgr_rss_bytes() noexcept
    int64_t rcmgr_anonymous_bytes() noexcept

cdef extern from "trim.h" nogil:
    int rcmgr_trim_memory() noexcept

logger = logging.getLogger(__name__)
cdef int64_t NEVER = -(1 << 62)


__all__ = [
    "MemoryGate",
    "MemoryStatsCache",
    "UnknownMemoryWarning",
    "default_cache",
    "read_anonymous_memory",
    "read_memory_usage",
    "trim_memory",
    "warn_unknown",
]


class UnknownMemoryWarning(RuntimeWarning):
    """The memory of the process is unknown. Until it is known, memory limits deny nothing."""

    def __init__(self, *args):
        super().__init__(*args)


def read_memory_usage():
    """The resident set size of this process now, in bytes; None: unknown.

    From /proc/self/statm on Linux, task_info on macOS, the working set on Windows, psutil
    elsewhere. About 1 us on Linux, more elsewhere. Thread safe, and right after a fork.
    """
    cdef int64_t used = rcmgr_rss_bytes()
    return used if used >= 0 else by_psutil(lambda memory: memory.rss)


def read_anonymous_memory():
    """The memory of this process that the kernel cannot drop, in bytes; None: unknown.

    Linux: resident minus shared pages; macOS: the physical footprint; Windows: private bytes;
    psutil elsewhere. Cost and thread guarantee as `read_memory_usage`.
    """
    cdef int64_t used = rcmgr_anonymous_bytes()
    return used if used >= 0 else by_psutil(lambda memory: memory.rss - memory.shared)


cdef object by_psutil(object figure):
    if sys.platform in ("linux", "darwin", "win32"):
        return None
    try:
        import psutil

        used = figure(psutil.Process().memory_info())
        return used if used >= 0 else None
    except Exception:
        logger.debug("psutil cannot read the memory of this process", exc_info=True)
        return None


def trim_memory():
    """Give the allocator's free memory back to the system. True if the system got any.

    False on a C library without such a call (other than glibc). Milliseconds for each GiB of heap,
    without the GIL.
    """
    cdef int result
    with nogil:
        result = rcmgr_trim_memory()
    return result == 1


@cython.final
@cython.binding(False)  # 5 ns less per call; the clinic format keeps signatures
cdef class MemoryStatsCache:
    """MemoryStatsCache(max_stale_duration=0.1, *, clock=None, probe=None)\n--\n
    The memory of the process, read again once the last reading is `max_stale_duration` old.

    max_stale_duration: seconds, 0 or more (0: read at every call); default 0.1, as rust-libp2p.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).
    probe: returns bytes, or None: unknown, as if it raises; default `read_memory_usage`.
    TypeError, ValueError: max_stale_duration is not such a number.

    A reading may find the memory unknown. Then the last value stays (0 before the first),
    `failures` counts, and the first failure warns. If warnings are errors, the error goes to
    `sys.unraisablehook`. Only one thread reads at a time. Other threads use the old value and do
    not wait. A forked child knows nothing until it has read its own memory.

    5 to 15 ns when fresh. Thread safe. Use `default_cache()` unless you need another age: a hundred
    limits on it make one reading per 100 ms.
    """

    # constant: the age, the clock and the probe. The lock of the object guards everything else.
    cdef int64_t _max_stale_ns
    cdef int64_t _stale_at_ns
    cdef int64_t _used
    cdef object _clock
    cdef object _probe
    cdef bint _reading
    cdef bint _warned
    cdef readonly bint is_known
    """Whether a reading of this process has succeeded."""
    cdef readonly double last_refresh
    """Time of the last successful reading, in seconds on the clock; 0.0: never."""
    cdef readonly int64_t refreshes
    """Successful readings."""
    cdef readonly int64_t failures
    """Readings that found the memory unknown."""
    cdef object __weakref__

    def __cinit__(self, max_stale_duration=0.1, *, clock=None, probe=None):
        check_number("max_stale_duration", max_stale_duration, 0, 1_000_000_000)
        self._max_stale_ns = <int64_t>(max_stale_duration * 1e9)
        self._clock = clock
        self._probe = read_memory_usage if probe is None else probe
        self._stale_at_ns = NEVER
        live_caches.add(self)

    @property
    def max_stale_duration(self):
        """Seconds."""
        return self._max_stale_ns / 1e9

    @property
    def cached_memory_bytes(self):
        """The last reading in bytes, at any age; 0 before the first."""
        cdef int64_t used
        with cython.critical_section(self):
            used = self._used
        return used

    def get_memory_usage(self):
        """Bytes, at most `max_stale_duration` old, unless the memory is unknown."""
        cdef int64_t used
        cdef bint stale
        cdef int64_t now = self._now()
        with cython.critical_section(self):
            stale = now >= self._stale_at_ns
            used = self._used
        if stale:
            self._refresh(now)
            with cython.critical_section(self):
                used = self._used
        return used

    def refresh_if_needed(self):
        """Read if the last reading is too old; True if this reading succeeded."""
        cdef bint stale
        cdef int64_t now = self._now()
        with cython.critical_section(self):
            stale = now >= self._stale_at_ns
        return stale and self._refresh(now)

    def force_refresh(self):
        """Read now, unless another thread is reading; bytes."""
        self._refresh(self._now())
        return self.cached_memory_bytes

    def forget(self):
        """Make the next call read."""
        with cython.critical_section(self):
            self._stale_at_ns = NEVER

    cdef inline int64_t _now(self) except? -1:
        return rcmgr_now_coarse_ns() if self._clock is None else self._clock()

    cdef bint _refresh(self, int64_t now) except -1:
        """Read, unless another thread is reading; whether it succeeded."""
        cdef bint mine, known, first
        cdef int64_t used = 0
        with cython.critical_section(self):
            mine = not self._reading
            self._reading = True
        if not mine:
            return False
        try:
            found = self._probe()
            known = found is not None
            if known:
                check_count("the reading of a memory probe", found)
                used = found
        except Exception:
            known = False
            logger.debug("a memory probe failed", exc_info=True)
        except BaseException:
            with cython.critical_section(self):
                self._reading = False
            raise
        with cython.critical_section(self):
            self._reading = False
            # a failure holds as long as a success: it is not tried again at every call
            self._stale_at_ns = now + self._max_stale_ns
            first = not known and not self._warned
            if known:
                self._used = used
                self.is_known = True
                self.refreshes += 1
                self.last_refresh = now / 1e9
            else:
                self.failures += 1
                self._warned = True
        if first:
            warn(
                "the memory of this process cannot be read: memory limits do not deny until it can")
        return known

    cdef void _after_fork(self) noexcept:
        """Forget the parent's readings, and the reading that one of its threads had begun."""
        self._reading = False
        self._stale_at_ns = NEVER
        self._used = 0
        self.is_known = False
        self.last_refresh = 0.0


cdef void warn(str message) noexcept:
    # noexcept: py-libp2p admits a connection if its resource manager raises
    warnings.warn(message, UnknownMemoryWarning)


def warn_unknown(str message not None):
    """Give an UnknownMemoryWarning. Never raises: where warnings are errors, it is unraisable."""
    warn(message)


@cython.binding(False)
cdef class MemoryGate:
    """MemoryGate()\n--\n
    Remembers that the last reading was within the limits, as long as the reading is fresh.

    The base of `MemoryConnectionLimits`: the next checks of a fresh reading cost 10 ns.
    """

    cdef MemoryStatsCache _cache
    # the number of the last reading within the limits; -1: no such reading. Under the cache's lock.
    cdef int64_t _fine_at
    cdef public object deny_new_peers_above
    """The fraction of the limit above which peers without a connection are refused, or None."""
    cdef public object max_pressure
    """The percentage of time spent waiting for memory above which they are refused, or None."""

    def __cinit__(self, *args, **kwargs):
        self._cache = _default
        self._fine_at = -1

    cdef inline MemoryStatsCache _cache_now(self):
        cdef MemoryStatsCache cache
        with cython.critical_section(self):
            cache = self._cache
        return cache

    cdef inline bint _holds(self) except -1:
        cdef MemoryStatsCache cache = self._cache_now()
        cdef bint holds
        cdef int64_t now = cache._now()
        with cython.critical_section(cache):
            holds = cache.refreshes == self._fine_at and now < cache._stale_at_ns
        return holds

    def check_limit(self):
        """MemoryUsageLimitExceeded if the process uses too much memory. 10 ns when fresh."""
        if not self._holds():
            self._check()

    def is_fine(self):
        """Whether the last reading is fresh and within the limits. 10 ns."""
        return self._holds()

    def _attach(self, MemoryStatsCache cache not None):
        with cython.critical_section(self):
            _former, self._cache = self._cache, cache  # freed outside of the lock

    def _found_fine(self, int64_t reading):
        """The reading of this number (`refreshes`) is within the limits."""
        cdef MemoryStatsCache cache = self._cache_now()
        with cython.critical_section(cache):
            self._fine_at = reading


cdef bint is_fine(object limits, bint new_peer) except -1:
    cdef MemoryGate gate = limits
    cdef bint asks_more
    if new_peer:
        with cython.critical_section(gate):
            asks_more = gate.deny_new_peers_above is not None or gate.max_pressure is not None
        if asks_more:
            return False
    return gate._holds()


def _after_fork():
    for cache in list(live_caches):
        (<MemoryStatsCache>cache)._after_fork()


live_caches = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
cdef MemoryStatsCache _default = MemoryStatsCache()
cdef MemoryStatsCache _anonymous = MemoryStatsCache(probe=read_anonymous_memory)


def default_cache(str measure not None = "rss"):
    """The cache that all limits of this process share. It reads every 100 ms at most.

    measure: "rss", or "anonymous" (see `ProcessMemoryLimits`). ValueError: another text.
    """
    check_choice("measure", measure, ("rss", "anonymous"))
    return _default if measure == "rss" else _anonymous
