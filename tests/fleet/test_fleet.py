"""Managers that share a fleet on a real server, and what a loss of the server does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from engine_server import Proxy, Server, comes_true, free_port, needs_server, running
from fleet_nodes import PEERS, fleet_of, opened, together

from rcmgr import Fleet, FleetLimits, FleetPlaces, NodeLimits, Rate, RateLimits, ResourceManager

pytestmark = [needs_server(), pytest.mark.usefixtures("quick")]


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    with shared.client() as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return shared


def test_a_peer_has_one_budget_on_all_nodes(server: Server, join: Any) -> None:
    limits = FleetLimits(peer_rate=Rate(0.01, 6))
    nodes = [join(server.url, limits) for _ in range(3)]
    together(*nodes)
    got = 0
    for _ in range(10):
        for node in nodes:
            got += len(opened(node, PEERS[0], 10))
            comes_true(lambda node=node: fleet_of(node).status()["waiting"] == 0)
    # burst, and an advance of two for each node
    assert 6 <= got <= 6 + 3 * 2
    error = nodes[0].last_denial
    assert error is not None
    assert (error.code, error.setting) == ("fleet.peer_rate", "FleetLimits.peer_rate")


def test_connections_and_streams_of_a_peer_are_counted_everywhere(
    server: Server, join: Any
) -> None:
    limits = FleetLimits(peer=FleetPlaces(connections=4, streams=6))
    nodes = [join(server.url, limits) for _ in range(2)]
    together(*nodes)
    held = []
    for _ in range(5):
        for node in nodes:
            held += opened(node, PEERS[1], 4)
            comes_true(lambda node=node: fleet_of(node).status()["waiting"] == 0)
    assert 4 <= len(held) <= 4 + 2 * 2
    streams = sum(
        node.acquire_stream(PEERS[1], "inbound") for node in nodes for _ in range(6))
    assert 6 <= streams <= 6 + 2 * 3
    assert nodes[1].acquire_stream(PEERS[1], "outbound")  # the node's own
    nodes[0].close()  # its places are free again
    for scope in held:
        scope.close()
    comes_true(lambda: len(opened(nodes[1], PEERS[1], 1)) == 1)


def test_networks_share_a_budget_too(server: Server, join: Any) -> None:
    limits = FleetLimits(
        network_rate=Rate(0.01, 8), network=FleetPlaces(connections=6), ipv4_prefix=24)
    nodes = [join(server.url, limits) for _ in range(2)]
    together(*nodes)
    held = [
        scope for last in range(20) for node in nodes
        if (scope := node.open_connection(None, f"192.0.2.{last}", "inbound")) is not None]
    assert 6 <= len(held) <= 6 + 2 * 3
    assert {error.code for node in nodes for error in node.denials} <= {
        "fleet.network.connections", "fleet.network_rate"}
    assert nodes[0].open_connection(None, "127.0.0.1", "inbound") is not None


def test_protocols_share_a_budget_too(server: Server, join: Any) -> None:
    limits = FleetLimits(
        protocols={"/a": Rate(0.01, 6)}, protocol_peers={"/b": Rate(0.01, 2)})
    nodes = [join(server.url, limits) for _ in range(2)]
    nodes[0].add_protocol_rate_limiter("/b", RateLimits())
    together(*nodes)
    granted = sum(
        node.check_protocol_rate_limit("/a", peer) for peer in PEERS for node in nodes)
    assert granted <= 6 + 2 * 3
    of_one = sum(
        node.check_protocol_rate_limit("/b", PEERS[0]) for node in nodes for _ in range(9))
    assert of_one <= 4
    assert nodes[0].last_denial is not None
    assert nodes[0].last_denial.setting == "FleetLimits.protocol_peers"


def test_the_whole_fleet_has_one_rate(server: Server, join: Any) -> None:
    nodes = [join(server.url, FleetLimits(rate=Rate(0.01, 10))) for _ in range(2)]
    together(*nodes)
    granted = sum(len(opened(node, peer, 3)) for peer in PEERS for node in nodes)
    assert granted <= 10 + 2 * 5
    assert granted >= 10
    assert nodes[0].last_denial is not None
    assert "connections of the fleet" in str(nodes[0].last_denial)


def test_a_ban_anywhere_is_a_ban_everywhere(server: Server, join: Any) -> None:
    nodes = [join(server.url, node=f"node-{number}") for number in range(3)]
    together(*nodes)
    nodes[0].ban("192.0.2.0/24", 600, "scans")
    nodes[1].ban(PEERS[0])
    comes_true(lambda: all(len(node.bans()) == 2 for node in nodes))
    ban = nodes[2].bans()[0]
    assert (ban.what, ban.reason, ban.by) == ("192.0.2.0/24", "scans", "operator")
    assert ban.node == "node-0"
    assert 590 < ban.seconds_left <= 600
    assert nodes[0].bans()[0].node == ""
    assert nodes[2].open_connection(PEERS[0], "198.51.100.1", "inbound") is None
    late = join(server.url, node="late")
    comes_true(lambda: len(late.bans()) == 2)
    assert [each["node"] for each in fleet_of(late).bans()] == ["node-0", "node-1"]
    assert late.unban(PEERS[0])
    comes_true(lambda: all(len(node.bans()) == 1 for node in (*nodes, late)))


def test_nodes_show_their_use(server: Server, join: Any) -> None:
    limits = FleetLimits(peer_rate=Rate(0.001, 1))
    nodes = [join(server.url, limits, f"node-{at}") for at in range(2)]
    together(*nodes)
    held = opened(nodes[0], PEERS[0], 3)
    comes_true(lambda: [each["connections"] for each in fleet_of(nodes[1]).nodes()] == [1, 0])
    first = fleet_of(nodes[1]).nodes()[0]
    assert (first["node"], first["peers"], first["denied"]) == ("node-0", 1, 2)
    status = fleet_of(nodes[0]).status()
    assert (status["node"], status["nodes"], status["losses"]) == ("node-0", 2, 0)
    json.dumps(status)
    assert len(held) == 1


@pytest.mark.parametrize("fault", ["killed", "paused", "cut", "slow", "full", "wrong type"])
def test_a_node_goes_on_without_the_engine_and_comes_back(
    fault: str, join: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [each.message for each in caplog.records if each.name == "rcmgr.fleet"]

    with running() as server:
        proxy = Proxy(server.port)
        client = server.client()
        node = join(proxy.url, FleetLimits(peer_rate=Rate(0.01, 4), peer=FleetPlaces(100)))
        together(node)
        if fault == "killed":
            server.kill()
        elif fault == "paused":
            server.pause()
        elif fault == "cut":
            proxy.cut_off()
        elif fault == "slow":
            proxy.passes.clear()
        elif fault == "full":
            client.config_set("maxmemory", 1)
        else:
            client.delete("rcmgr:{default}:nodes")
            client.set("rcmgr:{default}:nodes", "a string")
        comes_true(lambda: fleet_of(node).is_lost)
        held = opened(node, PEERS[0], 9)
        assert len(held) == 4  # its share
        assert len(opened(node, PEERS[1], 9)) == 4
        comes_true(said)
        assert len(said()) == 1
        assert "is lost" in said()[0]
        assert "1/1 of the limits" in said()[0]
        if fault == "killed":
            server.start()
        elif fault == "paused":
            server.resume()
        elif fault == "cut":
            proxy.cut = False
        elif fault == "slow":
            proxy.passes.set()
        elif fault == "full":
            client.config_set("maxmemory", 0)
        else:
            client.delete("rcmgr:{default}:nodes")
        comes_true(lambda: not fleet_of(node).is_lost)
        comes_true(lambda: len(said()) == 2)
        assert "answers again" in said()[1]
        key = b"rcmgr:{default}:held:peer.connections:" + PEERS[0]
        opened(node, PEERS[0], 1)  # the engine learns what the node holds now
        comes_true(lambda: client.hvals(key) == [b"4"])
        assert fleet_of(node).status()["losses"] == 1
        client.close()
        node.close()
        proxy.close()


def test_an_engine_that_was_emptied_learns_everything_again_once(
    server: Server, join: Any
) -> None:
    nodes = [join(server.url, FleetLimits(peer=FleetPlaces(20)), f"node-{at}") for at in range(2)]
    together(*nodes)
    held = [scope for node in nodes for scope in opened(node, PEERS[0], 3)]
    nodes[0].ban("192.0.2.7", 600)
    comes_true(lambda: all(len(node.bans()) == 1 for node in nodes))
    key = b"rcmgr:{default}:held:peer.connections:" + PEERS[0]
    with server.client() as client:
        comes_true(lambda: sorted(client.hvals(key)) == [b"3", b"3"])
        client.flushall()
        client.script_flush()
        comes_true(lambda: sorted(client.hvals(key)) == [b"3", b"3"])
        comes_true(lambda: client.zscore("rcmgr:{default}:bans", "192.0.2.7"))
        client.delete("rcmgr:{default}:bans")  # evicted alone
        comes_true(lambda: client.zscore("rcmgr:{default}:bans", "192.0.2.7"))
    assert all(len(node.bans()) == 1 for node in nodes)
    assert len(held) == 6


def test_a_ban_that_ended_elsewhere_during_a_cut_ends_here(server: Server, join: Any) -> None:
    proxy = Proxy(server.port)
    near, far = join(server.url, node="near"), join(proxy.url, node="far")
    together(near, far)
    near.ban("192.0.2.1")
    far.ban("192.0.2.2")
    comes_true(lambda: len(near.bans()) == len(far.bans()) == 2)
    comes_true(lambda: fleet_of(far)._member._bans.waiting == 0)  # otherwise it tells it again
    proxy.cut_off()
    comes_true(lambda: fleet_of(far).is_lost)
    near.unban("192.0.2.1")
    near.unban("192.0.2.2")
    far.ban("192.0.2.3")
    proxy.cut = False
    comes_true(lambda: [ban.what for ban in far.bans()] == ["192.0.2.3"])
    comes_true(lambda: [ban.what for ban in near.bans()] == ["192.0.2.3"])
    far.close()
    proxy.close()


def test_refuse_on_loss() -> None:
    limits = FleetLimits(peer_rate=Rate(1, 100), on_loss="refuse")
    manager = ResourceManager(
        NodeLimits(fleet=limits), fleet=f"valkey://u:s3cret@127.0.0.1:{free_port()}")
    assert opened(manager, PEERS[0], 3) == []
    assert manager.open_connection(PEERS[0], direction="outbound") is not None
    manager.close()


def test_ten_million_made_up_peers_take_a_bounded_number_of_keys(
    server: Server, join: Any
) -> None:
    """A sample of them: the tables of the node and of the engine have the same limit."""
    limits = FleetLimits(peer_rate=Rate(0.001, 2), most_keys=100)
    nodes = [join(server.url, limits) for _ in range(2)]
    together(*nodes)
    for number in range(20_000):
        for node in nodes:
            node._admission.fleet.peer_rate.try_consume(b"%d" % number)
    with server.client() as client:
        comes_true(lambda: client.zcard("rcmgr:{default}:rate:peer_rate") == 100)
        calls = fleet_of(nodes[0]).status()["calls"]
        comes_true(lambda: fleet_of(nodes[0]).status()["calls"] > calls + 5)
        assert client.zcard("rcmgr:{default}:rate:peer_rate") == 100
        keys = client.keys("*")
        assert all(key.startswith(b"rcmgr:{default}:") for key in keys)
        assert len(keys) < 10
        assert all(client.pttl(key) > 0 for key in keys)


def test_new_limits_apply_and_unchanged_ones_keep_their_state(server: Server, join: Any) -> None:
    rate = Rate(0.001, 2)
    node = join(server.url, FleetLimits(peer_rate=rate))
    together(node)
    assert len(opened(node, PEERS[0], 9)) == 2
    node.node_limits = NodeLimits(fleet=FleetLimits(peer_rate=rate, peer=FleetPlaces(3)))
    assert opened(node, PEERS[0], 9) == []
    node.node_limits = NodeLimits(fleet=FleetLimits(peer=FleetPlaces(3)))
    assert len(opened(node, PEERS[0], 9)) == 3
    node.node_limits = NodeLimits()
    assert len(opened(node, PEERS[0], 9)) == 9


def test_the_environment_names_a_fleet(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("RCMGR_FLEET", f"{server.url}#edge")
    manager = ResourceManager()
    assert fleet_of(manager).name == "edge"
    assert ResourceManager(fleet="").fleet is None
    comes_true(lambda: not fleet_of(manager).is_lost)
    manager.close()
    monkeypatch.setenv("RCMGR_FLEET", "http://u:s3cret@x")
    with pytest.raises(ValueError, match=r"^RCMGR_FLEET: url is no URL of an engine") as caught:
        ResourceManager()
    assert "s3cret" not in str(caught.value)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^fleet must be a rcmgr.Fleet or a URL, not int"):
        ResourceManager(fleet=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^name must be 1 to 64 printable characters"):
        Fleet("valkey://h", name="a{b")
    with pytest.raises(TypeError, match=r"^node must be text, not 5"):
        Fleet("valkey://h", node=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^timeout must be 0.05 to 60"):
        Fleet("valkey://h", timeout=0)
    fleet = Fleet("valkey://u:s3cret@h:1", name="f", node="n")
    assert repr(fleet) == "Fleet('valkey://h:1', name='f', node='n')"
    manager = ResourceManager(fleet=fleet)
    with pytest.raises(ValueError, match="a Fleet belongs to one manager"):
        ResourceManager(fleet=fleet)
    assert "s3cret" not in json.dumps(fleet.status())
    manager.close()
    manager.close()


def test_limits_without_a_fleet_warn(caplog: pytest.LogCaptureFixture) -> None:
    ResourceManager(NodeLimits(fleet=FleetLimits()))
    assert "this node is in no fleet" in caplog.text


def test_without_a_fleet_nothing_is_imported() -> None:
    code = (
        "import sys, rcmgr; m = rcmgr.ResourceManager(rcmgr.NodeLimits.default());"
        "m.open_connection(b'peer').close(); m.ban('192.0.2.1'); m.close();"
        "print(*(n for n in sys.modules if n.startswith(('rcmgr.fleet', 'valkey'))))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []
