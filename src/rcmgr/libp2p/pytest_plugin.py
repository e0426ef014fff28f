"""pytest -p rcmgr.libp2p.pytest_plugin: a py-libp2p project's own tests, with our resource manager.

Installs before the tests are collected, and says at the end how many managers were made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.hooks import Hook
from rcmgr.libp2p.installation import install, uninstall

if TYPE_CHECKING:
    import pytest

_made = {"ours": 0, "libp2p's": 0}
_counting: list[Hook] = []


def pytest_configure(config: pytest.Config) -> None:
    from libp2p.rcmgr.manager import ResourceManager as theirs

    install()
    from rcmgr.libp2p.dropin.manager import ResourceManager as ours

    for whose, kind in (("ours", ours), ("libp2p's", theirs)):
        _counting.append(Hook(kind, "__init__", _counter(whose)))


def _counter(whose: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            _made[whose] += 1
            original(self, *args, **kwargs)

        return init

    return make


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = sum(_made.values())
    verdict = "all of them rcmgr's" if not _made["libp2p's"] else f"{_made['ours']} of them rcmgr's"
    terminalreporter.write_line(f"rcmgr: {total} resource managers were made, {verdict}")


def pytest_unconfigure(config: pytest.Config) -> None:
    for hook in _counting:
        hook.undo()
    _counting.clear()
    uninstall()
