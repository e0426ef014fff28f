"""QUIC connections from outside whose handshake is under way: the swarm hears of them after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from rcmgr.libp2p.hooks import Hook

__all__ = ["QuicHandshakes"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)  # 3.10 has no generic NamedTuple
class _Handshake(Generic[T]):
    registry: Any
    quic: Any
    attempt: T

    def is_under_way(self, cid: bytes) -> bool:
        if cid in self.registry._pending:
            return self.quic._close_event is None
        return cid in self.registry._connections  # it will be given to the swarm


class QuicHandshakes(Generic[T]):
    """Follows the handshakes of one swarm's QUIC listeners, until `undo`.

    begin(listener, address): called when one begins; what it returns is handed to `fail(attempt,
    reason, text)` if nothing comes of it, and else to whoever takes the connection.

    Stock bounds their number (256) and their time (15 s, looked at every 10 s).
    """

    def __init__(
        self,
        swarm: Any,
        begin: Callable[[Any, tuple[str, int]], T],
        fail: Callable[[T, str, str], None],
    ) -> None:
        from libp2p.transport.quic.connection_id_registry import ConnectionIDRegistry
        from libp2p.transport.quic.listener import QUICListener

        self._swarm = swarm
        self._begin = begin
        self._fail = fail
        self._under_way: dict[bytes, _Handshake[T]] = {}
        self._taken: WeakSet[Any] = WeakSet()
        self._hooks: list[Hook] = []
        ends = [
            (QUICListener, "_handle_pending_connection_packet", "handshake failed"),
            (QUICListener, "_remove_connection", "handshake failed"),
            (QUICListener, "_remove_connection_by_object", "handshake failed"),
            (QUICListener, "_remove_pending_connection", "host shutdown"),
            (ConnectionIDRegistry, "cleanup_stale_pending", "timed out"),
            (ConnectionIDRegistry, "register_pending", "refused by the swarm"),
        ]
        try:
            self._hooks.append(Hook(QUICListener, "_handle_new_connection", self._beginning))
            for owner, attribute, reason in ends:
                self._hooks.append(Hook(owner, attribute, self._looking_after(reason)))
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Follow none any more."""
        for hook in self._hooks:
            hook.undo()
        self._under_way.clear()

    def take(self, connection: Any) -> T | None:
        """What `begin` returned for this QUICConnection, once; None: it is not one of these."""
        cid = getattr(connection, "_listener_connection_id", None)
        if cid is None:
            return None
        self._taken.add(connection._quic)
        found = self._under_way.pop(cid, None)
        return None if found is None else found.attempt

    def is_taken(self, connection: Any) -> bool:
        """Whether it was: stock gives the swarm a connection that it did not want once more, in
        another QUICConnection, when the next packet comes.
        """
        return getattr(connection, "_quic", None) in self._taken

    def _beginning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """libp2p 0.8.1: transport/quic/listener.py line 550, `_handle_new_connection`."""

        async def handle(listener: Any, data: bytes, addr: Any, *args: Any, **kwargs: Any) -> Any:
            quic = await original(listener, data, addr, *args, **kwargs)
            if quic is None or listener._transport._swarm is not self._swarm:
                return quic
            cid = listener._pending_cid_by_quic_id.get(id(quic))
            if cid is not None:
                self._under_way[cid] = _Handshake(
                    listener._registry, quic, self._begin(listener, addr[:2]))
            return quic

        return handle

    def _looking_after(self, reason: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """libp2p 0.8.1: transport/quic/listener.py line 426, `_handle_pending_connection_packet`,
        line 1153, `_remove_connection`, line 1181, `_remove_pending_connection`, line 1459,
        `_remove_connection_by_object`; transport/quic/connection_id_registry.py line 457,
        `register_pending`, line 1047, `cleanup_stale_pending`: all that may end a handshake.
        """

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            async def and_look(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await original(*args, **kwargs)
                finally:
                    self._end_those_gone(reason)

            return and_look

        return make

    def _end_those_gone(self, reason: str) -> None:
        gone = [
            (cid, handshake) for cid, handshake in self._under_way.items()
            if not handshake.is_under_way(cid)
        ]
        for cid, handshake in gone:
            del self._under_way[cid]
            closing = handshake.quic._close_event
            if closing is None:
                self._fail(handshake.attempt, reason, "")
            else:
                self._fail(handshake.attempt, "handshake failed", closing.reason_phrase)
