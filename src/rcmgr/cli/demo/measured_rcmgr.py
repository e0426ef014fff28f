"""`rcmgr.ResourceManager` in the demo. Every number is the manager's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from libp2p.abc import IHost

from rcmgr.libp2p import harden
from rcmgr.limits.node import NodeLimits
from rcmgr.manager import ResourceManager
from rcmgr.report.status_socket import StatusServer

from .limit_rows import ProcessMemory, Row

__all__ = ["MeasuredRcmgr"]


def refusals(refused: dict[str, int], resource: str) -> int:
    """Refusals of streams or connections by one scope, in both directions."""
    return sum(times for name, times in refused.items() if name.endswith(resource))


class MeasuredRcmgr:
    """`rcmgr.ResourceManager`, which also serves its status for `rcmgr top`."""

    title = "rcmgr"

    def __init__(
        self, limits: NodeLimits, metrics_port: int | None = None, record: Path | None = None
    ) -> None:
        self._process = ProcessMemory(limits.memory)
        self.memory_admitted = 0
        self._most_of_peer = 0
        self._status: StatusServer | None = None
        self._status_error = "the host does not run"
        self.manager = ResourceManager(limits, fleet="")
        self._metrics = (
            None if metrics_port is None else self.manager.serve_metrics(metrics_port))
        self._recording = None if record is None else self.manager.record(record)

    def attach(self, host: IHost) -> None:
        harden(host)
        try:
            self._status = self.manager.serve_status()
        except OSError as error:
            self._status_error = str(error)

    def close(self) -> None:
        for server in (self._status, self._metrics, self._recording):
            if server is not None:
                server.close()

    def rows(self) -> list[Row]:
        tracker = self.manager.connection_tracker
        seen = tracker.snapshot()
        stats = self.manager.get_stats()
        limits = stats["limits"]
        now = {
            **stats["connection_states"],
            "established_per_peer": max(map(len, tracker.established_per_peer.values()), default=0),
            "established_total": seen.established_total,
        }
        admitted = {
            **seen.admitted,
            "established_per_peer": seen.total_established,
            "established_total": seen.total_established,
        }
        states = [
            Row(
                name,
                now[name],
                getattr(seen, f"peak_{name}"),
                limits[f"max_{name}"],
                admitted[name],
                seen.denied.get(name, 0),
            )
            for name in now
        ]
        states[0] = replace(
            states[0], denied=states[0].denied + stats["evictions"]["refused_handshakes"])
        return [*states, *self._scope_rows(seen.total_created)]

    def _scope_rows(self, connections: int) -> list[Row]:
        """All connections, all streams, those without a protocol yet, and those of one peer."""
        ledger = self.manager.ledger
        limits = self.manager._adjusted(self.manager.scope_limits)  # with the shares of `harden`
        refused = ledger.refused
        by_system, by_transient = refused.get("system", {}), refused.get("transient", {})
        by_peer = refusals(refused.get("peer", {}), "inbound stream")
        most_of_peer = max(
            (ledger.peer(peer).stat().streams_inbound for peer in ledger.peers()), default=0)
        of_peer = limits.peer_default.streams_inbound
        self._most_of_peer = max(self._most_of_peer, most_of_peer)
        system, transient = ledger.system().stat(), ledger.transient().stat()
        streams = ledger.streams_opened - sum(
            refusals(by_scope, "stream") for by_scope in refused.values()
        )
        return [
            Row(
                "connections",
                system.conns_inbound + system.conns_outbound,
                ledger.peak["conns"],
                limits.system.conns,
                connections,
                refusals(by_system, "connection"),
            ),
            Row(
                "streams",
                system.streams_inbound + system.streams_outbound,
                ledger.peak["streams"],
                limits.system.streams,
                streams,
                refusals(by_system, "stream"),
            ),
            Row(
                "transient_streams",
                transient.streams_inbound + transient.streams_outbound,
                ledger.transient_peak["streams"],
                limits.transient.streams,
                streams,
                refusals(by_transient, "stream"),
            ),
            Row(
                "streams_per_peer",
                most_of_peer,
                of_peer if by_peer and of_peer is not None else self._most_of_peer,
                of_peer,
                streams,
                by_peer,
            ),
        ]

    def limit_memory(self) -> None:
        memory = self.manager.memory_limits
        if memory is None or memory.max_allowed_bytes is None:
            self.manager.set_memory_limits(max_bytes=self._process.limit << 20)

    def memory(self) -> Row:
        lifecycle = self.manager.connection_lifecycle
        return self._process.measure(self.memory_admitted, lifecycle.refused_for_memory)

    def last_denial(self) -> str | None:
        denial = self.manager.last_denial
        return None if denial is None else str(denial)

    def remarks(self) -> list[str]:
        return []

    def hint(self) -> str:
        if self._status is None:
            return f"`rcmgr top` cannot show it: {self._status_error}."
        return "In another terminal: rcmgr top, status or explain."
