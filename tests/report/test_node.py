"""Reports and commands use all attributes of `Node`, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from rcmgr import (
    AddressRates,
    ConnectionRateLimits,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.report.explain import explain
from rcmgr.report.metrics import MetricsCollector
from rcmgr.report.node import Node
from rcmgr.report.node_commands import answer_to
from rcmgr.report.stats import stats_of
from rcmgr.report.status import status_of
from rcmgr.report.usage import usages

READABLE = {name for name in vars(Node) if not name.startswith("_")}


class OnlyNode:
    """A manager of which only the attributes of `Node` can be read."""

    def __init__(self, manager: ResourceManager) -> None:
        self._manager = manager
        self._read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        assert name in READABLE
        self._read.add(name)
        return getattr(self._manager, name)


def test_reports_and_commands_use_all_of_a_node_and_no_more(tmp_path: Path) -> None:
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits(), rates=AddressRates(ipv4=((32, Rate(5, 50)),))),
        connection_rate_limits=ConnectionRateLimits(per_peer=Rate(3, 30)),
    )
    manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(1, 1)))
    node: Any = OnlyNode(manager)
    assert explain(node) == manager.explain()
    assert json.loads(json.dumps(status_of(node)))["stats"] == manager.get_stats()
    assert stats_of(node) == manager.get_stats()
    assert usages(node) == usages(manager)
    registry = CollectorRegistry()
    registry.register(MetricsCollector(node))
    assert b"rcmgr_peers" in generate_latest(registry)
    address = {"what": "192.0.2.1"}
    commands: dict[str, dict[str, object]] = {
        "ban": address, "unban": address, "allow": address, "bans": {},
        "set": {"key": "System.Conns", "value": 9},
        "record": {"file": str(tmp_path / "node.rec")}, "stop_recording": {},
    }
    for command, arguments in commands.items():
        answer = answer_to(node, json.dumps({"do": command, **arguments}).encode())
        assert isinstance(answer, bytes)
        assert "error" not in json.loads(answer)
    assert node._read == READABLE
