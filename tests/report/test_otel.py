"""The metrics for OpenTelemetry are those for Prometheus."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    NodeLimits,
    ProcessMemoryLimits,
    Rate,
    RateLimits,
    ResourceManager,
)
from rcmgr.metrics import MetricsCollector
from rcmgr.otel import OpenTelemetryMetrics

PEERS = [b"\x12\x20" + bytes([number]) * 32 for number in range(4)]
# it changes between two readings
MOVING = {"rcmgr_process_memory_bytes", "rcmgr_oldest_pending_seconds"}

Key = tuple[str, frozenset[tuple[str, Any]]]


@pytest.fixture
def manager() -> Any:
    """A manager with samples in every family."""
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(system=Limit(conns=100), protocol={"/a": Limit(streams=1)}),
            connections=ConnectionLimits(max_established_inbound=6),
            memory=ProcessMemoryLimits(max_bytes=2**40)),
        connection_rate_limits=ConnectionRateLimits(per_peer=Rate(100.0, 100)))
    held: list[Any] = []
    for number, peer in enumerate(PEERS):
        held += [manager.open_connection(peer, "192.0.2.1") for _ in range(number + 1)]
        stream = manager.open_stream(peer, "inbound")
        assert stream
        stream.try_set_protocol("/a")
        held.append(stream)
    manager.acquire_memory(5000)
    manager.enforce = False
    held.append(manager.open_connection(PEERS[0], "192.0.2.1"))
    manager.add_protocol_rate_limiter("/a", RateLimits(Rate(1e-6, 1)))
    for _ in range(3):
        manager.check_protocol_rate_limit("/a", PEERS[0])
    yield manager
    for each in held:
        if each is not None:
            each.close()


def of_prometheus(collector: MetricsCollector) -> dict[Key, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (family.name if family.type == "counter" else sample.name,
         frozenset(sample.labels.items())): sample.value
        for family in registry.collect() for sample in family.samples
    }


def of_otel(reader: InMemoryMetricReader) -> dict[Key, float]:
    data: Any = reader.get_metrics_data()
    points: dict[Key, float] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == "rcmgr"
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    key = metric.name, frozenset(point.attributes.items())
                    assert key not in points
                    points[key] = point.value
    return points


def new_reader(node: Any, **options: Any) -> tuple[InMemoryMetricReader, OpenTelemetryMetrics]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    return reader, OpenTelemetryMetrics(node, meter_provider=provider, **options)


def assert_equal(found: dict[Key, float], expected: dict[Key, float]) -> None:
    assert found.keys() == expected.keys()
    assert {key: value for key, value in found.items() if key[0] not in MOVING} == {
        key: value for key, value in expected.items() if key[0] not in MOVING}


def test_each_metric_has_its_equal(manager: ResourceManager) -> None:
    reader, _ = new_reader(manager)
    found, expected = of_otel(reader), of_prometheus(MetricsCollector(manager))
    assert len(expected) > 150
    assert len({name for name, _ in expected}) > 40
    assert_equal(found, expected)


def test_counters_are_counters(manager: ResourceManager) -> None:
    reader, _ = new_reader(manager)
    data: Any = reader.get_metrics_data()
    kinds = {
        metric.name: metric.data for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    for family in MetricsCollector(manager).collect():
        if family.type == "counter":
            assert kinds[family.name].is_monotonic, family.name
        elif family.type == "gauge":
            assert not hasattr(kinds[family.name], "is_monotonic"), family.name


def test_each_collection_has_new_values(manager: ResourceManager) -> None:
    reader, _ = new_reader(manager)
    key = "rcmgr_peers", frozenset[Any]()
    before = of_otel(reader)[key]
    held = manager.open_connection(b"\x12\x20" + b"x" * 32, "192.0.2.9")
    assert held
    assert of_otel(reader)[key] == before + 1
    held.close()
    assert of_otel(reader)[key] == before


def test_a_limit_that_is_set_later_is_reported() -> None:
    manager = ResourceManager(NodeLimits())
    reader, _ = new_reader(manager)
    key = "rcmgr_process_memory_limit_bytes", frozenset[Any]()
    assert key not in of_otel(reader)
    manager.set_memory_limits(max_bytes=2**40)
    assert of_otel(reader)[key] == 2**40


def test_one_collection_reads_the_node_once(manager: ResourceManager) -> None:
    reader, metrics = new_reader(manager)
    times = 0
    collector: Any = metrics._collector
    collect = collector.collect

    def counting() -> Any:
        nonlocal times
        times += 1
        return collect()

    collector.collect = counting
    for expected in (1, 2, 3):
        of_otel(reader)
        assert times == expected


def test_several_nodes_have_an_attribute(manager: ResourceManager) -> None:
    nodes = {"one": manager, "two": ResourceManager(NodeLimits())}
    reader, _ = new_reader(nodes)
    assert_equal(of_otel(reader), of_prometheus(MetricsCollector(nodes)))


def test_after_the_end_nothing_is_reported(manager: ResourceManager) -> None:
    reader, metrics = new_reader(manager)
    with metrics:
        assert of_otel(reader)
    assert of_otel(reader) == {}
    metrics.close()


def test_the_global_provider_is_the_default(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    monkeypatch.setattr("rcmgr.report.otel.get_meter_provider", lambda: MeterProvider([reader]))
    OpenTelemetryMetrics(manager)
    assert of_otel(reader)
