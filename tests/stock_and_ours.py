"""The same steps on libp2p 0.8.1's classes and on those of `rcmgr.libp2p.dropin`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from libp2p.abc import IHost
from libp2p.peer.id import ID
from libp2p.rcmgr.connection_lifecycle import ConnectionLifecycleManager as StockLifecycle
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.connection_tracker import ConnectionTracker as StockTracker
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from libp2p.rcmgr.manager import ResourceManager as StockManager
from swarm import finish

from rcmgr.libp2p import harden
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ResourceManager

FRIEND = ID(b"\x12\x20" + b"f" * 32)
PEER = ID(b"\x12\x20" + b"p" * 32)
OTHER = ID(b"\x12\x20" + b"o" * 32)
PEERS = [PEER, OTHER, ID(b"\x12\x20" + b"q" * 32)]


def managers(**arguments: Any) -> tuple[Any, Any]:
    """py-libp2p's manager and ours."""
    return StockManager(**arguments), ResourceManager(**arguments)


def trackers() -> tuple[Any, Any]:
    return StockTracker(), ConnectionTracker()


def lifecycles(**limits: int) -> tuple[Any, Any]:
    stock, ours = StockLimits(**limits), ConnectionLimits(**limits)
    return (
        StockLifecycle(StockTracker(stock), stock),
        ConnectionLifecycleManager(ConnectionTracker(ours), ours),
    )


def established(lifecycle: Any, connection_id: str, peer: ID, address: Any = None) -> bool:
    """Report an inbound connection as established; False: denied."""
    try:
        finish(lifecycle.handle_established_inbound_connection(
            connection_id, peer, address, address))
    except ResourceLimitExceeded:
        return False
    return True


class Side:
    """Makes the managers of a test on one side. On the side "hardened" it also hardens hosts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stock = name == "stock"
        self.patience = 1.0 if self.is_stock else 45.0
        """Seconds to wait for an effect that only our side has."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (StockManager if self.is_stock else ResourceManager)(*args, **kwargs)

    @contextmanager
    def hardening(self, host: IHost) -> Iterator[None]:
        """On the side "hardened", harden the host for the duration of a block."""
        hardening = harden(host) if self.name == "hardened" else None
        yield
        if hardening is not None:
            hardening.undo()


def outcomes(**expected: Any) -> Callable[[Callable[[Side], Any]], Any]:
    """Make one test for each side ("stock", "ours", "hardened") from steps and what they return.

    So a change of py-libp2p fails a test too.
    """
    sides = pytest.mark.parametrize(
        ("side", "outcome"),
        [pytest.param(Side(name), outcome, id=name) for name, outcome in expected.items()])

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
