"""Refuse streams above the limit, and keep a share of the streams for the host and each peer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.guard.stream_scopes import has_scope, scope_streams
from rcmgr.libp2p.hooks import Undo, place_all
from rcmgr.limits.scopes import ConcreteLimits
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["limit_streams"]

_HOST_SHARE = 8
"""One stream in eight is kept for those that the host opens."""
_PEER_SHARE = 2
"""One peer has at most half of the inbound streams."""


def limit_streams(host: IHost, manager: ResourceManager) -> Undo:
    """Give the host's streams scopes and shares, and refuse those above the limit.

    Libp2pMismatch: see `scope_streams`; then nothing has changed.
    """

    def placing() -> Iterator[Undo]:
        yield scope_streams(host, manager).undo
        yield manager._adjust_limits(_with_shares)
        yield _refuse_instead_of_waiting(host.get_network(), manager)

    return place_all(placing())


def _with_shares(limits: ConcreteLimits) -> ConcreteLimits:
    """Reserve streams where the limits do not say how many others, or one peer, may have.

    A limit says nothing if the system's own is lower, and so is always reached first.
    """
    system, peer = limits.system, limits.peer_default
    most = system.streams
    highest = min((each for each in (most, system.streams_inbound) if each is not None), default=0)
    if most is not None and _is_above(system.streams_inbound, most):
        system = replace(system, streams_inbound=most - max(most > 1, most // _HOST_SHARE))
    inbound = system.streams_inbound
    if inbound is not None and all(
        _is_above(limit, highest) for limit in (peer.streams, peer.streams_inbound)
    ):
        peer = replace(peer, streams_inbound=inbound - inbound // _PEER_SHARE)
    return replace(limits, system=system, peer_default=peer)


def _is_above(limit: int | None, other: int) -> bool:
    return limit is None or limit > other


def _refuse_instead_of_waiting(swarm: Any, manager: ResourceManager) -> Undo:
    """libp2p 0.8.1: network/swarm.py line 369 lets streams above the limit wait without bound.

    Without that semaphore, the swarm asks the manager, which refuses them.
    """
    import trio

    before: trio.Semaphore | None = swarm._stream_semaphore
    swarm._stream_semaphore = None
    if before is not None:
        for _ in range(before.statistics().tasks_waiting):
            before.release()  # the swarm asks the manager about each waiting stream now

    def wait_again() -> None:
        if before is None or swarm._stream_semaphore is not None:
            return
        # streams without a scope give a permit back to the semaphore of that time
        taken = sum(
            not has_scope(stream)
            for connection in swarm.get_connections()
            for stream in connection.get_streams()
        )
        swarm._stream_semaphore = trio.Semaphore(max(0, manager.limits.max_streams - taken))

    return wait_again
