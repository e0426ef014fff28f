"""Metrics as Prometheus reads them, against the counters they are made of."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    MemoryConnectionLimits,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
)
from rcmgr.metrics import MetricsCollector

PEERS = [b"\x12\x20" + bytes([number]) * 32 for number in range(4)]

# every expression of go-libp2p's published dashboard, uid MgmGIjjnj
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
    *(f'libp2p_rcmgr_memory{{scope="{scope}",{_I}}}' for scope in ("system", "protocol")),
    *(f"histogram_quantile({q}, sum by (le) (libp2p_rcmgr_peer_memory_bucket{{{_I}}} - "
      f"libp2p_rcmgr_previous_peer_memory_bucket{{{_I}}})) - 0.1" for q in ("0.50", "0.90", "1")),
    f"sum(libp2p_rcmgr_peer_memory_count{{{_I}}}-libp2p_rcmgr_previous_peer_memory_count{{{_I}}})",
    f"libp2p_rcmgr_fds{{{_I}}}",
]
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
    """Used: three connections of two peers, one pending, four streams, memory, some denials."""
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(
                system=Limit(conns=4, streams=6, memory=1 << 20),
                transient=Limit(conns_inbound=1),
                protocol={"/a": Limit(streams=3)},
            ),
            ConnectionLimits(max_established_per_peer=2),
        ),
        memory_limits=MemoryConnectionLimits(max_bytes=1 << 50),
    )
    manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(0.001, 1)))
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
            stream.reserve_memory(5000)
        kept.append(stream)
    assert not manager.acquire_memory(1 << 20)
    for _ in range(2):
        manager.check_protocol_rate_limit("/a", PEERS[0])
    manager.kept = kept  # type: ignore[attr-defined]
    return manager


def test_the_counters_as_go_libp2p_names_them(manager: ResourceManager) -> None:
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
    assert value(found, "libp2p_rcmgr_fds", scope="system") == 1
    assert value(found, "libp2p_rcmgr_fds", scope="transient") == 1
    assert value(found, "libp2p_rcmgr_limit", scope="system", resource="streams") == 6
    assert value(found, "libp2p_rcmgr_limit", scope="transient", resource="conns_inbound") == 1
    assert value(found, "libp2p_rcmgr_blocked_resources",
                 dir="inbound", scope="transient", resource="connection") == 1
    assert value(found, "libp2p_rcmgr_blocked_resources",
                 dir="", scope="system", resource="memory") == 1


def test_how_much_each_peer_has(manager: ResourceManager) -> None:
    found = scrape(MetricsCollector(manager))
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
    previous = {key: each for key, each in found.items() if "_previous_" in key[0]}
    assert previous
    assert not any(previous.values())
    for (family, labels), _ in previous.items():
        assert (family.replace("previous_", ""), labels) in found


def test_our_own(manager: ResourceManager) -> None:
    found = scrape(MetricsCollector(manager))
    assert value(found, "rcmgr_connections", state="pending", dir="inbound") == 1
    assert value(found, "rcmgr_connections", state="established", dir="inbound") == 2
    assert value(found, "rcmgr_connections_peak", state="established", dir="outbound") == 1
    assert value(found, "rcmgr_connection_limit", limit="established_per_peer") == 2
    assert value(found, "rcmgr_peers") == 2
    assert value(found, "rcmgr_oldest_pending_seconds") >= 0
    assert value(found, "rcmgr_process_memory_bytes") > 1 << 20
    assert value(found, "rcmgr_process_memory_limit_bytes") == 1 << 50
    assert value(found, "rcmgr_denials_total", limit="established_per_peer") == 1
    assert value(found, "rcmgr_denials_total", limit="transient_inbound_connection") == 1
    assert value(found, "rcmgr_denials_by_direction_total", dir="inbound") == 3
    assert value(found, "rcmgr_protocol_rate_denials_total", protocol="/a") == 1
    assert value(found, "rcmgr_leaked_scopes_total") == 0
    denied = manager.get_stats()["denied"]
    for limit, times in denied.items():
        assert value(found, "rcmgr_denials_total", limit=limit.replace(" ", "_")) == times


def test_no_stranger_makes_a_label(manager: ResourceManager) -> None:
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


def test_counts_follow(manager: ResourceManager) -> None:
    collector = MetricsCollector(manager)
    scrape(collector)
    for each in manager.kept:  # type: ignore[attr-defined]
        if each is not None:
            each.close()
    found = scrape(collector)
    for (name, _), each in found.items():
        if name in ("libp2p_rcmgr_connections", "libp2p_rcmgr_streams", "libp2p_rcmgr_fds",
                    "libp2p_rcmgr_memory", "libp2p_rcmgr_peer_streams_count", "rcmgr_peers"):
            assert each == 0, name


def test_over_http(manager: ResourceManager) -> None:
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


def test_metrics_from_the_start() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    manager = ResourceManager(enable_prometheus=True, prometheus_port=port)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert value(read(text), "rcmgr_peers") == 0
    manager.close()


def matches(found: dict[Any, float], name: str, matchers: str) -> bool:
    """Whether a selector finds a series; Prometheus itself adds `instance`."""
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


def test_our_dashboard_finds_its_series(manager: ResourceManager) -> None:
    path = Path(__file__).parents[1] / "docs" / "grafana" / "rcmgr.json"
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
    assert {"rcmgr_denials_total", "rcmgr_connections", "rcmgr_process_memory_bytes"} <= used
