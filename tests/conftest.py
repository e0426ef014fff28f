"""Mark the tests that need libp2p, and skip them where it is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rcmgr.extras import require

TESTS = Path(__file__).parent
NEED_LIBP2P = ("cli/demo", "e2e", "libp2p")
"""Folders. A test elsewhere carries the marker `libp2p` itself."""
try:
    require("libp2p", "a test", "libp2p")
    MISSING = ""
except ImportError as error:
    MISSING = str(error)

# A test that needs another terminal says so. COLUMNS counts before the size of a real terminal.
for _name in ("LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)
os.environ.update(COLUMNS="80", TERM="xterm-256color")

collect_ignore = list(NEED_LIBP2P) if MISSING else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(TESTS / folder) for folder in NEED_LIBP2P):
            item.add_marker("libp2p")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if MISSING and item.get_closest_marker("libp2p"):
        pytest.skip(MISSING)
