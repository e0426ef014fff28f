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


class Kept:
    """An engine that keeps these replies. Its clock shows 1000.5 seconds."""

    def __init__(self, **replies: Any) -> None:
        self._replies = replies

    def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        if command == "time":
            return (b"1000", b"500000")
        if command == "zrange":
            assert arguments[1:] == (0, -1)
            assert options == {"withscores": True}
        return self._replies.get(arguments[0].removeprefix("p:"), {})


def test_bans_end_at_the_time_of_the_engine() -> None:
    found = read_bans(Kept(  # type: ignore[arg-type]
        bans=[(b"now", 1_000_500_000.0), (b"soon", 1_000_500_001.0), (b"!g", -7.0),
              (b"late", 1_060_500_000.0), (b"never", math.inf)],
        reasons={b"late": b'{"reason": "r", "times": 0}'}), "p:")
    assert {what: ban.seconds_left for what, ban in found.bans.items()} == {
        "soon": 1e-6, "late": 60.0, "never": math.inf}
    assert [each["what"] for each in found.listed()] == ["soon", "late", "never"]
    assert (found.generation, found.version) == (7, 0)
    assert found.bans["late"].reason == "r"


def test_an_engine_without_bans_has_no_version() -> None:
    found = read_bans(Kept(), "p:")  # type: ignore[arg-type]
    assert (found.bans, found.generation, found.version) == ({}, 0, 0)


def test_nodes_are_as_old_as_the_engine_says() -> None:
    use = {"node": "N", "connections": (1 << 62) - 1, "streams": 1 << 62, "denied": True}
    found = read_nodes(Kept(  # type: ignore[arg-type]
        nodes=[(b"late", 995_500_000.0), (b"too late", 995_499_999.0), (b"n", 999_000_000.0)],
        use={b"n": json.dumps(use).encode()}), "p:")
    assert [(each["node"], each["seconds_ago"]) for each in found] == [("N", 1.5), ("late", 5.0)]
    assert (found[0]["connections"], found[0]["streams"], found[0]["denied"]) == (
        (1 << 62) - 1, 0, 0)


@pytest.mark.parametrize("times", [0, 1, (1 << 31) - 1])
def test_the_number_of_bans_is_kept(times: int) -> None:
    assert ban_from("x", 1.0, {"times": times}).times == times


def test_a_ban_keeps_what_its_node_wrote() -> None:
    said = {"reason": "r", "by": "penalty box", "times": 2, "node": "n" * 500, "from": "id"}
    ban = ban_from("x", 1.0, said)
    assert (ban.reason, ban.by, ban.times, ban.origin) == ("r", "penalty box", 2, "id")
    assert len(ban.node) <= 160


@needs_server()
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


def test_bans_and_nodes_are_listed_whole() -> None:
    said = {"reason": "r", "by": "penalty box", "times": 2, "node": "n", "from": "id"}
    use = {"node": "N", "connections": 1, "streams": 2, "peers": 3, "denied": 4, "calls": 5,
           "denied_by": {"x": 6, "y": "7", "z" * 500: 8}}
    kept: Any = Kept(
        bans=[(b"net", 1_002_000_000.0), (b"\xff", math.inf)],
        reasons={b"net": json.dumps(said).encode(), b"\xff": b"[" * 100_000},
        nodes=[(b"b", 1_001_500_000.0), (b"a", 1_000_000_000.0), (b"\xff", 1_000_500_000.0)],
        use={b"a": json.dumps(use).encode(), b"b": b"5", b"\xff": b'{"denied_by": 5}'})
    del said["from"]
    assert read_bans(kept, "p:").listed() == [
        {"what": "net", "seconds_left": 1.5, **said},
        {"what": "\ufffd", "seconds_left": None, "reason": "", "by": "operator", "times": 0,
         "node": ""}]
    nothing = dict.fromkeys(("connections", "streams", "peers", "denied", "calls"), 0)
    first, *others = read_nodes(kept, "p:")
    long_name = list(first["denied_by"])[1]
    assert first == {**use, "seconds_ago": 0.5, "denied_by": {"x": 6, long_name: 8}}
    assert len(long_name) <= 160
    assert others == [
        {"node": "b", "seconds_ago": 0.0, **nothing, "denied_by": {}},
        {"node": "\ufffd", "seconds_ago": 0.0, **nothing, "denied_by": {}}]
