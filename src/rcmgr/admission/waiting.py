"""Wait for room for connections, in order of arrival, instead of being denied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from rcmgr.admission.manager_base import ConnectionScope, dialling
from rcmgr.counting.waiting import Turns
from rcmgr.errors import ConnectionLimitExceeded, ResourceLimitExceeded
from rcmgr.errors import ConnectionLimitKind as Kind
from rcmgr.limits.checks import check_number

__all__ = ["Waiting"]

_PAUSE_S: Final = 0.01
_MOST_SECONDS: Final = 1e9


class Waiting:
    """The tasks that wait for room in one node.

    The first in the queue looks for room every 10 ms. So a node without waiting tasks pays nothing.
    Tasks wait for limits on numbers of connections, by state and in the system and transient
    scopes. Other limits (bans, memory, networks) refuse at once. Thread safe.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._turns = {True: Turns(), False: Turns()}

    async def wait_for_room(
        self, inbound: bool, peer: Hashable | None, timeout: float | None
    ) -> None:
        """See `ResourceManager.wait_for_room`."""
        import anyio

        with anyio.move_on_after(_checked(timeout)):
            async with self._turns[inbound].turn():
                await self._room(inbound, peer)
                return
        full = self.full(inbound)
        if full is not None:
            raise full

    @asynccontextmanager
    async def dial_slot(self, peer: Hashable | None, timeout: float | None) -> AsyncIterator[None]:
        """See `ResourceManager.dial_slot`."""
        reserved = [await self._reserve(peer, timeout)]
        before = dialling.get()
        dialling.set(reserved)
        try:
            yield
        finally:
            dialling.set(before)
            for scope in reserved:  # no dial has taken it
                scope.close()

    async def _reserve(self, peer: Hashable | None, timeout: float | None) -> ConnectionScope:
        import anyio

        manager = self._manager
        with anyio.move_on_after(_checked(timeout)):
            async with self._turns[False].turn():
                while True:
                    await self._room(False, peer)
                    try:
                        return manager.reserve_dial(peer)  # type: ignore[no-any-return]
                    except ResourceLimitExceeded:
                        if self.full(False) is None:
                            raise  # another kind of limit refuses
        full = self.full(False)
        if full is not None:
            raise full
        return manager.reserve_dial(peer)  # type: ignore[no-any-return]

    async def _room(self, inbound: bool, peer: Hashable | None) -> None:
        import anyio

        if peer is not None and self._manager.is_exempt_peer(peer):
            return
        while self.full(inbound) is not None:  # noqa: ASYNC110 (a release tells no one)
            await anyio.sleep(_PAUSE_S)

    def full(self, inbound: bool) -> ResourceLimitExceeded | None:
        """The limit that a new connection would pass now; None: none. It counts no denial."""
        full = next(self._full_states(inbound), None)
        if full is not None:
            return full
        refusal = self._manager._admission.scope_refusing_handshake(inbound)
        return None if refusal is None else refusal.to_error()

    def _full_states(self, inbound: bool) -> Iterator[ResourceLimitExceeded]:
        manager = self._manager
        limits = manager._admission.enforced_limits
        now = manager.connection_tracker.snapshot()
        # handshakes that are under way will need a place when they are done
        by_direction = (
            (Kind.PENDING_INBOUND, limits.max_pending_inbound, now.pending_inbound),
            (Kind.ESTABLISHED_INBOUND, limits.max_established_inbound,
             now.established_inbound + now.pending_inbound),
        ) if inbound else (
            (Kind.PENDING_OUTBOUND, limits.max_pending_outbound, now.pending_outbound),
            (Kind.ESTABLISHED_OUTBOUND, limits.max_established_outbound,
             now.established_outbound + now.pending_outbound),
        )
        total = (now.pending_inbound + now.pending_outbound
                 + now.established_inbound + now.established_outbound)
        for kind, limit, current in (
            *by_direction, (Kind.ESTABLISHED_TOTAL, limits.max_established_total, total)
        ):
            if limit is not None and current - now.bypassed >= limit:
                yield ConnectionLimitExceeded(limit, current, kind)


def _checked(timeout: float | None) -> float | None:
    if timeout is not None:
        check_number("timeout", timeout, 0, _MOST_SECONDS)
    return timeout
