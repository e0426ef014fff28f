"""Nodes and bans as the engine keeps them. Any program may have written them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from engine_server import Server, needs_server, running

from rcmgr.fleet.engine import Engine
from rcmgr.fleet.reading import FleetBan, ban_from, read_bans, read_nodes

pytestmark = needs_server()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.mark.parametrize("said", [
    None, 5, [], {}, {"reason": 5, "by": "me", "times": -1, "node": [], "from": 7},
    {"times": True}, {"times": 1 << 40},
])
def test_a_ban_with_foreign_values_is_a_plain_one(said: Any) -> None:
    assert ban_from("x", 1.0, said) == FleetBan("x", 1.0, "", "operator", 0, "", "")


def test_a_ban_keeps_what_its_node_wrote() -> None:
    said = {"reason": "r", "by": "penalty box", "times": 2, "node": "n" * 500, "from": "id"}
    ban = ban_from("x", 1.0, said)
    assert (ban.reason, ban.by, ban.times, ban.origin) == ("r", "penalty box", 2, "id")
    assert len(ban.node) <= 160


def test_bans_and_nodes(server: Server) -> None:
    engine = Engine(server.url, 10)
    assert read_bans(engine, "p:").listed() == []
    assert read_nodes(engine, "p:") == []
    with server.client() as client:
        seconds, _ = client.time()
        now = seconds * 1_000_000
        client.zadd("p:bans", {
            "!g": -7, "!v": -3, "old": now - 10**6, "a peer": math.inf, "net": now + 60 * 10**6})
        client.hset("p:reasons", mapping={"a peer": "[", "net": json.dumps({"node": "n"})})
        soon = now + 4 * 10**6  # the clock of another engine may differ, and this test may be slow
        client.zadd("p:nodes", {
            "a": soon, "b": soon, "dead": now - 6 * 10**6, "of the future": now + 60 * 10**6})
        client.hset("p:use", mapping={
            "a": json.dumps({"node": "A", "connections": 3, "denied": -1, "denied_by": {"x": 1}}),
            "b": b"\xff"})
    bans = read_bans(engine, "p:")
    assert (bans.generation, bans.version) == (7, 3)
    assert [(each["what"], each["node"]) for each in bans.listed()] == [
        ("net", "n"), ("a peer", "")]
    assert bans.listed()[1]["seconds_left"] is None
    first, second = read_nodes(engine, "p:")
    assert (first["node"], first["connections"], first["denied"]) == ("A", 3, 0)
    assert first["denied_by"] == {"x": 1}
    assert (second["node"], second["connections"]) == ("b", 0)
    engine.close()
