"""py-libp2p's own modules that no host uses, fed by our manager."""

from __future__ import annotations

import json
from typing import Any

import pytest
from libp2p.peer.id import ID
from libp2p.rcmgr import config, enhanced_errors, health_checks, monitoring, prometheus_exporter
from libp2p.rcmgr.circuit_breaker import CircuitBreaker, CircuitBreakerState

import rcmgr
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.manager import ResourceLimits, ResourceManager

PEER = ID(b"\x12\x20" + b"p" * 32)
OTHER = ID(b"\x12\x20" + b"o" * 32)


@pytest.mark.parametrize(("connections", "expected"), [
    (0, "healthy"), (7, "healthy"), (9, "degraded"), (10, "critical")])
def test_the_health_checker(connections: int, expected: str) -> None:
    manager: Any = ResourceManager(ResourceLimits(10, 1, 10))
    scopes = [manager.open_connection(PEER) for _ in range(min(connections, 8))]
    scopes += [manager.open_connection(OTHER) for _ in range(connections - 8)]
    assert all(scopes)
    checker = health_checks.HealthChecker(manager, enable_system_checks=False)
    checker._check_memory = lambda: checker._check_performance()  # type: ignore[method-assign]
    assert checker.check_health().value == expected
    endpoint = checker.get_health_endpoint()
    [resources] = [
        check for check in endpoint["latest_health"]["checks"]
        if check["type"] == "resource_usage"]
    assert resources["details"]["connection_count"] == connections
    json.dumps(endpoint)


def test_the_health_of_the_memory_and_the_system() -> None:
    manager: Any = ResourceManager()
    manager.acquire_memory(1 << 20)
    checker = health_checks.HealthChecker(manager)
    checker.check_health()
    by_type = {check.check_type.value: check for check in checker._health_history[-1].checks}
    memory = by_type["memory_health"].details
    assert memory["resource_memory_bytes"] == 1 << 20
    assert memory["max_memory_bytes"] == 512 << 20
    assert not [check.message for check in by_type.values() if "Failed" in check.message]


def test_the_health_of_a_node_without_limits() -> None:
    manager: Any = ResourceManager(rcmgr.INFINITE_LIMITS)
    assert manager.limits.max_connections is None
    checker = health_checks.HealthChecker(manager, enable_system_checks=False)
    checker.check_health()
    messages = [check.message for check in checker._health_history[-1].checks]
    assert messages[0].startswith("Resource usage: connections=0.0%")
    assert not [message for message in messages if "Failed" in message]


def test_the_monitor() -> None:
    manager: Any = ResourceManager(ResourceLimits(max_connections=2))
    kept = [manager.open_connection(PEER) for _ in range(2)]
    assert all(kept)
    monitor = monitoring.Monitor()
    stats = manager.get_stats()
    monitor.record_resource_usage(
        "connection", stats["connections"], stats["limits"]["max_connections"])
    monitor.record_blocked_resource("connection", "inbound", count=sum(stats["denied"].values()))
    for info in manager.connection_tracker.get_all_connections():
        monitor.record_connection_establishment(
            info.connection_id, str(info.peer_id), direction=info.direction)
    assert monitor.get_metrics_summary()["active_connections"] == 2
    assert [alert.name for alert in monitor.alerts] == ["connection_limit_high"]
    assert 'peer_id="' + str(PEER) in monitor.export_openmetrics()


def test_the_exporter_by_hand_and_as_an_argument() -> None:
    manager: Any = ResourceManager()
    scope = manager.open_connection(PEER)
    exporter = prometheus_exporter.PrometheusExporter(enable_server=False)
    exporter.update_from_metrics(manager.metrics)
    line = 'libp2p_rcmgr_connections{dir="inbound",scope="system"} 1.0'
    assert line in exporter.get_metrics_text()
    scope.close()
    given = prometheus_exporter.PrometheusExporter(enable_server=False)
    fed: Any = ResourceManager(prometheus_exporter=given)
    monitor = monitoring.Monitor(prometheus_exporter=given)
    kept = fed.open_connection(PEER)
    assert kept
    assert fed.prometheus_exporter is given
    text = monitor.get_prometheus_metrics()
    assert text is not None
    assert line in text


def test_the_production_configuration(tmp_path: Any) -> None:
    production = config.ProductionConfig()
    assert production.validate() == []
    file = tmp_path / "config.json"
    production.to_file(str(file))
    again = config.ProductionConfig.from_file(str(file))
    manager: Any = ResourceManager(
        ResourceLimits(again.connections.max_connections, again.memory.max_memory_mb),
        enable_connection_pooling=again.performance.enable_connection_pooling,
        enable_memory_pooling=again.performance.enable_memory_pooling,
        enable_circuit_breaker=again.circuit_breaker.enabled,
        enable_graceful_degradation=again.graceful_degradation.enabled,
        enable_rate_limiting=again.security.enable_rate_limiting,
        connections_per_peer_per_sec=again.security.connection_rate_limit,
    )
    assert manager.scope_limits.system.conns == 10_000
    assert manager.get_stats()["limits"]["max_memory_bytes"] == 1 << 30


def test_the_enhanced_errors() -> None:
    manager: Any = ResourceManager(
        connection_limits=ConnectionLimits(max_established_per_peer=0))
    assert manager.open_connection(PEER) is None
    denial = manager.last_denial
    error = enhanced_errors.create_connection_limit_error(
        "per_peer", denial.limit, denial.current, peer_id=denial.peer_id,
        message=str(denial), metadata=denial.to_dict())
    assert str(PEER) in str(error)
    context = error.error_context.to_dict()
    assert context["metadata"]["code"] == "connection.established_per_peer"
    json.dumps(context)
    stats = manager.memory_stats_cache.get_memory_stats()
    memory = enhanced_errors.create_memory_limit_error(
        "process", 1, stats.process_memory_bytes, stats.system_memory_total,
        stats.system_memory_available, stats.process_memory_bytes)
    assert memory.error_context.process_memory_percent == pytest.approx(
        100 * stats.process_memory_bytes / stats.system_memory_total)


def test_the_pools() -> None:
    manager: Any = ResourceManager(enable_connection_pooling=True, enable_memory_pooling=True)
    block = manager.memory_pool.acquire()
    stats = manager.get_stats()
    assert stats["memory_pool"] == manager.memory_pool.get_stats()
    assert stats["connection_pool"] == manager.connection_pool.get_stats()
    manager.memory_pool.release(block)


def test_the_circuit_breaker_never_opens() -> None:
    manager: Any = ResourceManager(ResourceLimits(max_connections=0))
    assert type(manager.circuit_breaker) is CircuitBreaker
    assert not any(manager.open_connection(PEER) for _ in range(100))
    for _ in range(9):
        with pytest.raises(TypeError):
            manager.acquire_memory("much")
    assert manager.circuit_breaker.is_closed()
    assert manager.get_stats()["circuit_breaker"]["state"] == "closed"
    assert manager.get_stats()["circuit_breaker"]["failure_count"] == 0
    manager.circuit_breaker.state = CircuitBreakerState.OPEN  # by another program part
    manager.limits.max_connections = 1
    assert manager.open_connection(OTHER)
    assert ResourceManager(enable_circuit_breaker=False).circuit_breaker is None
    assert "circuit_breaker" not in ResourceManager(enable_circuit_breaker=False).get_stats()
