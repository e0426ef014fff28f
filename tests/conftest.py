"""Mark the tests that need libp2p, and skip those that need what this machine lacks.

A test that calls `in_threads` gets the marker `threads`.

A test without libp2p fails if it leaves a socket open. Py-libp2p leaves sockets open when a host
stops, as those of its QUIC listeners. They are closed after each test with hosts, so that the
garbage collector does not find them in another test.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import hypothesis
import pytest
from pytest_timeout import is_debugging
from stacks import stacks

from rcmgr import TokenBucket
from rcmgr.extras import require

TESTS = Path(__file__).parent
NEED_LIBP2P = ("cli/demo", "e2e", "libp2p")
"""Folders. A test elsewhere carries the marker `libp2p` itself."""
try:
    require("libp2p", "a test", "libp2p")
    MISSING = ""
except ImportError as error:
    MISSING = str(error)
OTHER_LOOPBACK = "127.77.0.1"
"""Linux and Windows have all of 127.0.0.0/8. macOS has 127.0.0.1 alone."""

# A test that needs another terminal says so. COLUMNS counts before the size of a real terminal.
for _name in ("LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)
os.environ.update(COLUMNS="80", TERM="xterm-256color")

# A busy machine would fail tests that limit the time of an example, or of making examples. Each run
# has the same examples. Nightly runs try others, with --hypothesis-profile=random.
_profile = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None)
hypothesis.settings.register_profile("rcmgr", _profile, derandomize=True)
hypothesis.settings.register_profile("random", _profile, derandomize=False)
hypothesis.settings.load_profile("rcmgr")

collect_ignore = list(NEED_LIBP2P) if MISSING else []


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if any(item.path.is_relative_to(TESTS / folder) for folder in NEED_LIBP2P):
            item.add_marker("libp2p")
        if "in_threads" in item.function.__code__.co_names:
            item.add_marker("threads")
        if item.get_closest_marker("libp2p") is None:
            for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"error::{kind}"))


def pytest_collection_finish() -> None:
    """Keep what the imports made out of each later collection, which takes 0.2 s with libp2p."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_socket_of_a_host_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("libp2p") is None:
        yield
        return
    # as an argument it would keep pytest-run-parallel from running the tests without hosts
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    opened: WeakSet[socket.socket] = WeakSet()
    init = socket.socket.__init__

    def opening(self: socket.socket, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        opened.add(self)

    monkeypatch.setattr(socket.socket, "__init__", opening)
    yield
    for each in list(opened):
        each.close()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Iterator[None]:
    """Let a test that exceeds its time limit fail with the stacks of all threads and tasks.

    pytest-timeout itself shows other threads alone, and nothing at all in a process of xdist.
    Windows has no such signal. There pytest-timeout shows the threads, and ends the process.
    """
    is_set = yield
    if settings.method == "signal" and threading.current_thread() is threading.main_thread():

        def end(*_: Any) -> None:
            if not is_debugging():
                pytest.fail(f"Exceeded {settings.timeout:g} seconds.\n{stacks()}")

        signal.signal(signal.SIGALRM, end)
    return is_set


@pytest.fixture(autouse=True)
def _refusals_of_other_tests_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accept gate ends the first refusals of a process as usual, and resets later ones."""
    gate = sys.modules.get("rcmgr.libp2p.guard.accept_gate")
    if gate is not None:
        monkeypatch.setattr(gate, "_GOODBYES", TokenBucket(64, 16.0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if MISSING and item.get_closest_marker("libp2p"):
        pytest.skip(MISSING)
    if item.get_closest_marker("loopback"):
        with socket.socket() as trial:
            try:
                trial.bind((OTHER_LOOPBACK, 0))
            except OSError as error:
                pytest.skip(f"this machine lacks the loopback address {OTHER_LOOPBACK}: {error}")
