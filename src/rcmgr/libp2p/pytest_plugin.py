"""pytest -p rcmgr.pytest_plugin: run a py-libp2p project's own tests with our resource manager.

The plugin installs ours before pytest collects the tests. With --rcmgr-harden, every host is also
hardened (see `rcmgr.libp2p.harden`). At the end it reports the number of managers that the tests
made, in all workers of pytest-xdist.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import pytest

from rcmgr.extras import require
from rcmgr.libp2p.hooks import Undo, hook_new, place_all
from rcmgr.libp2p.installation import install, uninstall

_OUTPUT = "rcmgr_managers_made"
_made: Counter[str] = Counter()


class _TestsOfOurName(MetaPathFinder):
    """Finds modules of a package of tests that is also called `rcmgr`.

    pytest imports the tests of `tests/rcmgr` as parts of `rcmgr`, which is this package. Python
    asks this finder for the parts that this package does not have.
    """

    def __init__(self) -> None:
        self.folders: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, *inner = fullname.split(".")
        if package != "rcmgr" or not inner:
            return None
        for entry in sys.path:
            folder = os.path.join(entry, package)
            spec = PathFinder.find_spec(fullname, [os.path.join(folder, *inner[:-1])], target)
            if spec is not None:
                self.folders.add(os.path.abspath(folder))
                return spec
        return None


_finder = _TestsOfOurName()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Place the finder: pytest calls this first, before it imports any conftest.py."""
    sys.meta_path.append(_finder)
    parser.addoption("--rcmgr-harden", action="store_true", help="harden every py-libp2p host")


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(partial(sys.meta_path.remove, _finder))
    try:
        require("libp2p", "rcmgr.pytest_plugin", "libp2p")
    except ImportError as error:
        raise pytest.UsageError(str(error)) from None
    config.add_cleanup(place_all(_placing(config.getoption("rcmgr_harden"))))


def _placing(harden: bool) -> Iterator[Undo]:
    from libp2p.rcmgr.manager import ResourceManager as theirs

    install(harden=harden)
    yield uninstall
    from rcmgr.libp2p.dropin.manager import ResourceManager as ours

    yield hook_new(ours, partial(_count, "ours")).undo
    yield hook_new(theirs, partial(_count, "libp2p's")).undo


def _count(whose: str, manager: Any) -> None:
    _made[whose] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist, send the counts to the process that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = (dict(_made), sorted(_finder.folders))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the counts of a worker."""
    made, folders = getattr(node, "workeroutput", {}).get(_OUTPUT, ({"lost": 1}, []))
    _made.update(made)
    _finder.folders.update(folders)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ours, theirs, lost = _made["ours"], _made["libp2p's"], _made["lost"]
    verdict = f"{ours} of them rcmgr's" if theirs else "all of them rcmgr's"
    line = f"rcmgr: {ours + theirs} resource managers were made, {verdict}"
    if lost:
        line += f"; {lost} workers crashed, and their managers are not counted"
    terminalreporter.write_line(line)
    for folder in sorted(_finder.folders):
        terminalreporter.write_line(
            f"rcmgr: {folder} has the name of this package. Its modules were imported as parts of "
            "rcmgr, and its __init__.py was not. Another name avoids this.")
