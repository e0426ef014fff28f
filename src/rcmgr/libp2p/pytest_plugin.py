"""pytest -p rcmgr.pytest_plugin: run a py-libp2p project's own tests with our resource manager.

The plugin installs ours before pytest collects the tests. At the end it reports the number of
managers that the tests made.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from rcmgr.extras import require
from rcmgr.libp2p.hooks import Undo, hook_new, place_all
from rcmgr.libp2p.installation import install, uninstall

_made = {"ours": 0, "libp2p's": 0}


def pytest_configure(config: pytest.Config) -> None:
    try:
        require("libp2p", "rcmgr.pytest_plugin", "libp2p")
    except ImportError as error:
        raise pytest.UsageError(str(error)) from None
    config.add_cleanup(place_all(_placing()))


def _placing() -> Iterator[Undo]:
    from libp2p.rcmgr.manager import ResourceManager as theirs

    install()
    yield uninstall
    from rcmgr.libp2p.dropin.manager import ResourceManager as ours

    yield hook_new(ours, partial(_count, "ours")).undo
    yield hook_new(theirs, partial(_count, "libp2p's")).undo


def _count(whose: str, manager: Any) -> None:
    _made[whose] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = sum(_made.values())
    verdict = "all of them rcmgr's" if not _made["libp2p's"] else f"{_made['ours']} of them rcmgr's"
    terminalreporter.write_line(f"rcmgr: {total} resource managers were made, {verdict}")
