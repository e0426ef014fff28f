"""A node's numbers for Prometheus, read at each scrape and at no other time.

The families `libp2p_rcmgr_...` have the names, labels and meaning of go-libp2p's resource manager,
so that its published Grafana dashboard shows our nodes too. There, histograms over peers grow with
every event, and the dashboard subtracts a second family, `..._previous_...`, to get the current
values. Ours hold the values of the scrape. The second family is zero, so that the subtraction
changes nothing. No peer and no address becomes a label.

Needs prometheus_client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from rcmgr.counting.memory_stats import default_cache
from rcmgr.counting.scope import ScopeStat
from rcmgr.extras import require
from rcmgr.limits.rates import Rate
from rcmgr.report.node import Node
from rcmgr.report.stats import denied_by_limit

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.registry import Collector
except ModuleNotFoundError:
    require("prometheus_client", "rcmgr.metrics", "metrics")
    raise

__all__ = ["MetricsCollector", "MetricsServer", "show_in_exporter"]

_MIB, _GIB = 2**20, 2**30
COUNTS: Final = (*range(1, 11), 16, 32, 64, 128, 256)
BYTES: Final = (
    2**10, 4 * 2**10, 32 * 2**10, _MIB, 32 * _MIB, 256 * _MIB, 512 * _MIB, _GIB, 2 * _GIB, 4 * _GIB
)
_COLLECTOR: Final = "_rcmgr_collector"
"""The attribute of an exporter that holds the collector it shows."""
_DIRECTIONS: Final = ("inbound", "outbound")
_NO_DENIALS: Final = dict.fromkeys((
    *(f"{state}_{direction}" for state in ("pending", "established") for direction in _DIRECTIONS),
    "established_per_peer", "established_total", "memory_usage", "address_connections",
    "address_rate", "connection_rate_per_peer",
), 0)
"""Shown as 0, so that Prometheus sees the first denial as an increase. Scopes are too many."""
_LIMITED_SCOPES: Final = ("system", "transient")
_RESOURCES: Final = {
    "memory": "memory", "fd": "fd", "conns": "connection", "streams": "stream"
}
_LIMITED: Final = (
    "memory", "fd", "conns", "conns_inbound", "conns_outbound", "streams", "streams_inbound",
    "streams_outbound",
)


class MetricsCollector(Collector):
    """Collects the metrics of a node when Prometheus asks. Register it: `REGISTRY.register(...)`.

    protocols: names that may become labels; None: the names in the node's limits. Strangers may
        choose other names, and so their streams count as protocol "other".

    A scrape takes about 2 us for each peer. Between scrapes nothing runs. Thread safe.
    """

    def __init__(
        self, node: Node, *, protocols: Iterable[str] | None = None
    ) -> None:
        self._node = node
        self._protocols = None if protocols is None else frozenset(protocols)

    def describe(self) -> Iterator[Metric]:
        """The families without samples, for the registry."""
        for family in self.collect():
            yield Metric(family.name, family.documentation, family.type)

    def collect(self) -> Iterator[Metric]:
        ledger = self._node.ledger
        snapshot = ledger.snapshot(peers=False)
        yield from self._scopes(snapshot)
        yield from self._distributions(ledger.peer_stats())
        yield self._blocked()
        yield self._scope_limits(snapshot)
        yield from self._connections()
        yield from self._process_memory()
        yield from self._denials()
        yield from self._rate_limits()
        yield from self._requests()

    # -- go-libp2p's families ------------------------------------------------------------------

    def _scopes(self, snapshot: dict[str, Any]) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "libp2p_rcmgr_connections", "Connections.", labels=["dir", "scope"])
        streams = GaugeMetricFamily(
            "libp2p_rcmgr_streams", "Streams.", labels=["dir", "scope", "protocol"])
        memory = GaugeMetricFamily(
            "libp2p_rcmgr_memory", "Bytes reserved.", labels=["scope", "protocol"])
        fds = GaugeMetricFamily("libp2p_rcmgr_fds", "File descriptors.", labels=["scope"])
        for scope in _LIMITED_SCOPES:
            held = snapshot[scope]
            for direction in _DIRECTIONS:
                connections.add_metric([direction, scope], held[f"conns_{direction}"])
                streams.add_metric([direction, scope, ""], held[f"streams_{direction}"])
            memory.add_metric([scope, ""], held["memory"])
            fds.add_metric([scope], held["fd"])
        for protocol, held in self._by_protocol(snapshot["protocols"]).items():
            for direction in _DIRECTIONS:
                streams.add_metric(
                    [direction, "protocol", protocol], held[f"streams_{direction}"])
            memory.add_metric(["protocol", protocol], held["memory"])
        limits = self._node.scope_limits
        services = _by_name(snapshot["services"], {*limits.service, *limits.service_peer})
        for service, held in services.items():
            memory.add_sample(
                memory.name, {"scope": "service", "protocol": "", "service": service},
                held["memory"])
        yield from (connections, streams, memory, fds)

    def _by_protocol(self, protocols: dict[str, Any]) -> dict[str, dict[str, int]]:
        known = self._protocols
        if known is None:
            limits = self._node.scope_limits
            known = frozenset((*limits.protocol, *limits.protocol_peer))
        return _by_name(protocols, known)

    def _distributions(self, peers: list[ScopeStat]) -> Iterator[Metric]:
        for what, field in (("connections", "conns"), ("streams", "streams")):
            name = f"peer_{what}"
            now = _histogram(name, f"{what.capitalize()} of each peer that has any.", ["dir"])
            before = _previous(name, ["dir"])
            for direction in _DIRECTIONS:
                held = [getattr(peer, f"{field}_{direction}") for peer in peers]
                _add(now, [direction], held, COUNTS)
                _add(before, [direction], (), COUNTS)
            yield from (now, before)
        for name, held in (
            ("peer_memory", [peer.memory for peer in peers]),
            ("conn_memory", []),  # libp2p 0.8.1 reserves no memory for a connection
        ):
            now = _histogram(name, f"Bytes reserved by each {name.partition('_')[0]}.", [])
            before = _previous(name, [])
            _add(now, [], held, BYTES)
            _add(before, [], (), BYTES)
            yield from (now, before)

    def _blocked(self) -> Metric:
        family = GaugeMetricFamily(
            "libp2p_rcmgr_blocked_resources",
            "Requests refused since the start, by the scope that refused.",
            labels=["dir", "scope", "resource"],
        )
        counts: dict[tuple[str, str, str], int] = {}
        for (direction, scope, limit), times in self._node.ledger.blocked.items():
            resource = _RESOURCES[limit.partition("_")[0]]
            if resource in ("memory", "fd"):
                direction = ""
            key = (direction, scope.partition("-")[0], resource)
            counts[key] = counts.get(key, 0) + times
        for labels, times in counts.items():
            family.add_metric(labels, times)
        return family

    def _scope_limits(self, snapshot: dict[str, Any]) -> Metric:
        family = GaugeMetricFamily(
            "libp2p_rcmgr_limit", "Limits; absent: none.", labels=["scope", "resource"])
        for scope in _LIMITED_SCOPES:
            limits = snapshot[scope]["limits"]
            for resource in _LIMITED:
                if resource in limits:
                    family.add_metric([scope, resource], limits[resource])
        return family

    # -- our own -------------------------------------------------------------------------------

    def _connections(self) -> Iterator[Metric]:
        tracker = self._node.connection_tracker
        seen = tracker.snapshot()
        states = GaugeMetricFamily(
            "rcmgr_connections", "Connections by state.", labels=["state", "dir"])
        most = GaugeMetricFamily(
            "rcmgr_connections_peak", "The most there ever were.", labels=["state", "dir"])
        for state in ("pending", "established"):
            for direction in _DIRECTIONS:
                name = f"{state}_{direction}"
                states.add_metric([state, direction], getattr(seen, name))
                most.add_metric([state, direction], getattr(seen, f"peak_{name}"))
        limits = GaugeMetricFamily(
            "rcmgr_connection_limit", "Limits by state; absent: none.", labels=["limit"])
        for name, limit in self._node.connection_limits.to_dict().items():
            if limit is not None:
                limits.add_metric([name.removeprefix("max_")], limit)
        yield from (states, most, limits)
        yield GaugeMetricFamily("rcmgr_peers", "Peers with a connection.", value=seen.peers)
        yield GaugeMetricFamily(
            "rcmgr_oldest_pending_seconds",
            "Since the oldest unfinished handshake began; 0: there is none.",
            value=seen.oldest_pending_age or 0.0,
        )

    def _process_memory(self) -> Iterator[Metric]:
        cache = default_cache()
        cache.refresh_if_needed()
        if cache.is_known:
            yield GaugeMetricFamily(
                "rcmgr_process_memory_bytes", "Resident memory of the process.",
                value=cache.cached_memory_bytes,
            )
        limits = self._node.memory_limits
        most = None if limits is None else limits.max_allowed_bytes
        if most is not None:
            yield GaugeMetricFamily(
                "rcmgr_process_memory_limit_bytes", "What it may use.", value=most)

    def _denials(self) -> Iterator[Metric]:
        node = self._node
        denials = CounterMetricFamily(
            "rcmgr_denials", "Denials by limit.", labels=["limit"])
        for limit, times in {**_NO_DENIALS, **denied_by_limit(node)}.items():
            denials.add_metric([limit.replace(" ", "_")], times)
        by_direction = CounterMetricFamily(
            "rcmgr_denials_by_direction", "Denials by direction.", labels=["dir"])
        for direction in _DIRECTIONS:
            by_direction.add_metric([direction], getattr(node.denials, direction))
        yield from (denials, by_direction)
        ledger = node.ledger
        yield CounterMetricFamily(
            "rcmgr_leaked_scopes", "Scopes dropped while they held something.",
            value=ledger.leaked)
        yield CounterMetricFamily(
            "rcmgr_over_released", "What was given back and had not been taken.",
            value=ledger.over_released)

    def _rate_limits(self) -> Iterator[Metric]:
        labels = ["limit", "protocol"]
        rates = GaugeMetricFamily(
            "rcmgr_rate_limit", "Requests a second that a limit allows.", labels=labels)
        bursts = GaugeMetricFamily(
            "rcmgr_rate_limit_burst", "Requests that it allows at once.", labels=labels)
        for limit, protocol, rate in self._rates():
            rates.add_metric([limit, protocol], rate.refill_rate)
            bursts.add_metric([limit, protocol], rate.burst)
        yield from (rates, bursts)

    def _requests(self) -> Iterator[Metric]:
        labels = ["protocol"]
        allowed = CounterMetricFamily(
            "rcmgr_protocol_rate_allowed", "Requests within a protocol's rates.", labels=labels)
        denied = CounterMetricFamily(
            "rcmgr_protocol_rate_denials", "Requests over a protocol's rates.", labels=labels)
        tracked = GaugeMetricFamily(
            "rcmgr_protocol_rate_tracked_peers", "Peers that used some of a protocol's rates.",
            labels=labels)
        for protocol, limiter in self._node.protocol_rate_limiters.copy().items():
            counts = limiter.counts()
            allowed.add_metric([protocol], counts["allowed"])
            denied.add_metric([protocol], counts["denied"] + counts["denied_overall"])
            tracked.add_metric([protocol], counts["tracked_peers"])
        yield from (allowed, denied, tracked)

    def _rates(self) -> Iterator[tuple[str, str, Rate]]:
        """(limit, protocol, rate) of all rates. Rates of connections have the protocol ""."""
        node = self._node
        per_peer, gate = node.connection_rate_limits.per_peer, node.addresses
        if per_peer is not None:
            yield "connections_per_peer", "", per_peer
        if gate is not None and gate.rates is not None:
            rates = gate.rates.rates
            for version, lengths in (("ipv4", rates.ipv4), ("ipv6", rates.ipv6)):
                for bits, rate in lengths:
                    yield f"connections_per_{version}/{bits}", "", rate
            if rates.overall is not None:
                yield "connections", "", rates.overall
        for protocol, limiter in node.protocol_rate_limiters.copy().items():
            limits = limiter.limits
            named = {"default": limits.default, "overall": limits.overall, **limits.overrides}
            for limit, found in named.items():
                if found is not None:
                    yield limit, protocol, found


def _by_name(
    scopes: dict[str, Any], known: Collection[str]
) -> dict[str, dict[str, int]]:
    """Sums by name of the scope. All unknown names count as "other"."""
    found: dict[str, dict[str, int]] = {}
    for scope, held in scopes.items():
        sums = found.setdefault(
            scope if scope in known else "other",
            {"streams_inbound": 0, "streams_outbound": 0, "memory": 0})
        for resource in sums:
            sums[resource] += held[resource]
    return found


def _histogram(name: str, documentation: str, labels: list[str]) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"libp2p_rcmgr_{name}", documentation, labels=labels)


def _previous(name: str, labels: list[str]) -> HistogramMetricFamily:
    """The family that the dashboard subtracts; see the top of this module."""
    return _histogram(f"previous_{name}", "Always zero.", labels)


def _add(
    family: HistogramMetricFamily, labels: list[str], values: Iterable[int], bounds: tuple[int, ...]
) -> None:
    """Add a histogram of the values. Zeros do not count, as in go-libp2p."""
    counts = [0] * (len(bounds) + 1)
    total = 0
    for value in values:
        if value:
            counts[bisect_left(bounds, value)] += 1
            total += value
    buckets, seen = [], 0
    for bound, count in zip((*map(float, bounds), "+Inf"), counts, strict=True):
        seen += count
        buckets.append((bound if bound == "+Inf" else repr(bound), float(seen)))
    family.add_metric(labels, buckets, float(total))


def show_in_exporter(exporter: Any, node: Node) -> None:
    """Replace the metric families of a `libp2p.rcmgr.PrometheusExporter` by those of this node.

    Its HTTP server and its `get_metrics_text` then show this node. If several managers have one
    exporter, it shows the latest. TypeError: the exporter has no registry.
    """
    registry = getattr(exporter, "registry", None)
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"prometheus_exporter must have a registry: {exporter!r}")
    former = getattr(exporter, _COLLECTOR, None)
    shown = [former] if former is not None else [
        metric for metric in vars(exporter).values() if isinstance(metric, MetricWrapperBase)]
    for collector in shown:
        registry.unregister(collector)
    collector = MetricsCollector(node)
    registry.register(collector)
    setattr(exporter, _COLLECTOR, collector)


class MetricsServer:
    """Serves the metrics of a node over HTTP, in a thread, until `close`. A context manager.

    port: 0 picks a free one. addr: the address to listen on. OSError: the port is taken.
    """

    def __init__(self, node: Node, port: int, addr: str = "127.0.0.1") -> None:
        registry = CollectorRegistry()
        registry.register(MetricsCollector(node))
        self._server, self._thread = start_http_server(port, addr, registry)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
