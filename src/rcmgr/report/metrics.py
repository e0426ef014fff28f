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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate
from typing import Any, Final, NamedTuple

from rcmgr.counting.memory_stats import default_cache
from rcmgr.counting.pacing import paced
from rcmgr.extras import require
from rcmgr.limits import codes
from rcmgr.limits.rates import Rate
from rcmgr.report.http_server import BoundedHTTPServer
from rcmgr.report.node import Node
from rcmgr.report.stats import all_denied, blocked_resources, denied_by_limit

try:
    from prometheus_client import CollectorRegistry, MetricsHandler
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

Samples = Iterable[tuple[Sequence[str], float]]
"""Values of labels, and the value of a sample."""

_MIB, _GIB = 2**20, 2**30
COUNTS: Final = (*range(1, 11), 16, 32, 64, 128, 256)
BYTES: Final = (
    2**10, 4 * 2**10, 32 * 2**10, _MIB, 32 * _MIB, 256 * _MIB, 512 * _MIB, _GIB, 2 * _GIB, 4 * _GIB
)
_COLLECTOR: Final = "_rcmgr_collector"
"""The attribute of an exporter that holds the collector it shows."""
_DIRECTIONS: Final = ("inbound", "outbound")
_PEER_BOUNDS: Final = {
    "memory": BYTES,
    **{f"{what}_{way}": COUNTS for what in ("conns", "streams") for way in _DIRECTIONS},
}
_NO_DENIALS: Final = dict.fromkeys((
    *(f"{state}_{direction}" for state in ("pending", "established") for direction in _DIRECTIONS),
    "established_per_peer", "established_total", "memory_usage", "address_connections",
    "address_rate", "connection_rate_per_peer", "handshake_rate", "evicted",
), 0)
"""Shown as 0, so that Prometheus sees the first denial as an increase. Scopes are too many."""
_WOULD_DENY_NOTHING: Final = dict.fromkeys(sorted(codes.OF_NO_SCOPE - {"connection.evicted"}), 0)
"""Likewise."""
_LIMITED_SCOPES: Final = ("system", "transient")
_LIMITED: Final = (
    "memory", "fd", "conns", "conns_inbound", "conns_outbound", "streams", "streams_inbound",
    "streams_outbound",
)


class MetricsCollector(Collector):
    """Collects the metrics of a node when Prometheus asks. Register it: `REGISTRY.register(...)`.

    node: a manager, or several by the value of their label `instance`.
    protocols: names that may become labels; None: the names in the node's limits. Strangers may
        choose other names, and so their streams count as protocol "other".
    instance: the value of a label `instance` on every sample. None: no such label. One registry
        takes several collectors if each has an instance. Each of them repeats the HELP and TYPE
        lines, which strict readers of OpenMetrics refuse: give them one collector of all nodes.

    A scrape takes about 0.1 us for each peer. It lets other threads run each 0.3 ms, and holds a
    lock for 20 us at most. Between scrapes nothing runs. Thread safe.
    """

    def __init__(
        self,
        node: Node | Mapping[str, Node],
        *,
        protocols: Iterable[str] | None = None,
        instance: str | None = None,
    ) -> None:
        names = None if protocols is None else frozenset(protocols)
        nodes = node if isinstance(node, Mapping) else {instance: node}
        self._nodes = {name: _NodeMetrics(each, names) for name, each in nodes.items()}
        self._is_one_of_several = instance is not None

    def collect(self) -> Iterator[Metric]:
        """The families of all nodes, read at this moment."""
        families: dict[str, Metric] = {}
        for instance, node in self._nodes.items():
            for family in paced(node.collect()):
                if instance is not None:
                    family.samples = [
                        each._replace(labels={**each.labels, "instance": instance})
                        for each in family.samples
                    ]
                first = families.setdefault(family.name, family)
                if first is not family:
                    first.samples += family.samples
        yield from paced(families.values())

    def describe(self) -> Iterator[Metric]:
        """The families whose names no other collector of a registry may have."""
        return iter(()) if self._is_one_of_several else self.collect()


class _NodeMetrics:
    """The metrics of one node."""

    def __init__(self, node: Node, protocols: frozenset[str] | None) -> None:
        self._node = node
        self._protocols = protocols

    def collect(self) -> Iterator[Metric]:
        ledger = self._node.ledger
        snapshot = ledger.snapshot(peers=False)
        yield from self._scopes(snapshot)
        yield from self._distributions(ledger._peer_distributions(_PEER_BOUNDS))
        yield self._blocked()
        yield from self._connections()
        yield from self._process_memory()
        yield from self._denials()
        yield from self._evictions()
        yield from self._rates()

    # -- go-libp2p's families ------------------------------------------------------------------

    def _scopes(self, snapshot: dict[str, Any]) -> Iterator[Metric]:
        limits = self._node.scope_limits
        known = self._protocols
        if known is None:
            known = frozenset((*limits.protocol, *limits.protocol_peer))
        protocols = _by_name(snapshot["protocols"], known).items()
        held = [(scope, "", snapshot[scope]) for scope in _LIMITED_SCOPES]
        all_held = [*held, *(("protocol", protocol, sums) for protocol, sums in protocols)]
        yield _gauge(
            "libp2p_rcmgr_connections", "Connections.", "dir scope",
            (((way, scope), each[f"conns_{way}"])
             for scope, _, each in held for way in _DIRECTIONS))
        yield _gauge(
            "libp2p_rcmgr_streams", "Streams.", "dir scope protocol",
            (((way, scope, protocol), each[f"streams_{way}"])
             for scope, protocol, each in all_held for way in _DIRECTIONS))
        memory = _gauge(
            "libp2p_rcmgr_memory", "Bytes reserved.", "scope protocol",
            (((scope, protocol), each["memory"]) for scope, protocol, each in all_held))
        services = _by_name(snapshot["services"], {*limits.service, *limits.service_peer})
        for service, sums in services.items():
            labels = {"scope": "service", "protocol": "", "service": service}
            memory.add_sample(memory.name, labels, sums["memory"])
        yield memory
        yield _gauge(
            "libp2p_rcmgr_fds", "File descriptors.", "scope",
            (((scope,), each["fd"]) for scope, _, each in held))
        yield _gauge(
            "libp2p_rcmgr_limit", "Limits; absent: none.", "scope resource",
            (((scope, resource), each["limits"][resource])
             for scope, _, each in held for resource in _LIMITED if resource in each["limits"]))

    def _distributions(self, peers: dict[str, tuple[list[int], int]]) -> Iterator[Metric]:
        for what, field in (("connections", "conns"), ("streams", "streams")):
            held = {way: _Distribution(*peers[f"{field}_{way}"]) for way in _DIRECTIONS}
            yield from _histograms(
                f"peer_{what}", f"{what.capitalize()} of each peer that has any.", COUNTS, held)
        yield from _histograms(
            "peer_memory", "Bytes reserved by each peer.", BYTES,
            {"": _Distribution(*peers["memory"])})
        total, by_power = self._node.ledger.connection_memory
        counts = [0] * (len(BYTES) + 1)
        for power, connections in enumerate(by_power):  # the bounds are powers of two
            counts[bisect_left(BYTES, 2**power)] += connections
        yield from _histograms(
            "conn_memory", "Bytes reserved by each conn.", BYTES,
            {"": _Distribution(counts, total)})

    def _blocked(self) -> Metric:
        return _gauge(
            "libp2p_rcmgr_blocked_resources",
            "Requests refused since the start, by the scope that refused.", "dir scope resource",
            blocked_resources(self._node).items())

    # -- our own families ----------------------------------------------------------------------

    def _connections(self) -> Iterator[Metric]:
        seen = self._node.connection_tracker.snapshot()
        states = [(state, way) for state in ("pending", "established") for way in _DIRECTIONS]
        limits = self._node.connection_limits.to_dict().items()
        yield _gauge(
            "rcmgr_connections", "Connections by state.", "state dir",
            ((state, getattr(seen, "_".join(state))) for state in states))
        yield _gauge(
            "rcmgr_connections_peak", "The most there ever were.", "state dir",
            ((state, getattr(seen, f"peak_{'_'.join(state)}")) for state in states))
        yield _gauge(
            "rcmgr_connection_limit", "Limits by state; absent: none.", "limit",
            (((name.removeprefix("max_"),), limit) for name, limit in limits if limit is not None))
        yield _gauge("rcmgr_peers", "Peers with a connection.", "", [((), seen.peers)])
        yield _gauge(
            "rcmgr_oldest_pending_seconds",
            "Since the oldest unfinished handshake began; 0: there is none.", "",
            [((), seen.oldest_pending_age or 0.0)])

    def _process_memory(self) -> Iterator[Metric]:
        cache = default_cache()
        cache.refresh_if_needed()
        used = [((), cache.cached_memory_bytes)] if cache.is_known else []
        yield _gauge("rcmgr_process_memory_bytes", "Resident memory of the process.", "", used)
        limits = self._node.memory_limits
        most = None if limits is None else limits.max_allowed_bytes
        yield _gauge(
            "rcmgr_process_memory_limit_bytes", "What it may use; absent: no limit.", "",
            [] if most is None else [((), most)])

    def _denials(self) -> Iterator[Metric]:
        node = self._node
        by_limit = {**_NO_DENIALS, **denied_by_limit(node)}.items()
        yield _counter(
            "rcmgr_denials", "Denials by limit.", "limit",
            (((limit.replace(" ", "_"),), times) for limit, times in by_limit))
        yield _counter(
            "rcmgr_denials_by_direction", "Denials by direction.", "dir",
            (((way,), getattr(node.denials, way)) for way in _DIRECTIONS))
        yield _counter(
            "rcmgr_would_deny", "Admitted by a dry run above a limit, by the limit's code.", "code",
            (((code,), times)
             for code, times in {**_WOULD_DENY_NOTHING, **node.would_deny.by_code()}.items()))
        yield _gauge(
            "rcmgr_dry_run_limits", "Limits that only report what they would refuse.", "",
            [((), len(node.node_limits.dry_run.codes))])
        yield _counter(
            "rcmgr_leaked_scopes", "Scopes dropped while they held something.", "",
            [((), node.ledger.leaked)])
        yield _counter(
            "rcmgr_over_released", "What was given back and had not been taken.", "",
            [((), node.ledger.over_released)])

    def _evictions(self) -> Iterator[Metric]:
        made = self._node.evictions()
        yield _counter(
            "rcmgr_evicted", "Connections ended to make room for newcomers.", "state",
            (((state,), times) for state, times in made["evicted"].items()))
        yield _counter(
            "rcmgr_eviction_choices",
            "How often each rule found a connection to end, or why none did.", "rule",
            (((rule,), times) for rule, times in made["choices"].items()))
        yield _gauge(
            "rcmgr_evicted_leaving", "Evicted connections whose close has not ended.", "",
            [((), made["leaving"])])
        yield _counter(
            "rcmgr_evicted_cut", "Evicted connections that did not go, and were cut.", "",
            [((), made["cut"])])

    def _rates(self) -> Iterator[Metric]:
        limiters = self._node.protocol_rate_limiters.copy().items()
        rates = [*self._connection_rates()]
        for protocol, limiter in limiters:
            limits = limiter.limits
            named = {"default": limits.default, "overall": limits.overall, **limits.overrides}
            rates += [((limit, protocol), rate) for limit, rate in named.items() if rate]
        yield _gauge(
            "rcmgr_rate_limit", "Requests a second that a limit allows.", "limit protocol",
            ((labels, rate.refill_rate) for labels, rate in rates))
        yield _gauge(
            "rcmgr_rate_limit_burst", "Requests that it allows at once.", "limit protocol",
            ((labels, rate.burst) for labels, rate in rates))
        counts = [((protocol,), limiter.counts()) for protocol, limiter in limiters]
        yield _counter(
            "rcmgr_protocol_rate_allowed", "Requests within a protocol's rates.", "protocol",
            ((protocol, each["allowed"]) for protocol, each in counts))
        yield _counter(
            "rcmgr_protocol_rate_denials", "Requests over a protocol's rates.", "protocol",
            ((protocol, all_denied(each)) for protocol, each in counts))
        yield _gauge(
            "rcmgr_protocol_rate_tracked_peers", "Peers that used some of a protocol's rates.",
            "protocol", ((protocol, each["tracked_peers"]) for protocol, each in counts))

    def _connection_rates(self) -> Iterator[tuple[tuple[str, str], Rate]]:
        """The labels (limit, protocol) and the rate. Connections have the protocol ""."""
        per_peer, gate = self._node.connection_rate_limits.per_peer, self._node.addresses
        if per_peer is not None:
            yield ("connections_per_peer", ""), per_peer
        if gate is not None and gate.rates is not None:
            rates = gate.rates.rates
            for version, lengths in (("ipv4", rates.ipv4), ("ipv6", rates.ipv6)):
                for bits, rate in lengths:
                    yield (f"connections_per_{version}/{bits}", ""), rate
            if rates.overall is not None:
                yield ("connections", ""), rates.overall


def _family(kind: Any, name: str, documentation: str, labels: str, samples: Samples) -> Metric:
    family: Metric = kind(name, documentation, labels=labels.split())
    for values, value in samples:
        kind.add_metric(family, values, value)
    return family


_gauge = partial(_family, GaugeMetricFamily)
_counter = partial(_family, CounterMetricFamily)


def _by_name(scopes: dict[str, Any], known: Collection[str]) -> dict[str, dict[str, int]]:
    """Sums by name of the scope. All unknown names count as "other"."""
    found: dict[str, dict[str, int]] = {}
    for scope, held in scopes.items():
        sums = found.setdefault(
            scope if scope in known else "other",
            {"streams_inbound": 0, "streams_outbound": 0, "memory": 0})
        for resource in sums:
            sums[resource] += held[resource]
    return found


def _histograms(
    name: str, documentation: str, bounds: tuple[int, ...], values: dict[str, _Distribution]
) -> Iterator[Metric]:
    """A family of go-libp2p, and the zeros that its dashboard subtracts (see the module's text).

    values: by direction; "": no label.
    """
    labels = ["dir"] if any(values) else []
    now = HistogramMetricFamily(f"libp2p_rcmgr_{name}", documentation, labels=labels)
    before = HistogramMetricFamily(f"libp2p_rcmgr_previous_{name}", "Always zero.", labels=labels)
    for way, held in values.items():
        _add_histogram(now, [way][:len(labels)], held, bounds)
        nothing = _Distribution([0] * (len(bounds) + 1), 0)
        _add_histogram(before, [way][:len(labels)], nothing, bounds)
    yield from (now, before)


class _Distribution(NamedTuple):
    counts: list[int]
    """How many values belong to each bucket. Zeros do not count, as in go-libp2p."""
    total: int
    """The sum of all values."""


def _add_histogram(
    family: HistogramMetricFamily, labels: list[str], held: _Distribution, bounds: tuple[int, ...]
) -> None:
    seen = accumulate(held.counts)
    names = (*(repr(float(bound)) for bound in bounds), "+Inf")
    family.add_metric(
        labels, list(zip(names, map(float, seen), strict=True)), float(held.total))


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


class MetricsServer(AbstractContextManager["MetricsServer"]):
    """Serves the metrics of a node over HTTP, in threads, until `close`. A context manager.

    At most 32 connections are open at once, for at most 10 s; see `BoundedHTTPServer`.

    port: 0 picks a free one. addr: the address to listen on. OSError: the port is taken.
    """

    def __init__(self, node: Node, port: int, addr: str = "127.0.0.1") -> None:
        registry = CollectorRegistry()
        registry.register(MetricsCollector(node))
        self._server = BoundedHTTPServer(port, addr, MetricsHandler.factory(registry))
        self._closed = False

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        self._closed = True
        self._server.close()

    def __exit__(self, *error: object) -> None:
        self.close()
