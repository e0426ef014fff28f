"""The events of a node for readers, fast ones and slow ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from model import Clock

from rcmgr import ConnectionLimits, DryRun, NodeLimits, ResourceManager
from rcmgr.report.watch import KINDS, Watch

PEER = b"\x12\x20" + b"p" * 32
ADDRESS = "192.0.2.7"


def names(watch: Watch) -> list[str]:
    return [event["event"] for event in watch.new_events()]


def test_each_kind_of_event() -> None:
    clock = Clock()
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_established_inbound=1)), clock=clock)
    with Watch(manager) as watch:
        assert watch.kinds == KINDS
        assert watch.new_events() == []
        held = manager.open_connection(None, ADDRESS)
        assert held
        [event] = watch.new_events()
        assert json.loads(json.dumps(event)) == event
        assert event.pop("time") > 0
        assert event == {
            "event": "pending", "connection_id": held.connection_id, "peer": None,
            "address": ADDRESS, "inbound": True}
        second = manager.open_connection(PEER, ADDRESS)
        assert second
        assert manager.open_connection(PEER, ADDRESS) is None
        events = watch.new_events()
        assert [each["event"] for each in events] == ["established", "denied"]
        assert events[1]["code"] == "connection.established_inbound"
        assert events[1]["inbound"] is True
        clock.advance(3)
        second.close()
        [closed] = watch.new_events()
        assert closed["event"] == "closed"
        assert closed["seconds"] == 3
        manager.ban("192.0.2.9", reason="x")
        manager.unban("192.0.2.9")
        manager.ban("192.0.2.8", 60)
        assert names(watch) == ["banned"]
        manager.unban("192.0.2.8")
        [event] = watch.new_events()
        assert (event["event"], event["what"]) == ("unbanned", "192.0.2.8")
        manager.node_limits = replace(
            manager.node_limits, connections=ConnectionLimits(max_established_inbound=5))
        [event] = watch.new_events()
        assert event["changes"] == [
            {"limit": "Connections.max_established_inbound", "before": "1", "after": "5"}]
    held.close()
    assert watch.new_events() == []


def test_a_reader_may_choose_kinds() -> None:
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_pending_inbound=0),
        dry_run=DryRun(frozenset(["connection"]))))
    with Watch(manager, ["would_deny"]) as watch:
        manager.ban("192.0.2.9")
        assert manager.open_connection(None, ADDRESS)
        [event] = watch.new_events()
        assert (event["event"], event["enforced"]) == ("would_deny", False)
    with pytest.raises(ValueError, match=r"kinds must be of connections, .*, not 'bns'; did you"):
        Watch(manager, ["bns"])


def test_what_a_slow_reader_missed_is_counted() -> None:
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_pending_inbound=0)), denials_kept=4)
    with Watch(manager, ["denied"]) as watch:
        for _ in range(10):
            manager.open_connection(None, ADDRESS)
        *denied, last = watch.new_events()
        assert [each["event"] for each in denied] == ["denied"] * 4
        assert (last["event"], last["events"]) == ("left_out", 6)
        assert watch.new_events() == []


def test_many_steps_wait_for_no_reader() -> None:
    manager = ResourceManager(NodeLimits())
    with Watch(manager, ["connections"]) as watch:
        for _ in range(2500):
            manager.open_connection(None, ADDRESS).close()
        events = watch.new_events()
        assert len(events) == 4097
        assert events[-1]["events"] == 5000 - 4096


def test_only_a_watched_node_pays() -> None:
    manager = ResourceManager(NodeLimits())
    calls: list[str] = []
    stop: Callable[[], Any] = manager.connection_tracker._watch_steps(
        lambda state, record: calls.append(state))
    manager.open_connection(None, ADDRESS).close()
    stop()
    manager.open_connection(None, ADDRESS).close()
    assert calls == ["pending_inbound", "closed"]
