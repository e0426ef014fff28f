"""Observe the connections of a host: follow each of them through the swarm and report it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from rcmgr.admission.host_closer import was_evicted
from rcmgr.events.handler import ConnectionLifecycleHandler
from rcmgr.events.kinds import ConnectionClosedEvent, Endpoint
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, Undo, place_all
from rcmgr.libp2p.observe.close_reasons import note_resets, note_terminations, why_closed
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter
from rcmgr.libp2p.observe.denials import Denials
from rcmgr.libp2p.observe.quic_handshakes import QuicHandshakes
from rcmgr.libp2p.observe.socket_addresses import addresses_of

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetworkService

__all__ = ["HostObserver", "observe"]

Work = Callable[..., Awaitable[Any]]


class HostObserver:
    """Reports a host's connections to the observers of `handler`, until `undo`.

    `observe` makes it. It decides nothing and counts nothing: the host's resource manager does.
    """

    def __init__(self, swarm: Any, handler: ConnectionLifecycleHandler) -> None:
        self.handler = handler
        self._swarm = swarm
        self._reporter = Reporter(swarm, handler)
        self._established: dict[Any, ConnectionReport] = {}
        self._remove_hooks = place_all(self._placing())
        service = getattr(swarm, "_manager", None)
        if service is not None:  # the swarm runs already, so that the hook on `run` came too late
            from trio import sleep_forever

            service.run_task(self._run, sleep_forever)

    def _placing(self) -> Iterator[Undo]:
        self._handshakes = QuicHandshakes(self._reporter)
        yield self._handshakes.undo
        for attribute, call in (
            ("_dial_addr_single_attempt", self._dial),
            ("upgrade_outbound_raw_conn", self._upgrade_outbound),
            ("_handle_inbound_connection", self._handle_inbound),
            ("upgrade_inbound_raw_conn", self._upgrade_inbound),
            ("add_conn", self._add),
            ("notify_connected", self._notify_connected),
            ("run", self._run),
        ):
            yield Hook(self._swarm, attribute, call).undo
        self._denials = Denials(self._reporter)
        yield self._denials.undo

    def undo(self) -> None:
        """Report nothing any more."""
        self._reporter.active = False
        self._remove_hooks()
        for report in self._established.values():
            report.hooks.close()
        self._established.clear()

    # -- from the first sign to the handshake ----------------------------------------------------

    def _dial(
        self, original: Work, addr: Any, peer_id: Any, *args: Any, **kwargs: Any
    ) -> Awaitable[Any]:
        """libp2p 0.8.1: network/swarm.py line 1064, `_dial_addr_single_attempt`."""
        report = ConnectionReport(self._reporter, Endpoint.DIALER, peer_id, dialled=addr)
        return self._follow(report, original, addr, peer_id, *args, **kwargs)

    def _upgrade_outbound(
        self, original: Work, raw_conn: Any, *args: Any, **kwargs: Any
    ) -> Awaitable[Any]:
        """A dial over TCP or WebSocket has its socket here.

        libp2p 0.8.1: network/swarm.py line 1240, `upgrade_outbound_raw_conn`.
        """
        report = self._reporter.current
        if report is not None:
            report.sockets = addresses_of(raw_conn, report.dialled)
            self._note_resets(report, raw_conn)
        return original(raw_conn, *args, **kwargs)

    async def _handle_inbound(
        self, original: Work, connection: Any, maddr: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The swarm may close an inbound connection here for its own reasons.

        libp2p 0.8.1: network/swarm.py line 1947, `_handle_inbound_connection`.
        """
        if self._handshakes.is_taken(connection):
            return await original(connection, maddr, *args, **kwargs)
        report = self._handshakes.take(connection) or ConnectionReport(
            self._reporter, Endpoint.LISTENER, sockets=addresses_of(connection, maddr))
        report.connection = connection
        try:
            with self._reporter.working_on(report):
                return await original(connection, maddr, *args, **kwargs)
        finally:
            report.failed("refused by the swarm")

    def _upgrade_inbound(
        self, original: Work, raw_conn: Any, maddr: Any, *args: Any, **kwargs: Any
    ) -> Awaitable[Any]:
        """TCP and WebSocket. For a dial as the responder, this is the first sign.

        libp2p 0.8.1: network/swarm.py line 2075, `upgrade_inbound_raw_conn`.
        """
        report = self._reporter.current or ConnectionReport(
            self._reporter, Endpoint.LISTENER, sockets=addresses_of(raw_conn, maddr))
        self._note_resets(report, raw_conn)
        return self._follow(report, original, raw_conn, maddr, *args, **kwargs)

    def _note_resets(self, report: ConnectionReport, raw_conn: Any) -> None:
        if self._reporter.wants(ConnectionClosedEvent):  # the hooks cost time at each transfer
            report.hooks.callback(place_all(note_resets(raw_conn, report.note_close_reason)))

    def _add(
        self, original: Work, muxed_conn: Any, direction: str = "unknown"
    ) -> Awaitable[Any]:
        """The swarm gets the connection. If the transport does the handshake, this may be the first
        sign.

        libp2p 0.8.1: network/swarm.py line 2375, `add_conn`.
        """
        report = self._reporter.current
        if report is None:
            if self._has(muxed_conn) or self._handshakes.is_taken(muxed_conn):
                return original(muxed_conn, direction)
            report = self._handshakes.take(muxed_conn) or ConnectionReport(
                self._reporter, Endpoint.LISTENER if direction == "inbound" else Endpoint.DIALER,
                getattr(muxed_conn, "peer_id", None), addresses_of(muxed_conn, None))
        elif report.sockets is None:
            report.sockets = addresses_of(muxed_conn, report.dialled)
        report.pending()
        if report.is_followed:
            return original(muxed_conn, direction)
        return self._follow(report, original, muxed_conn, direction)

    def _has(self, muxed_conn: Any) -> bool:
        connections = self._swarm.connections.get(muxed_conn.peer_id, ())
        return any(each.muxed_conn is muxed_conn for each in connections)

    async def _follow(self, report: ConnectionReport, work: Work, *args: Any, **kwargs: Any) -> Any:
        """Let the swarm work on the connection, and report if that does not establish it."""
        report.is_followed = True
        with self._reporter.working_on(report):
            if not self._denials.has_manager:
                report.pending()
            try:
                done = await work(*args, **kwargs)
            except BaseException as error:
                self._denials.report_failure(report, error)
                raise
        report.failed("duplicate")  # if still in progress: the swarm had the connection already
        return done

    # -- from the handshake to the end -----------------------------------------------------------

    def _notify_connected(self, original: Work, connection: Any) -> Awaitable[None]:
        """`add_conn` notifies others here, and they may close the connection at once.

        libp2p 0.8.1: network/swarm.py line 3198, `notify_connected`.
        """
        report = self._reporter.current
        if report is not None:
            self._established[connection] = report
            report.hooks.callback(place_all(self._placing_on(connection, report)))
            report.established(connection.muxed_conn.peer_id)
            if connection.is_closed:
                self._note_close(connection)
                self._closed(connection)
        return original(connection)

    def _placing_on(self, connection: Any, report: ConnectionReport) -> Iterator[Undo]:
        """Every way to the end, and the muxer's close for callers that use it directly.

        libp2p 0.8.1: network/connection/swarm_connection.py line 145, `close`.
        """

        async def close(original: Work, *args: Any, **kwargs: Any) -> None:
            is_first = not connection.is_closed
            self._note_close(connection)
            try:
                await original(*args, **kwargs)
            finally:
                if is_first:
                    self._closed(connection)

        async def close_muxer(original: Work, *args: Any, **kwargs: Any) -> None:
            self._note_close(connection)
            await original(*args, **kwargs)

        yield Hook(connection, "close", close).undo
        yield Hook(connection.muxed_conn, "close", close_muxer).undo
        yield from note_terminations(connection.muxed_conn, report.note_close_reason)

    def _note_close(self, connection: Any) -> None:
        report = self._established.get(connection)
        if report is not None:
            report.note_close_reason(
                "host shutdown" if self._reporter.host_is_stopping
                else "evicted" if was_evicted(connection)
                else why_closed(connection.muxed_conn))

    def _closed(self, connection: Any) -> None:
        report = self._established.pop(connection, None)
        if report is not None:
            report.closed()

    async def _run(self, original: Work, *args: Any, **kwargs: Any) -> Any:
        """When the swarm ends, all connections are gone, closed or not.

        libp2p 0.8.1: network/swarm.py line 373, `run`.
        """
        try:
            return await original(*args, **kwargs)
        finally:
            for connection in list(self._established):
                self._closed(connection)


def observe(
    host: IHost | INetworkService, handler: ConnectionLifecycleHandler | None = None
) -> HostObserver:
    """Report every new connection of this host (or swarm) to the observers of `handler`.

    handler: default a new one, which is the `handler` of the result.

    A connection is reported as pending, established and closed. If it is denied or fails, that
    event takes the place of the first or the second one. Its id is unique in the process. The
    host's resource manager decides as before. Connections that exist already are not reported.

    If the swarm itself refuses a connection, as above its cap of 250, it is reported as failed with
    that reason. The reason "reset" is known only if an observer wanted ConnectionClosedEvent when
    the connection began. Without observers, this costs some microseconds of the milliseconds that a
    connection takes, and nothing later.

    Libp2pMismatch: the host is not as in libp2p 0.8.1; then nothing has changed.
    """
    swarm = host.get_network() if hasattr(host, "get_network") else host
    if not hasattr(swarm, "add_conn"):
        raise Libp2pMismatch(f"{host!r} has no swarm: this needs a host of libp2p 0.8.1")
    return HostObserver(swarm, ConnectionLifecycleHandler() if handler is None else handler)
