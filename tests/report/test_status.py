"""The status document of a node."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceLimits, ResourceManager
from rcmgr.counting.groups import Refusal
from rcmgr.errors import shortened
from rcmgr.report.status import is_complete, status_of

PEER = b"\x12\x20" + b"p" * 32


@pytest.fixture
def manager() -> ResourceManager:
    """One connection of one is open, and one more was denied."""
    manager = ResourceManager(ResourceLimits(max_connections=1))
    manager.kept = [  # type: ignore[attr-defined]
        manager.open_connection(PEER, "192.0.2.7") for _ in range(2)]
    return manager


def test_the_document_of_a_full_node(manager: ResourceManager) -> None:
    before = time.time()
    status = json.loads(json.dumps(status_of(manager)))
    assert before <= status["time"] <= time.time()
    assert status["pid"] == os.getpid()
    assert status["stats"] == json.loads(json.dumps(manager.get_stats()))
    assert status["usage"][0] == {
        "limit": "system conns", "used": 1, "of": 1, "share": 1.0, "peak": 1}
    assert status["peak"]["conns"] == 1
    assert status["scopes"]["system"]["conns_inbound"] == 1
    assert status["peak_states"] == {
        "pending_inbound": 0, "pending_outbound": 0, "established_inbound": 1,
        "established_outbound": 0, "established_per_peer": 1, "established_total": 1,
    }
    assert status["denials"] == {
        "total": 1, "inbound": 1, "outbound": 0, "by_limit": {"system connection": 1},
        "by_peer": [{"peer": "QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB", "times": 1}],
        "by_address": [{"address": "192.0.2.7", "times": 1}],
    }
    (denial,) = status["latest_denials"]
    assert denial["code"] == "connection.system.conns"
    assert denial["inbound"] is True
    assert status["explanation"] == manager.explain()


@pytest.mark.parametrize("missing", [
    None, "rcmgr", "pid", "time", "explanation", "stats", "usage", "latest_denials", "denials"])
def test_a_document_is_complete_with_all_its_parts(
    manager: ResourceManager, missing: str | None
) -> None:
    status: dict[str, Any] = status_of(manager)
    if missing is not None:
        del status[missing]
    assert is_complete(status) == (missing is None)


def test_names_that_peers_choose_do_not_fill_the_document() -> None:
    """Every denial has the longest name that a stream can have."""
    manager = ResourceManager(NodeLimits(ConcreteLimits(
        protocol={f"/{number}/" + "\x1b" * 65_000: Limit(streams=1) for number in range(50)},
        protocol_default=Limit(streams=0))))
    kept = []
    for number in range(150):
        name = f"/{number}/" + "\x1b" * 65_000
        stream = manager.open_stream(b"\x12\x20" + number.to_bytes(32, "big"), "inbound")
        assert stream is not None
        taken = stream.try_set_protocol(name)
        if isinstance(taken, Refusal):
            manager.denials.add(taken, None, f"peer {name}", True)
            stream.close()
        else:
            kept.append(stream)
    status = status_of(manager)
    assert len(json.dumps(status)) < 1 << 20
    latest = manager.denials.entries()[-50:]
    assert [each["peer_id"] for each in status["latest_denials"]] == [
        shortened(each.error.to_dict()["peer_id"]) for each in latest]
    assert all(each["setting"] in each["message"] for each in status["latest_denials"])
