"""The same steps on libp2p 0.8.1's resource manager and on ours, as `rcmgr.install()` has it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from libp2p.abc import IHost
from libp2p.rcmgr.manager import ResourceManager as StockManager

from rcmgr.libp2p import harden
from rcmgr.libp2p.dropin.manager import ResourceManager


class Side:
    """Makes the managers of a test; "hardened" hosts are hardened, too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stock = name == "stock"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (StockManager if self.is_stock else ResourceManager)(*args, **kwargs)

    @contextmanager
    def hardening(self, host: IHost) -> Iterator[None]:
        """The host is hardened meanwhile, on that side."""
        hardening = harden(host) if self.name == "hardened" else None
        yield
        if hardening is not None:
            hardening.undo()


def finding(**outcomes: Any) -> Callable[[Callable[[Side], Any]], Any]:
    """One test for each side that is named ("stock", "ours", "hardened"): that the steps return
    there what is said here. So we hear of it when libp2p changes, too.
    """
    sides = pytest.mark.parametrize(
        ("side", "outcome"),
        [pytest.param(Side(name), outcome, id=name) for name, outcome in outcomes.items()])

    def decorate(steps: Callable[[Side], Any]) -> Any:
        async def test_hosts(side: Side, outcome: Any) -> None:
            found = await steps(side)
            assert found == outcome, f"{found!r}, not {outcome!r}"

        def test(side: Side, outcome: Any) -> None:
            found = steps(side)
            assert found == outcome, f"{found!r}, not {outcome!r}"

        chosen: Any = test_hosts if inspect.iscoroutinefunction(steps) else test
        signature = inspect.signature(chosen)
        chosen = sides(functools.wraps(steps)(chosen))
        chosen.__signature__ = signature
        return chosen

    return decorate
