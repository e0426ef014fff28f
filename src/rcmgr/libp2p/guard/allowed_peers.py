"""Let peers on the allowlist past the limits of a swarm itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, Undo, place_all
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    import trio

__all__ = ["RESERVED_SLOTS", "admit_allowed_peers"]

RESERVED_SLOTS = 16
"""So many handshakes may begin in a full swarm while the allowlist has entries."""

Coroutine = Callable[..., Awaitable[Any]]


class _Slot(Enum):
    ORDINARY = "a token of the swarm's limiter"
    RESERVED = "a handshake whose peer may be on the allowlist"
    ALLOWED = "a connection of an allowed peer, which takes no token"


class _Limiter:
    """Stands in for the swarm's `_inbound_limiter`: a full one has some slots for handshakes.

    The task that handles an inbound connection takes a slot and gives it back. When its peer is
    known, an allowed peer needs no token, and a stranger needs one.
    """

    def __init__(
        self, swarm: Any, limiter: trio.CapacityLimiter, has_allowed: Callable[[], bool]
    ) -> None:
        from trio.lowlevel import current_task

        self._current_task = current_task
        self._swarm = swarm
        self._limiter = limiter
        self._has_allowed = has_allowed
        self._slots: dict[trio.lowlevel.Task, _Slot] = {}
        self._undone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)

    @property
    def total_tokens(self) -> float:
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, total: float) -> None:
        self._limiter.total_tokens = total

    @property
    def available_tokens(self) -> float:
        return max(self._limiter.available_tokens, self._reserved_slots())

    def _reserved_slots(self) -> int:
        # a swarm without any slot is closed, not full
        if self._undone or self._limiter.total_tokens == 0 or not self._has_allowed():
            return 0
        return RESERVED_SLOTS - list(self._slots.values()).count(_Slot.RESERVED)

    def acquire_nowait(self) -> None:
        from trio import WouldBlock

        try:
            self._limiter.acquire_nowait()
        except WouldBlock:
            if self._reserved_slots() <= 0:
                raise
            self._slots[self._current_task()] = _Slot.RESERVED
        else:
            self._slots[self._current_task()] = _Slot.ORDINARY

    def release(self) -> None:
        # a task from before this limiter has a token
        if self._slots.pop(self._current_task(), _Slot.ORDINARY) is _Slot.ORDINARY:
            self._limiter.release()
        self._restore_if_unused()

    def identify(self, is_allowed: bool) -> bool:
        """The peer of this task's connection is known now: whether the connection may stay."""
        from trio import WouldBlock

        task = self._current_task()
        slot = self._slots.get(task)
        if slot is None:  # a dial
            return True
        if is_allowed:
            self._slots[task] = _Slot.ALLOWED
            if slot is _Slot.ORDINARY:
                self._limiter.release()
        elif slot is _Slot.RESERVED:
            try:
                self._limiter.acquire_nowait()
            except WouldBlock:
                return False
            self._slots[task] = _Slot.ORDINARY
        return True

    def undo(self) -> None:
        self._undone = True
        self._restore_if_unused()

    def _restore_if_unused(self) -> None:
        """The swarm's limiter knows no task that has no token."""
        in_use = any(slot is not _Slot.ORDINARY for slot in self._slots.values())
        if self._undone and not in_use and self._swarm._inbound_limiter is self:
            self._swarm._inbound_limiter = self._limiter


class _AllowedPeers:
    """The hooks of `admit_allowed_peers` on one swarm."""

    def __init__(self, swarm: Any) -> None:
        from trio import lowlevel

        self._lowlevel: Any = lowlevel
        self._swarm = swarm
        self._limiter = _Limiter(swarm, swarm._inbound_limiter, self._has_allowed)
        self._allowed: set[Any] = set()  # muxed connections of allowed peers
        self._adding: set[trio.lowlevel.Task] = set()  # tasks that know their peer

    def placing(self) -> Iterator[Undo]:
        self._swarm._inbound_limiter = self._limiter
        yield self._limiter.undo
        yield self._raise_total()
        yield Hook(self._swarm, "add_conn", self._add).undo
        yield Hook(self._swarm, "remove_conn", self._remove).undo
        yield Hook(self._swarm.tag_store, "is_protected", self._is_protected).undo

    def _has_allowed(self) -> bool:
        manager = manager_of(self._swarm)
        return isinstance(manager, ResourceManager) and bool(manager.allowlist)

    def _is_allowed(self, muxed_conn: Any) -> bool:
        manager = manager_of(self._swarm)
        if not isinstance(manager, ResourceManager):
            return False
        remote = muxed_conn.get_remote_address()
        address = None if remote is None else remote[0]
        return manager.allowlist.allows_at(muxed_conn.peer_id, address)

    async def _add(
        self, original: Coroutine, muxed_conn: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """libp2p 0.8.1: network/swarm.py line 2376. The peer is known here, on every transport."""
        from libp2p.network.exceptions import SwarmException

        is_allowed = self._is_allowed(muxed_conn)
        if not self._limiter.identify(is_allowed):
            await muxed_conn.close()
            raise SwarmException("Maximum inbound connections limit reached")
        task = self._lowlevel.current_task()
        self._adding.add(task)
        if is_allowed:
            self._allowed.add(muxed_conn)
        try:
            return await original(muxed_conn, *args, **kwargs)
        except BaseException:
            self._allowed.discard(muxed_conn)
            raise
        finally:
            self._adding.discard(task)

    def _remove(self, original: Callable[[Any], None], connection: Any) -> None:
        original(connection)
        self._allowed.discard(connection.muxed_conn)

    def _is_protected(
        self, original: Callable[..., bool], peer_id: Any, *args: Any, **kwargs: Any
    ) -> bool:
        """libp2p 0.8.1: network/connection_pruner.py ends connections above a watermark."""
        manager = manager_of(self._swarm)
        allowed = isinstance(manager, ResourceManager) and manager.is_exempt_peer(peer_id)
        return allowed or original(peer_id, *args, **kwargs)

    def _raise_total(self) -> Undo:
        """libp2p 0.8.1: network/swarm.py lines 1089, 2090 and 2678 compare with max_connections."""
        swarm, config, extra = self._swarm, self._swarm.connection_config, self._extra

        def most(stand_in: Any) -> int:
            return int(stand_in.__dict__["max_connections"]) + extra()

        def set_most(stand_in: Any, number: int) -> None:
            stand_in.__dict__["max_connections"] = number

        kind = type(config)
        roomy = type(kind.__name__, (kind,), {"max_connections": property(most, set_most)})
        stand_in: Any = object.__new__(roomy)
        stand_in.__dict__ = vars(config)
        swarm.connection_config = stand_in

        def restore() -> None:
            if swarm.connection_config is stand_in:
                swarm.connection_config = config

        return restore

    def _extra(self) -> int:
        """How many connections above the limit the current task may see."""
        if not self._has_allowed():
            return 0
        connections = self._swarm.get_connections()
        extra = sum(each.muxed_conn in self._allowed for each in connections)
        try:
            task = self._lowlevel.current_task()
        except RuntimeError:  # outside of trio
            return extra
        return extra if task in self._adding else extra + RESERVED_SLOTS  # before the handshake


def admit_allowed_peers(swarm: Any) -> Undo:
    """Let no limit of the swarm itself refuse or end a connection of an allowed peer.

    These are the inbound slots (250), the connections in total (300), and the pruner. Connections
    of allowed peers do not count there. While the allowlist has entries, 16 handshakes may begin in
    a full swarm. If the peer is not on the list then, the connection ends.
    """
    return place_all(_AllowedPeers(swarm).placing())
