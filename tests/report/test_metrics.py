"""Metrics as Prometheus reads them, compared with the counters behind them."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from libp2p_values import ID
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    MemoryConnectionLimits,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.counting.memory_stats import default_cache
from rcmgr.report.metrics import MetricsCollector, MetricsServer

PEERS = [b"\x12\x20" + bytes([number]) * 32 for number in range(4)]

# every expression of go-libp2p's published dashboard, uid MgmGIjjnj: 24
_I = 'instance=~"$instance"'
GO_EXPRESSIONS = [
    f"rate(libp2p_rcmgr_blocked_resources{{{_I}}}[$__rate_interval])",
    *(f'libp2p_rcmgr_streams{{scope="{scope}",{_I}}}'
      for scope in ("system", "transient", "protocol")),
    *(f"histogram_quantile({q}, (libp2p_rcmgr_peer_{what}_bucket{{{_I}}} - "
      f"libp2p_rcmgr_previous_peer_{what}_bucket{{{_I}}})) - 0.1"
      for what in ("streams", "connections") for q in ("0.50", "0.90", "1")),
    *(f'sum without (instance) (libp2p_rcmgr_peer_{what}_bucket{{dir="{way}",{_I}}}-'
      f'libp2p_rcmgr_previous_peer_{what}_bucket{{dir="{way}",{_I}}})'
      for what in ("streams", "connections") for way in ("inbound", "outbound")),
    *(f'libp2p_rcmgr_connections{{scope="{scope}",{_I}}}' for scope in ("system", "transient")),
    # go-libp2p exports no memory of services; our nodes do
    *(f'libp2p_rcmgr_memory{{scope="{scope}",{_I}}}'
      for scope in ("system", "protocol", "service")),
    *(f"histogram_quantile({q}, sum by (le) (libp2p_rcmgr_peer_memory_bucket{{{_I}}} - "
      f"libp2p_rcmgr_previous_peer_memory_bucket{{{_I}}})) - 0.1" for q in ("0.50", "0.90", "1")),
    f"sum(libp2p_rcmgr_peer_memory_count{{{_I}}}-libp2p_rcmgr_previous_peer_memory_count{{{_I}}})",
    f"libp2p_rcmgr_fds{{{_I}}}",
]
assert len(GO_EXPRESSIONS) == 24
# labels in the legends of those panels
GO_LEGENDS = {
    "libp2p_rcmgr_streams": ["dir", "protocol"], "libp2p_rcmgr_connections": ["dir"],
    "libp2p_rcmgr_memory": ["protocol"], "libp2p_rcmgr_fds": ["scope"],
    "libp2p_rcmgr_blocked_resources": ["dir", "scope", "resource"],
    "libp2p_rcmgr_peer_streams_bucket": ["dir", "le"],
    "libp2p_rcmgr_peer_connections_bucket": ["dir", "le"],
}
SELECTOR = re.compile(r"((?:libp2p_)?rcmgr_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')


def scrape(collector: MetricsCollector) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return read(generate_latest(registry).decode())


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    samples: list[Sample] = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


@pytest.fixture
def manager() -> ResourceManager:
    """A node in use: three connections of two peers, one pending, four streams, some denials."""
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(
                system=Limit(conns=4, streams=6, memory=1 << 20),
                transient=Limit(conns_inbound=1),
                protocol={"/a": Limit(streams=3)},
                service={"a-service": Limit(streams=3)},
            ),
            ConnectionLimits(max_established_per_peer=2, max_pending_inbound=7),
            rates=AddressRates(
                ipv4=((32, Rate(5, 50)),), ipv6=((56, Rate(6, 60)),), overall=Rate(100, 1000)),
        ),
        memory_limits=MemoryConnectionLimits(max_bytes=1 << 50),
        connection_rate_limits=ConnectionRateLimits(per_peer=Rate(3, 30)),
    )
    manager.add_protocol_rate_limiter("/a", RateLimits(
        default=Rate(0.001, 1), overrides={"search": Rate(2, 20), "free": None},
        overall=Rate(10**6, 10**6)))
    kept: list[Any] = [manager.open_connection(PEERS[0], None, "inbound") for _ in range(3)]
    kept.append(manager.open_connection(PEERS[1], None, "outbound"))
    kept += [manager.open_connection(None, None, "inbound") for _ in range(2)]
    for number, (protocol, way) in enumerate(
        [("/a", "inbound"), ("/a", "outbound"), ("/made-up", "inbound"), (None, "inbound")]
    ):
        stream = manager.open_stream(PEERS[number % 2], way)
        assert stream is not None
        if protocol is not None:
            stream.set_protocol(protocol)
            if number == 1:
                stream.set_service("a-service")
            stream.reserve_memory(5000)
        kept.append(stream)
    assert not manager.acquire_memory(1 << 20)
    for _ in range(2):
        manager.check_protocol_rate_limit("/a", PEERS[0])
    manager.kept = kept  # type: ignore[attr-defined]
    return manager


def test_counters_have_go_libp2ps_names(manager: ResourceManager) -> None:
    found = scrape(MetricsCollector(manager))
    for way, system, transient in (("inbound", 3, 1), ("outbound", 1, 0)):
        for scope, expected in (("system", system), ("transient", transient)):
            assert value(found, "libp2p_rcmgr_connections", dir=way, scope=scope) == expected
    for way, system, transient in (("inbound", 3, 1), ("outbound", 1, 0)):
        for scope, expected in (("system", system), ("transient", transient)):
            assert value(
                found, "libp2p_rcmgr_streams", dir=way, scope=scope, protocol="") == expected
    assert value(
        found, "libp2p_rcmgr_streams", dir="inbound", scope="protocol", protocol="/a") == 1
    assert value(found, "libp2p_rcmgr_memory", scope="system", protocol="") == 15_000
    assert value(found, "libp2p_rcmgr_memory", scope="protocol", protocol="/a") == 10_000
    assert value(
        found, "libp2p_rcmgr_memory", scope="service", protocol="", service="a-service") == 5_000
    assert value(found, "libp2p_rcmgr_fds", scope="system") == 1
    assert value(found, "libp2p_rcmgr_fds", scope="transient") == 1
    assert value(found, "libp2p_rcmgr_limit", scope="system", resource="streams") == 6
    assert value(found, "libp2p_rcmgr_limit", scope="transient", resource="conns_inbound") == 1
    assert value(found, "libp2p_rcmgr_blocked_resources",
                 dir="inbound", scope="transient", resource="connection") == 1
    assert value(found, "libp2p_rcmgr_blocked_resources",
                 dir="", scope="system", resource="memory") == 1


def test_every_kind_of_refusal_is_blocked() -> None:
    """go-libp2p's dashboard has one panel for refusals, with all values of these labels."""
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_pending_inbound=1, max_established_per_peer=0),
        subnets=SubnetLimits(), rates=AddressRates(ipv4=((32, Rate(0.001, 9)),))))
    manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(0.001, 1)))

    def blocked(way: str, scope: str, resource: str) -> float:
        found = scrape(MetricsCollector(manager))
        name = "libp2p_rcmgr_blocked_resources"
        labels = {"dir": way, "scope": scope, "resource": resource}
        return found.get((name, tuple(sorted(labels.items()))), 0)

    kept = [manager.open_connection(None, None, "inbound") for _ in range(3)]
    assert blocked("inbound", "state", "connection") == 2
    assert manager.open_connection(PEERS[0], None, "outbound") is None
    assert blocked("outbound", "state", "connection") == 1
    manager.connection_limits = ConnectionLimits(
        max_pending_inbound=None, max_pending_outbound=None)
    kept += [manager.open_connection(None, "192.0.2.1", "outbound") for _ in range(10)]
    kept += [manager.open_connection(None, "192.0.2.1", "inbound") for _ in range(10)]
    assert blocked("outbound", "address", "connection") == 2
    assert blocked("inbound", "address", "connection") == 9
    assert blocked("inbound", "rate", "connection") == 1
    manager.connection_rate_limits = ConnectionRateLimits(per_peer=Rate(0.001, 1))
    for _ in range(2):
        kept.append(manager.open_connection(PEERS[1], None, "inbound"))
        manager.check_protocol_rate_limit("/a", PEERS[1])
    assert blocked("inbound", "rate", "connection") == 2
    assert blocked("inbound", "rate", "stream") == 1
    manager.set_memory_limits(max_bytes=1)
    assert manager.open_connection(None, None, "inbound") is None
    assert blocked("", "process", "memory") == 1
    manager.memory_limits = None
    manager.scope_limits = ConcreteLimits(peer_default=Limit(streams=0))
    assert not manager.acquire_stream(PEERS[1], "inbound")
    assert blocked("inbound", "peer", "stream") == 1
    assert len(kept) == 25


def test_histograms_show_what_each_peer_has(manager: ResourceManager) -> None:
    found = scrape(MetricsCollector(manager))
    for what, inbound, outbound in (("connections", 2, 1), ("streams", 3, 1)):
        total = f"libp2p_rcmgr_peer_{what}_sum"
        assert value(found, total, dir="inbound") == inbound
        assert value(found, total, dir="outbound") == outbound
    name = "libp2p_rcmgr_peer_connections"
    for bound, inbound, outbound in (("1.0", 0, 1), ("2.0", 1, 1), ("+Inf", 1, 1)):
        assert value(found, f"{name}_bucket", dir="inbound", le=bound) == inbound
        assert value(found, f"{name}_bucket", dir="outbound", le=bound) == outbound
    assert value(found, f"{name}_sum", dir="inbound") == 2
    memory = "libp2p_rcmgr_peer_memory"
    assert value(found, f"{memory}_count") == 2
    assert value(found, f"{memory}_sum") == 15_000
    assert value(found, f"{memory}_bucket", le="32768.0") == 2
    assert value(found, f"{memory}_bucket", le="4096.0") == 0
    connections = [
        manager.ledger.open_connection(peer=b"%d" % number, allowlisted=True)
        for number in range(4)]
    for connection, size in zip(connections, (0, 1024, 1025, 2**33), strict=True):
        connection.reserve_memory(size)
    found = scrape(MetricsCollector(manager))
    memory = "libp2p_rcmgr_conn_memory"
    assert value(found, f"{memory}_count") == 3
    assert value(found, f"{memory}_sum") == 2049 + 2**33
    for bound, count in (("1024.0", 1), ("4096.0", 2), ("4294967296.0", 2), ("+Inf", 3)):
        assert value(found, f"{memory}_bucket", le=bound) == count
    previous = {key: each for key, each in found.items() if "_previous_" in key[0]}
    assert previous
    assert not any(previous.values())
    for (family, labels), _ in previous.items():
        assert (family.replace("previous_", ""), labels) in found


def test_our_own_families(manager: ResourceManager) -> None:
    tracker = manager.connection_tracker
    while not tracker.oldest_pending_age:
        time.sleep(0)  # until the clock moves
    before = tracker.oldest_pending_age
    found = scrape(MetricsCollector(manager))
    after = tracker.oldest_pending_age
    assert after is not None
    assert before <= value(found, "rcmgr_oldest_pending_seconds") <= after
    assert value(found, "rcmgr_connections", state="pending", dir="inbound") == 1
    assert value(found, "rcmgr_connections", state="established", dir="inbound") == 2
    assert value(found, "rcmgr_connections_peak", state="established", dir="outbound") == 1
    assert value(found, "rcmgr_connection_limit", limit="established_per_peer") == 2
    assert value(found, "rcmgr_peers") == 2
    assert value(found, "rcmgr_process_memory_bytes") > 1 << 20
    assert value(found, "rcmgr_process_memory_limit_bytes") == 1 << 50
    assert value(found, "rcmgr_denials_total", limit="established_per_peer") == 1
    assert value(found, "rcmgr_denials_total", limit="transient_inbound_connection") == 1
    assert value(found, "rcmgr_denials_total", limit="pending_inbound") == 0
    assert value(found, "rcmgr_denials_by_direction_total", dir="inbound") == 3
    assert value(found, "rcmgr_protocol_rate_denials_total", protocol="/a") == 1
    assert value(found, "rcmgr_protocol_rate_allowed_total", protocol="/a") == 1
    assert value(found, "rcmgr_protocol_rate_tracked_peers", protocol="/a") == 1
    rates = {dict(labels)["limit"] + dict(labels)["protocol"]: each
             for (name, labels), each in found.items() if name == "rcmgr_rate_limit"}
    assert rates == {
        "connections_per_peer": 3, "connections_per_ipv4/32": 5, "connections_per_ipv6/56": 6,
        "connections": 100, "default/a": 0.001, "search/a": 2, "overall/a": 1e6,
    }
    assert value(found, "rcmgr_rate_limit_burst", limit="search", protocol="/a") == 20
    assert value(found, "rcmgr_leaked_scopes_total") == 0
    denied = manager.get_stats()["denied"]
    for limit, times in denied.items():
        assert value(found, "rcmgr_denials_total", limit=limit.replace(" ", "_")) == times


class Replaced:
    """An object with some attributes replaced."""

    def __init__(self, original: Any, **attributes: Any) -> None:
        self._original = original
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def test_each_sample_has_its_own_number() -> None:
    manager = ResourceManager(memory_limits=MemoryConnectionLimits(max_bytes=1 << 50))
    states = [f"{state}_{way}" for state in ("pending", "established")
              for way in ("inbound", "outbound")]
    snapshot = SimpleNamespace(
        **{state: 1 + at for at, state in enumerate(states)},
        **{f"peak_{state}": 11 + at for at, state in enumerate(states)},
        peers=20, oldest_pending_age=2.5, denied={})
    node: Any = Replaced(
        manager,
        connection_tracker=SimpleNamespace(
            snapshot=lambda: snapshot, denied_by_direction=dict),
        ledger=Replaced(manager.ledger, leaked=21, over_released=22),
        denials=SimpleNamespace(inbound=23, outbound=24),
        evictions=lambda: {
            "evicted": {"established_inbound": 25, "pending_inbound": 26}, "leaving": 27,
            "cut": 28, "choices": {"crowd": 29}, "refused_handshakes": 30},
    )
    found = scrape(MetricsCollector(node))
    for at, state in enumerate(states):
        name, _, way = state.partition("_")
        assert value(found, "rcmgr_connections", state=name, dir=way) == 1 + at
        assert value(found, "rcmgr_connections_peak", state=name, dir=way) == 11 + at
    assert value(found, "rcmgr_peers") == 20
    assert value(found, "rcmgr_oldest_pending_seconds") == 2.5
    assert value(found, "rcmgr_leaked_scopes_total") == 21
    assert value(found, "rcmgr_over_released_total") == 22
    assert value(found, "rcmgr_denials_by_direction_total", dir="inbound") == 23
    assert value(found, "rcmgr_denials_by_direction_total", dir="outbound") == 24
    assert value(found, "rcmgr_evicted_total", state="established_inbound") == 25
    assert value(found, "rcmgr_evicted_total", state="pending_inbound") == 26
    assert value(found, "rcmgr_evicted_leaving") == 27
    assert value(found, "rcmgr_evicted_cut_total") == 28
    assert value(found, "rcmgr_eviction_choices_total", rule="crowd") == 29
    snapshot.oldest_pending_age = None
    assert value(scrape(MetricsCollector(node)), "rcmgr_oldest_pending_seconds") == 0


def test_each_scope_has_its_own_memory_and_limits(manager: ResourceManager) -> None:
    found = scrape(MetricsCollector(manager))

    def memory(scope: str, protocol: str = "") -> float:
        return value(found, "libp2p_rcmgr_memory", scope=scope, protocol=protocol)

    assert (memory("system"), memory("transient")) == (15_000, 0)
    assert (memory("protocol", "/a"), memory("protocol", "other")) == (10_000, 5_000)
    used = default_cache().cached_memory_bytes
    assert value(found, "rcmgr_process_memory_bytes") == used


def test_denials_by_all_rates_of_a_protocol_are_added() -> None:
    manager = ResourceManager()
    limiter = manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(1, 1)))
    limiter.counts = lambda: {  # type: ignore[method-assign]
        "allowed": 1, "denied": 10, "denied_overall": 100, "denied_by_network": 1000,
        "tracked_peers": 5}
    found = scrape(MetricsCollector(manager))
    assert value(found, "rcmgr_protocol_rate_denials_total", protocol="/a") == 1110


def test_names_that_peers_choose_do_not_become_labels(manager: ResourceManager) -> None:
    def labels() -> set[str]:
        return {each for _, pairs in scrape(collector) for _, each in pairs}

    collector = MetricsCollector(manager)
    before = labels()
    assert "/made-up" not in before
    assert "other" in before
    for number in range(50):
        stream = manager.open_stream(b"stranger %d" % number, "inbound")
        if stream is not None:
            stream.set_protocol(f"/made-up/{number}")
            manager.kept.append(stream)  # type: ignore[attr-defined]
    assert {each for each in labels() - before if not re.fullmatch(r"\w*", each)} == set()
    named = scrape(MetricsCollector(manager, protocols=["/made-up"]))
    assert value(
        named, "libp2p_rcmgr_streams", dir="inbound", scope="protocol", protocol="/made-up") == 1


def test_names_cannot_forge_a_line(manager: ResourceManager) -> None:
    """Names in the limits may hold quotes and line ends."""
    name = '/odd"} 1\nrcmgr_peers 999\\'
    manager.set_protocol_stream_limit(name, 5)
    manager.add_protocol_rate_limiter(name, RateLimits(default=Rate(1, 1)))
    stream = manager.open_stream(PEERS[0], "inbound")
    assert stream is not None
    stream.set_protocol(name)
    found = scrape(MetricsCollector(manager))
    assert value(found, "rcmgr_peers") == 2
    assert value(
        found, "libp2p_rcmgr_streams", dir="inbound", scope="protocol", protocol=name) == 1
    assert value(found, "rcmgr_rate_limit", limit="default", protocol=name) == 1


def test_no_peer_and_no_address_is_a_label(manager: ResourceManager) -> None:
    manager.kept.append(  # type: ignore[attr-defined]
        manager.open_connection(PEERS[2], "192.0.2.77", "inbound"))
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    text = generate_latest(registry).decode()
    for peer in (*PEERS, "192.0.2.77"):
        for name in (peer, ID(peer).to_base58() if isinstance(peer, bytes) else peer):
            assert str(name) not in text
    names = {label for _, labels in read(text) for label, _ in labels}
    assert names == {
        "code", "dir", "scope", "protocol", "service", "resource", "limit", "state", "le", "rule"}


def test_the_short_name_exports_the_same_classes() -> None:
    import rcmgr.metrics

    assert {name: getattr(rcmgr.metrics, name) for name in rcmgr.metrics.__all__} == {
        "MetricsCollector": MetricsCollector, "MetricsServer": MetricsServer}


def test_every_family_is_documented(manager: ResourceManager) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`((?:libp2p_)?rcmgr_\w+)`", text))
    collector = MetricsCollector(manager)
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in collector.collect() if "_previous_" not in family.name}
    assert exported == documented


def test_gauges_return_to_zero(manager: ResourceManager) -> None:
    collector = MetricsCollector(manager)
    scrape(collector)
    for each in manager.kept:  # type: ignore[attr-defined]
        if each is not None:
            each.close()
    gauges = {
        "libp2p_rcmgr_connections", "libp2p_rcmgr_streams", "libp2p_rcmgr_fds",
        "libp2p_rcmgr_memory", "libp2p_rcmgr_peer_streams_count", "rcmgr_peers"}
    found = {
        (name, labels): each for (name, labels), each in scrape(collector).items()
        if name in gauges}
    assert {name for name, _ in found} == gauges
    assert set(found.values()) == {0}


def test_each_manager_serves_its_own_metrics_over_http(manager: ResourceManager) -> None:
    other = ResourceManager()
    with manager.serve_metrics(0) as server, other.serve_metrics(0) as second:
        texts = [
            urllib.request.urlopen(
                f"http://127.0.0.1:{each.port}/metrics", timeout=10).read().decode()
            for each in (server, second)
        ]
        with pytest.raises(OSError, match="in use"):
            other.serve_metrics(server.port)
    assert value(read(texts[0]), "rcmgr_peers") == 2
    assert value(read(texts[1]), "rcmgr_peers") == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10)
    server.close()


@pytest.mark.libp2p
def test_py_libp2ps_own_exporter_shows_the_manager() -> None:
    from libp2p.rcmgr.prometheus_exporter import PrometheusExporter

    exporter = PrometheusExporter(enable_server=False)
    manager = ResourceManager(prometheus_exporter=exporter)
    scope = manager.open_connection(PEERS[0], None, "inbound")
    found = read(exporter.get_metrics_text())
    assert value(found, "libp2p_rcmgr_connections", dir="inbound", scope="system") == 1
    assert scope is not None
    scope.close()
    found = read(exporter.get_metrics_text())
    assert value(found, "libp2p_rcmgr_connections", dir="inbound", scope="system") == 0
    with pytest.raises(TypeError, match="prometheus_exporter must have a registry"):
        ResourceManager(prometheus_exporter=object())


@pytest.mark.libp2p
@pytest.mark.parametrize("stock", [False, True], ids=["shared", "of another registry"])
def test_an_exporter_shows_the_latest_of_its_managers(stock: bool) -> None:
    from libp2p.rcmgr.prometheus_exporter import PrometheusExporter

    registry = CollectorRegistry() if stock else None
    exporter = PrometheusExporter(enable_server=False, registry=registry)
    managers = [ResourceManager(prometheus_exporter=exporter) for _ in range(3)]
    for number, manager in enumerate(managers, 1):
        manager.kept = [  # type: ignore[attr-defined]
            manager.open_connection(PEERS[0], None, "inbound") for _ in range(number)]
    found = read(exporter.get_metrics_text())
    assert value(found, "libp2p_rcmgr_connections", dir="inbound", scope="system") == 3


@pytest.mark.libp2p
def test_the_installed_manager_takes_py_libp2ps_arguments() -> None:
    from libp2p.rcmgr.prometheus_exporter import create_prometheus_exporter

    from rcmgr.libp2p.dropin.manager import ResourceManager as Installed

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    exporter = create_prometheus_exporter(enable_server=False)
    assert exporter is not None
    manager = Installed(
        enable_prometheus=True, prometheus_port=port, prometheus_exporter=exporter)
    kept = manager.open_connection(PEERS[0], None, "inbound")
    over_http = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
    for text in (over_http.decode(), exporter.get_metrics_text()):
        found = read(text)
        assert value(found, "libp2p_rcmgr_connections", dir="inbound", scope="system") == 1
        assert value(found, "rcmgr_peers") == 1
    assert kept is not None
    kept.close()
    manager.close()


def test_enable_prometheus_serves_from_the_start() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    manager = ResourceManager(enable_prometheus=True, prometheus_port=port)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert value(read(text), "rcmgr_peers") == 0
    manager.close()


def matches(found: dict[Any, float], name: str, matchers: str) -> bool:
    """Whether a selector finds a series. Prometheus adds `instance` by itself."""
    wanted = [each for each in MATCHER.findall(matchers or "") if each[0] != "instance"]
    return any(
        series == name and all(
            re.fullmatch(pattern, dict(labels).get(label, "")) if operator == "=~"
            else dict(labels).get(label, "") == pattern
            for label, operator, pattern in wanted
        )
        for series, labels in found
    )


@pytest.mark.parametrize("expression", GO_EXPRESSIONS)
def test_go_libp2ps_dashboard_finds_its_series(manager: ResourceManager, expression: str) -> None:
    found = scrape(MetricsCollector(manager))
    selectors = SELECTOR.findall(expression)
    assert selectors
    for name, matchers in selectors:
        assert matches(found, name, matchers), name
        kept = [dict(labels) for series, labels in found if series == name]
        assert kept
        for label in GO_LEGENDS.get(name, ()):
            assert all(label in labels for labels in kept), (name, label)


def test_our_dashboard_finds_its_series(manager: ResourceManager) -> None:
    path = Path(__file__).parents[2] / "docs" / "grafana" / "rcmgr.json"
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    found = scrape(MetricsCollector(manager))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    used = set()
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            selectors = SELECTOR.findall(target["expr"])
            assert selectors, target["expr"]
            for name, matchers in selectors:
                assert 'instance=~"$instance"' in matchers, target["expr"]
                assert matches(found, name, matchers), target["expr"]
                used.add(name)
    assert not matches(found, "rcmgr_nonsense", "")
    ours = {name for name, _ in found if name.startswith("rcmgr_")}
    assert ours - used == {"rcmgr_rate_limit_burst"}  # its rate says more


def of_instance(registry: CollectorRegistry, instance: str) -> dict[str, float]:
    """The values of one instance, with the other labels in the name."""
    return {
        f"{each.name} {sorted({**each.labels, 'instance': ''}.items())}": each.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for each in family.samples if each.labels["instance"] == instance
    }


def alone(manager: ResourceManager) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager, instance=""))
    return of_instance(registry, "")


VOLATILE = ("rcmgr_process_memory", "rcmgr_oldest_pending")


def steady(values: dict[str, float]) -> dict[str, float]:
    return {name: each for name, each in values.items() if not name.startswith(VOLATILE)}


@pytest.mark.parametrize("together", [True, False])
def test_two_managers_in_one_registry(manager: ResourceManager, together: bool) -> None:
    other = ResourceManager(connection_limits=ConnectionLimits(max_pending_inbound=0))
    other.open_connection(None)
    registry = CollectorRegistry()
    if together:
        registry.register(MetricsCollector({"one": manager, "two": other}))
    else:
        registry.register(MetricsCollector(manager, instance="one"))
        registry.register(MetricsCollector(other, instance="two"))
    for instance, node in (("one", manager), ("two", other)):
        found = of_instance(registry, instance)
        assert len(found) > 50
        assert steady(found) == steady(alone(node))
    assert registry.get_sample_value("rcmgr_peers", {"instance": "one"}) == 2
    assert registry.get_sample_value("rcmgr_peers", {"instance": "two"}) == 0
    registry.register(MetricsCollector(ResourceManager(), instance="three"))
    assert registry.get_sample_value("rcmgr_peers", {"instance": "three"}) == 0


def test_one_collector_of_several_managers_is_valid_openmetrics(manager: ResourceManager) -> None:
    registry = CollectorRegistry()
    registry.register(MetricsCollector({"one": manager, "two": ResourceManager()}))
    text = openmetrics.generate_latest(registry).decode()
    families = list(openmetrics_parser.text_string_to_metric_families(text))
    assert len(families) == len({each.name for each in families}) > 20


def test_two_collectors_without_an_instance_are_refused(manager: ResourceManager) -> None:
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(MetricsCollector(ResourceManager()))
