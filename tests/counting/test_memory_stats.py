"""The memory probe and its cache: correct, fresh enough, one reading for all, also after fork."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import warnings
from pathlib import Path

import psutil
import pytest
from threads import in_threads, rounds

from rcmgr.counting.memory_stats import (
    MemoryGate,
    MemoryStatsCache,
    UnknownMemoryWarning,
    default_cache,
    read_anonymous_memory,
    read_memory_usage,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="about /proc")
MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 5_000_000_000

    def __call__(self) -> int:
        return self.now


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_what_psutil_says() -> None:
    ours = read_memory_usage()
    assert ours is not None
    assert abs(ours - psutil.Process().memory_info().rss) < 4 * MIB


def test_it_sees_memory_come_and_go() -> None:
    output = run(
        """
        import mmap
        from rcmgr.counting.memory_stats import read_memory_usage as read
        before = read()
        block = mmap.mmap(-1, 200 << 20)  # no allocator keeps it
        block[::4096] = bytes(200 << 8)
        during = read()
        block.close()
        print(during - before >> 20, read() - before >> 20)
        """
    )
    grown, left = map(int, output.split())
    assert 195 <= grown <= 220
    assert left < 20


def test_read_again_only_when_too_old() -> None:
    clock = Clock()
    values = iter([100, 200, 300, 400, 500])
    cache = MemoryStatsCache(0.1, clock=clock, probe=lambda: next(values))
    assert cache.cached_memory_bytes == 0
    assert not cache.is_known
    assert cache.get_memory_usage() == 100
    clock.now += 99_999_999
    assert cache.get_memory_usage() == 100
    assert not cache.refresh_if_needed()
    clock.now += 1
    assert cache.get_memory_usage() == 200
    assert cache.last_refresh == 5.1
    assert cache.force_refresh() == 300
    clock.now += 100_000_000
    assert cache.refresh_if_needed()
    assert cache.cached_memory_bytes == 400
    cache.forget()
    assert cache.get_memory_usage() == 500
    assert (cache.refreshes, cache.failures) == (5, 0)


def test_unknown_memory_keeps_the_last_value_warns_once_and_counts() -> None:
    clock = Clock()
    values: list[int | None] = [None, 100, None, None, 200]
    cache = MemoryStatsCache(0.1, clock=clock, probe=lambda: values.pop(0))
    with pytest.warns(UnknownMemoryWarning, match="cannot be read"):
        assert cache.get_memory_usage() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for expected in (100, 100, 100, 200):
            clock.now += 100_000_000
            assert cache.get_memory_usage() == expected
    assert (cache.refreshes, cache.failures) == (2, 3)


def test_unknown_memory_never_raises_even_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A swarm admits a connection if its manager raises."""
    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value))
    cache = MemoryStatsCache(0, probe=lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [cache.get_memory_usage(), cache.force_refresh()] == [0, 0]
        assert not cache.refresh_if_needed()
    assert [type(error) for error in seen] == [UnknownMemoryWarning]
    assert cache.failures == 3


def test_a_gate_without_a_constructor_has_a_cache() -> None:
    gate = MemoryGate.__new__(MemoryGate)
    default_cache().force_refresh()
    assert not gate.is_fine()
    gate._found_fine(default_cache().refreshes)
    default_cache().force_refresh()
    assert not gate.is_fine()


def test_a_probe_that_raises_does_not_lock_the_cache() -> None:
    readings = [ValueError("no"), 7]

    def probe() -> int:
        reading = readings.pop(0)
        if isinstance(reading, Exception):
            raise reading
        return reading

    cache = MemoryStatsCache(0, probe=probe)
    with pytest.warns(UnknownMemoryWarning, match="cannot be read"):
        assert cache.get_memory_usage() == 0
    assert (cache.is_known, cache.failures) == (False, 1)
    assert cache.get_memory_usage() == 7


def test_an_interrupt_within_a_probe_does_not_lock_the_cache() -> None:
    readings: list[object] = [KeyboardInterrupt(), 7]

    def probe() -> int:
        reading = readings.pop(0)
        if isinstance(reading, BaseException):
            raise reading
        return reading  # type: ignore[return-value]

    cache = MemoryStatsCache(probe=probe)
    with pytest.raises(KeyboardInterrupt):
        cache.get_memory_usage()
    assert cache.get_memory_usage() == 7


@pytest.mark.parametrize("reading", ["much", [], 2**70, 1.5, -1], ids=repr)
def test_a_reading_that_is_no_size_is_unknown(reading: object) -> None:
    cache = MemoryStatsCache(0, probe=lambda: reading)  # type: ignore[arg-type, return-value]
    with pytest.warns(UnknownMemoryWarning):
        assert cache.get_memory_usage() == 0
    assert not cache.is_known


def test_clean_pages_of_files_are_resident_but_not_anonymous(tmp_path: Path) -> None:
    size = 64 << 20
    file = tmp_path / "mapped"
    file.write_bytes(bytes(size))
    resident, anonymous = read_memory_usage(), read_anonymous_memory()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert read_memory_usage() - resident > size * 9 // 10
        assert read_anonymous_memory() - anonymous < size // 2


def test_a_default_for_each_measure() -> None:
    assert default_cache() is default_cache("rss")
    anonymous = default_cache("anonymous")
    assert anonymous is not default_cache()
    assert 0 < anonymous.force_refresh() <= default_cache().force_refresh()
    with pytest.raises(ValueError, match="measure must be one of rss, anonymous, not 'virtual'"):
        default_cache("virtual")


@pytest.mark.skipif(
    sysconfig.get_config_var("Py_GIL_DISABLED"), reason="CPython does not use malloc")
def test_free_memory_that_the_allocator_keeps_goes_back() -> None:
    """In a separate process, without the allocations of other tests."""
    out = run("""
        from rcmgr.counting.memory_stats import read_memory_usage, trim_memory
        frames = [bytes(2000) for _ in range(100_000)]
        kept = frames[::60]
        del frames
        before = read_memory_usage()
        print(before >> 20, trim_memory(), read_memory_usage() >> 20)
        """)
    before, trimmed, after = out.split()
    if trimmed == "True":  # glibc
        assert int(before) - int(after) > 100


def test_concurrent_callers_make_one_reading_and_do_not_wait() -> None:
    entered, go_on = threading.Event(), threading.Event()
    clock = Clock()
    readings = []

    def probe() -> int:
        readings.append(1)
        if len(readings) == 2:
            entered.set()
            assert go_on.wait(10)
        return 100 * len(readings)

    cache = MemoryStatsCache(clock=clock, probe=probe)
    assert cache.get_memory_usage() == 100
    clock.now += 200_000_000
    slow = threading.Thread(target=cache.get_memory_usage)
    slow.start()
    assert entered.wait(10)
    # while one thread reads, the others use the old value
    assert [cache.get_memory_usage() for _ in range(50)] == [100] * 50
    assert cache.force_refresh() == 100
    go_on.set()
    slow.join()
    assert cache.get_memory_usage() == 200
    assert len(readings) == 2


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (float("nan"), ValueError), (1e10, ValueError), ("1", TypeError),
     (True, TypeError)],
)
def test_bad_ages(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_stale_duration must be"):
        MemoryStatsCache(value)  # type: ignore[arg-type]


def test_one_default_for_all() -> None:
    assert default_cache() is default_cache()
    assert default_cache().max_stale_duration == 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_never_reports_its_parent() -> None:
    output = run(
        """
        import mmap
        import os
        from rcmgr.counting.memory_stats import default_cache, read_memory_usage
        block = mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE)  # no allocator keeps it
        block[::4096] = bytes(300 << 8)
        parent = default_cache().get_memory_usage()
        read, write = os.pipe()
        if os.fork() == 0:
            block.close()
            small = default_cache().get_memory_usage()
            if os.fork() == 0:
                grown = bytearray(100 << 20)
                os.write(write, b"%d %d" % (small >> 20, read_memory_usage() - small >> 20))
                os._exit(0)
            os.wait()
            os._exit(0)
        os.wait()
        print(parent >> 20, os.read(read, 99).decode(), read_memory_usage() >> 20)
        """
    )
    parent, child, grandchild_grew, parent_after = map(int, output.split())
    assert parent > 300
    assert child < 100
    assert 90 <= grandchild_grew <= 120
    assert parent_after > 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_cannot_read_its_memory_knows_nothing() -> None:
    output = run(
        """
        import os, warnings
        from rcmgr import MemoryConnectionLimits
        from rcmgr.counting.memory_stats import MemoryStatsCache
        warnings.simplefilter("ignore")
        used = 500
        cache = MemoryStatsCache(1000, probe=lambda: used)
        limits = MemoryConnectionLimits(400, cache=cache)
        assert limits.excess() is not None
        read, write = os.pipe()
        if os.fork() == 0:
            used = None
            before = cache.cached_memory_bytes, cache.is_known, cache.last_refresh
            limits.check_limit()
            after = cache.get_memory_usage(), cache.is_known, cache.failures
            os.write(write, repr((before, after)).encode())
            os._exit(0)
        assert os.wait()[1] == 0
        assert cache.get_memory_usage() == 500
        print(os.read(read, 99).decode())
        """
    )
    assert output == "((0, False, 0.0), (0, False, 1))"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_a_thread_reads() -> None:
    """The child has neither the thread nor its unfinished reading."""
    output = run(
        """
        import os, threading, warnings
        from rcmgr.counting.memory_stats import MemoryStatsCache, read_memory_usage
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, from 3.12 on
        entered, go_on = threading.Event(), threading.Event()
        main = threading.get_ident()
        def probe():
            if threading.get_ident() != main:
                entered.set()
                go_on.wait()
            return read_memory_usage()
        cache = MemoryStatsCache(0, probe=probe)
        thread = threading.Thread(target=cache.get_memory_usage)
        thread.start()
        entered.wait()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, b"%d" % (cache.get_memory_usage() > 0))
            os._exit(0)
        os.wait()
        go_on.set()
        thread.join()
        print(os.read(read, 9).decode())
        """
    )
    assert output == "1"


def test_a_spawned_process_reports_itself() -> None:
    output = run(
        """
        import subprocess, sys
        block = bytearray(300 << 20)
        code = "import rcmgr; print(rcmgr.MemoryStatsCache().get_memory_usage())"
        print(int(subprocess.check_output([sys.executable, "-c", code])) >> 20)
        """
    )
    assert int(output) < 100


@linux
def test_growth_and_shrinkage_are_seen_within_the_age() -> None:
    """Pages touched one by one, then given back to the system."""
    output = run(
        """
        import mmap, time
        from rcmgr.counting.memory_stats import MemoryStatsCache
        cache = MemoryStatsCache()
        def seen(true):
            deadline = time.monotonic() + 5
            while not true(cache.get_memory_usage()):
                assert time.monotonic() < deadline
            return True
        before = cache.get_memory_usage()
        size = 128 << 20
        area = mmap.mmap(-1, size)
        for at in range(0, size, mmap.PAGESIZE):
            area[at] = 1
        print(seen(lambda used: used - before > size * 9 // 10))
        area.close()
        print(seen(lambda used: used - before < size // 10))
        """
    )
    assert output.split() == ["True", "True"]


@linux
def test_a_descriptor_that_others_took_is_not_believed() -> None:
    output = run(
        """
        import os
        from rcmgr.counting.memory_stats import read_memory_usage
        before = read_memory_usage()
        def kept():
            for fd in range(3, 64):
                try:
                    if os.readlink(f"/proc/self/fd/{fd}").endswith("/statm"):
                        return fd
                except OSError:
                    pass
        fd = kept()
        for text in (b"", b"1 2 3 4 5 6 7", b"1 2 3 4 5 6\\n", b"-1 2 3 4 5 6 7\\n", b"x" * 300,
                     b"1 99999999999999999999 3 4 5 6 7\\n", b"1  2 3 4 5 6 7\\n"):
            other = os.open("/tmp", os.O_RDWR | os.O_TMPFILE)
            os.write(other, text)
            os.dup2(other, kept())
            os.close(other)
            assert abs(read_memory_usage() - before) < 8 << 20, text
        os.closerange(3, 64)
        assert abs(read_memory_usage() - before) < 8 << 20
        assert os.get_inheritable(kept()) is False
        print("fine", fd is not None)
        """
    )
    assert output == "fine True"


@linux
def test_a_child_keeps_what_took_the_number_of_the_descriptor() -> None:
    """A daemon closed descriptors it did not know, opened its own, and forks workers."""
    output = run(
        """
        import os
        from rcmgr.counting.memory_stats import read_memory_usage
        read_memory_usage()
        kept = next(
            int(fd) for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
            and os.readlink(f"/proc/self/fd/{fd}").endswith("/statm"))
        read, write = os.pipe()
        os.dup2(write, kept)
        if os.fork() == 0:
            os.write(kept, b"%d" % (read_memory_usage() > 0))
            os._exit(0)
        assert os.wait()[1] == 0
        print(os.read(read, 9).decode())
        """
    )
    assert output == "1"


@linux
def test_without_proc_it_is_unknown() -> None:
    """A process in an empty root directory has no /proc. Making one needs root."""
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    output = run(
        """
        import os, tempfile, warnings
        from rcmgr import MemoryConnectionLimits, ResourceManager
        from rcmgr.limits.machine import memory_bounds
        from rcmgr.counting.memory_stats import MemoryStatsCache, read_memory_usage
        cache = MemoryStatsCache(0)
        limits = MemoryConnectionLimits(max_bytes=1, cache=cache)
        total = memory_bounds()[0]
        used = MemoryStatsCache(0, probe=lambda: total.bytes)
        manager = ResourceManager(memory_limits=MemoryConnectionLimits(
            max_percentage=0.5, cache=used))
        with tempfile.TemporaryDirectory() as folder:
            os.chroot(folder)
        # the machine's memory is known all the same, and a share of it holds
        assert memory_bounds() == (total,)
        assert manager.open_connection(None) is None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(read_memory_usage(), cache.get_memory_usage(), cache.failures)
            limits.check_limit()
            print(len(caught))
        """
    )
    assert output == "None 0 1\n1"


@pytest.mark.parametrize("psutil", [
    "None", "Fake(rss=-1, shared=0)", "Fake(rss=1.5)", "Fake(rss='x')", "Fake()",
    "Fake(rss=5, shared=9)",
])
def test_a_system_without_our_reader_whose_psutil_fails(psutil: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    output = run(f"""
        import os, sys, tempfile, warnings
        import rcmgr
        from rcmgr.counting import memory_stats
        class Fake:
            def __init__(self, **figures):
                self.__dict__.update(figures)
            def Process(self):
                return self
            def memory_info(self):
                return self
        limits = [
            rcmgr.MemoryConnectionLimits(max_bytes=10**12, measure=each)
            for each in ("rss", "anonymous")]
        manager = rcmgr.ResourceManager()
        sys.platform, sys.modules["psutil"] = "freebsd14", {psutil}
        with tempfile.TemporaryDirectory() as folder:
            os.chroot(folder)
        warnings.simplefilter("ignore")
        for each in limits:
            manager.memory_limits = each
            assert manager.open_connection(None, None, "inbound") is not None
        print(memory_stats.read_anonymous_memory())
    """)
    assert output == "None"


def test_threads() -> None:
    cache = MemoryStatsCache(0)
    turns = rounds(12_500)
    seen = in_threads(lambda _: max(cache.get_memory_usage() for _ in range(turns)))
    assert cache.failures == 0
    assert 0 < cache.refreshes <= 8 * turns
    assert max(seen) < 4 << 30
