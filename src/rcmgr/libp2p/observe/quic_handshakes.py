"""Report inbound QUIC connections during their handshakes: the swarm sees them only after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

from rcmgr.events.kinds import Endpoint
from rcmgr.libp2p.hooks import Hook, Undo, place_all
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter
from rcmgr.libp2p.observe.socket_addresses import addresses_of_udp

__all__ = ["QuicHandshakes"]

Work = Callable[..., Awaitable[Any]]


class _Handshake(NamedTuple):
    registry: Any
    quic: Any
    report: ConnectionReport

    def goes_on(self, cid: bytes) -> bool:
        if cid in self.registry._pending:
            return self.quic._close_event is None
        return cid in self.registry._connections  # the swarm will get it


class QuicHandshakes:
    """Reports the handshakes of a swarm's QUIC listeners as pending or failed, until `undo`.

    Stock py-libp2p bounds their number (256) and their time (15 s, checked every 10 s).
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._current: dict[bytes, _Handshake] = {}
        self._taken: WeakSet[Any] = WeakSet()
        self.undo = place_all(self._placing())

    def _placing(self) -> Iterator[Undo]:
        from libp2p.transport.quic.connection_id_registry import ConnectionIDRegistry
        from libp2p.transport.quic.listener import QUICListener

        yield self._current.clear
        yield Hook(QUICListener, "_handle_new_connection", self._begin).undo
        for owner, attribute, reason in (
            (QUICListener, "_handle_pending_connection_packet", "handshake failed"),
            (QUICListener, "_remove_connection", "handshake failed"),
            (QUICListener, "_remove_connection_by_object", "handshake failed"),
            (QUICListener, "_remove_pending_connection", "host shutdown"),
            (ConnectionIDRegistry, "cleanup_stale_pending", "timed out"),
            (ConnectionIDRegistry, "register_pending", "refused by the swarm"),
        ):
            yield Hook(owner, attribute, partial(self._may_end, reason)).undo

    def take(self, connection: Any) -> ConnectionReport | None:
        """The report of this QUICConnection, the first time; None: it is no followed handshake."""
        cid = getattr(connection, "_listener_connection_id", None)
        if cid is None:
            return None
        self._taken.add(connection._quic)
        found = self._current.pop(cid, None)
        return None if found is None else found.report

    def is_taken(self, connection: Any) -> bool:
        """Whether `take` got it. When the swarm refuses a connection, stock py-libp2p offers it
        again at the next packet, in another QUICConnection.
        """
        return getattr(connection, "_quic", None) in self._taken

    async def _begin(
        self, original: Work, listener: Any, data: bytes, addr: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """libp2p 0.8.1: transport/quic/listener.py line 550, `_handle_new_connection`."""
        quic = await original(listener, data, addr, *args, **kwargs)
        if quic is None or listener._transport._swarm is not self._reporter.swarm:
            return quic
        cid = listener._pending_cid_by_quic_id.get(id(quic))
        if cid is not None:
            sockets = addresses_of_udp(listener._socket, addr[:2])
            report = ConnectionReport(self._reporter, Endpoint.LISTENER, sockets=sockets)
            report.pending()
            self._current[cid] = _Handshake(listener._registry, quic, report)
        return quic

    async def _may_end(self, reason: str, original: Work, *args: Any, **kwargs: Any) -> Any:
        """Each of these functions may end handshakes, for its reason.

        libp2p 0.8.1: transport/quic/listener.py line 426, `_handle_pending_connection_packet`,
        line 1153, `_remove_connection`, line 1181, `_remove_pending_connection`, and line 1459,
        `_remove_connection_by_object`. Also transport/quic/connection_id_registry.py line 457,
        `register_pending`, and line 1047, `cleanup_stale_pending`.
        """
        try:
            return await original(*args, **kwargs)
        finally:
            self._report_ended(reason)

    def _report_ended(self, reason: str) -> None:
        ended = [each for each in self._current.items() if not each[1].goes_on(each[0])]
        for cid, handshake in ended:
            del self._current[cid]
            closing = handshake.quic._close_event
            if closing is None:
                handshake.report.failed(reason)
            else:
                handshake.report.failed("handshake failed", closing.reason_phrase)
