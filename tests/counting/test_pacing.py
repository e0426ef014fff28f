"""Long work lets other threads run, and short work does not wait for them."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcmgr.counting.pacing import Pacer, in_order, keys_in, paced

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def test_short_work_does_not_pause() -> None:
    pacer = Pacer()
    pacer.step()
    assert pacer.pauses <= 1  # a slow machine may need longer than 0.3 ms


@pytest.mark.skipif(not HAS_GIL, reason="nothing keeps other threads from running")
def test_long_work_pauses() -> None:
    pacer = Pacer()
    for pauses in range(1, 4):
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            pass
        pacer.step()
        assert pacer.pauses == pauses


@pytest.mark.skipif(not HAS_GIL, reason="nothing keeps other threads from running")
def test_short_parts_of_long_work_pause() -> None:
    pauses = 0
    for _ in range(40):
        pacer = Pacer()
        until = time.monotonic() + 0.0001
        while time.monotonic() < until:
            pass
        pacer.step()
        pauses += pacer.pauses
    assert pauses >= 5


@pytest.mark.skipif(not HAS_GIL, reason="nothing keeps other threads from running")
def test_another_thread_runs_meanwhile() -> None:
    """CPython alone would wait for ten minutes before it lets the other thread run."""
    ran = threading.Event()
    begin = threading.Event()

    def run() -> None:
        begin.wait()
        ran.set()

    other = threading.Thread(target=run)
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        begin.set()
        pacer = Pacer()
        until = time.monotonic() + 60
        while not ran.is_set() and time.monotonic() < until:
            pacer.step()
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()


@given(st.lists(st.integers()), st.booleans())
def test_in_order(items: list[int], backwards: bool) -> None:
    key = (lambda item: -item) if backwards else None
    for each in (items, items * 100):
        assert in_order(each, key) == sorted(each, key=key)


def test_equal_items_keep_their_order() -> None:
    items = [(number % 3, number) for number in range(2000)]
    assert in_order(items, lambda item: item[0]) == sorted(items, key=lambda item: item[0])


@pytest.mark.skipif(not HAS_GIL, reason="nothing keeps other threads from running")
def test_paced_items_are_all_there_and_pause() -> None:
    turns = 0

    def other() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.0001)

    done = threading.Event()
    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        thread.start()
        items = []
        for item in paced(range(30)):
            items.append((item, turns))
            until = time.monotonic() + 0.001
            while time.monotonic() < until:
                pass
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert [item for item, _ in items] == list(range(30))
    assert len({seen for _, seen in items}) > 10  # the other thread ran between most items


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_the_keys_of_a_dict(size: int) -> None:
    assert list(keys_in({str(number): number for number in range(size)})) == [
        str(number) for number in range(size)]


def test_the_keys_of_a_dict_that_changes() -> None:
    """Each key that stays is there once, as long as the dict does not grow."""
    items = dict.fromkeys(range(2000))
    seen = []
    for key in keys_in(items):
        seen.append(key)
        items.pop(key + 1000, None)
    assert seen[:1000] == list(range(1000))
    assert len(seen) == len(set(seen))
    items = dict.fromkeys(range(2000))
    for count, _ in enumerate(keys_in(items), 1):
        items[-count] = None  # it grows while it is read
    assert count == 2000
