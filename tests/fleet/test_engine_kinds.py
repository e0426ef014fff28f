"""A fleet on each kind of engine: over TLS, with a user, a cluster, and engines that fail over."""

from __future__ import annotations

import datetime
import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine_server import (
    Proxy,
    Server,
    comes_true,
    encrypted,
    free_port,
    needs_server,
    running,
)
from fleet_nodes import PEERS, fleet_of, opened, together

from rcmgr import FleetLimits, FleetPlaces, Rate, ResourceManager
from rcmgr.fleet.engine import Engine, EngineError

pytestmark = [needs_server(), pytest.mark.usefixtures("quick")]

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
LIMITS = FleetLimits(
    peer_rate=Rate(0.001, 8), network_rate=Rate(0.001, 8), peer=FleetPlaces(100, 100),
    network=FleetPlaces(100), protocols={"/a": Rate(1, 4)})

Join = Callable[..., ResourceManager]


@pytest.fixture
def join(join: Join) -> Join:
    return lambda url, node: join(url, LIMITS, node)


def share_everything(first: ResourceManager, second: ResourceManager) -> None:
    """Use each kind of limit and a ban on two nodes of a fleet."""
    together(first, second)
    granted = 0
    for _ in range(4):
        for node in (first, second):
            granted += len(opened(node, PEERS[0], 8))
            comes_true(lambda node=node: fleet_of(node).status()["waiting"] == 0)
    assert 8 <= granted <= 8 + 2 * 4
    assert first.open_connection(None, "192.0.2.7", "inbound") is not None
    assert first.acquire_stream(PEERS[0], "inbound")
    assert first.check_protocol_rate_limit("/a", PEERS[0])
    comes_true(lambda: fleet_of(first).status()["waiting"] == 0)
    assert not fleet_of(first).is_lost
    first.ban("192.0.2.0/24", 600, "scans")
    comes_true(lambda: [ban.what for ban in second.bans()] == ["192.0.2.0/24"])
    comes_true(lambda: len(fleet_of(second).nodes()) == 2)
    assert len(fleet_of(second).bans()) == 1
    second.unban("192.0.2.0/24")
    comes_true(lambda: not first.bans())


# -- TLS ---------------------------------------------------------------------------------------


def certificate(folder: Path, *, host: str) -> Path:
    """A file with a certificate for this host that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engine")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256()))
    file = folder / "engine.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    return file


def test_nodes_share_over_tls(tmp_path: Path, join: Join) -> None:
    file = certificate(tmp_path, host="127.0.0.1")
    with running() as server, encrypted(server.port, file) as port:
        url = f"valkeys://127.0.0.1:{port}?ssl_ca_certs={file}"
        share_everything(join(url, "a"), join(url, "b"))


@pytest.mark.parametrize(("host", "trusted", "message"), [
    ("127.0.0.1", False, "CERTIFICATE_VERIFY_FAILED.*self.signed"),
    ("192.0.2.1", True, "CERTIFICATE_VERIFY_FAILED.*IP address mismatch"),
])
def test_an_engine_that_cannot_prove_its_name_is_lost(
    tmp_path: Path, host: str, trusted: bool, message: str
) -> None:
    file = certificate(tmp_path, host=host)
    with running() as server, encrypted(server.port, file) as port:
        options = f"?ssl_ca_certs={file}" if trusted else ""
        engine = Engine(f"valkeys://u:s3cret@127.0.0.1:{port}{options}", 10)
        with pytest.raises(EngineError, match=message) as caught:
            engine.call("ping")
        assert "s3cret" not in str(caught.value)
        engine = Engine(f"valkeys://127.0.0.1:{port}?ssl_cert_reqs=none"
                        "&ssl_check_hostname=false", 10)
        assert engine.call("ping")
        engine.close()


# -- a user ------------------------------------------------------------------------------------


def user_of_the_page() -> list[str]:
    """The words of the command ACL SETUSER on the page."""
    found = re.search(r"ACL SETUSER (node on .*?)\n\n", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1].split()


def test_the_rights_on_the_page_suffice_and_none_is_too_many(join: Join) -> None:
    with running() as server:
        words = [word.replace("PASSWORD", "s3cr@t") for word in user_of_the_page()]
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", *words)
            client.execute_command("ACL", "SETUSER", "default", "off")
        url = f"valkey://node:s3cr%40t@127.0.0.1:{server.port}#edge"
        nodes = [join(url, "a"), join(url, "b")]
        share_everything(*nodes)
        for node in nodes:
            node.close()
        other = Engine(url.replace("#edge", ""), 10)
        for command in (
            ("get", "rcmgr:{other}:bans"), ("publish", "rcmgr:{other}:changes", "x"),
            ("flushall",), ("keys", "*"), ("config_get", "*"),
        ):
            with pytest.raises(EngineError, match=r"permissions|NOPERM"):
                other.call(*command)
        other.close()


# -- several servers ---------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    """Starts servers, and kills them."""
    with ExitStack() as stack:
        yield lambda options, folder=None: stack.enter_context(
            running(*shlex.split(options), folder=folder))


def replica_of(master: Server, started: Callable[..., Server]) -> Server:
    """A replica that has all data of its master."""
    replica = started(f"--replicaof 127.0.0.1 {master.port} --repl-diskless-sync-delay 0")
    with replica.client() as client:
        comes_true(lambda: client.info("replication")["master_link_status"] == "up")
    return replica


def held_by_all(server: Server, peer: bytes) -> list[int]:
    with server.client() as client:
        return sorted(map(int, client.hvals(
            b"rcmgr:{default}:held:peer.connections:" + peer)))


def test_nodes_share_on_a_cluster_of_three(
    tmp_path: Path, join: Join, started: Callable[..., Server]
) -> None:
    servers = []
    for number in range(3):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        servers.append(started(
            f"--cluster-enabled yes --cluster-port {free_port()}", folder))
    for number, server in enumerate(servers):
        with server.client() as client:
            client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", 5462 * number, min(16383, 5462 * number + 5461))
            if number:
                first = servers[0]
                bus = first._options[first._options.index("--cluster-port") + 1]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
    comes_true(lambda: all(is_whole(server) for server in servers))
    urls = [f"valkey+cluster://127.0.0.1:{server.port}" for server in servers]
    share_everything(join(urls[0], "a"), join(urls[2], "b"))


def is_whole(server: Server) -> bool:
    with server.client() as client:
        return bool(client.cluster("INFO")["cluster_state"] == "ok")


def test_a_replica_that_is_promoted_by_hand_goes_on_with_the_same_numbers(
    join: Join, started: Callable[..., Server]
) -> None:
    master = started("--repl-diskless-sync-delay 0")
    replica = replica_of(master, started)
    proxy = Proxy(master.port)
    nodes = [join(proxy.url, name) for name in ("a", "b")]
    together(*nodes)
    held = [scope for node in nodes for scope in opened(node, PEERS[0], 2)]
    nodes[0].ban("192.0.2.7", 600)
    comes_true(lambda: len(nodes[1].bans()) == 1)
    comes_true(lambda: held_by_all(replica, PEERS[0]) == [2, 2])
    with replica.client() as client:
        comes_true(lambda: client.zscore("rcmgr:{default}:bans", "192.0.2.7"))
        master.kill()
        comes_true(lambda: all(fleet_of(node).is_lost for node in nodes))
        client.replicaof("NO", "ONE")
    proxy.target = replica.port
    together(*nodes)
    assert held_by_all(replica, PEERS[0]) == [2, 2]
    assert [len(node.bans()) for node in nodes] == [1, 1]
    assert [fleet_of(node).status()["losses"] for node in nodes] == [1, 1]
    assert len(held) == 4
    proxy.close()


def test_an_engine_that_becomes_a_replica_is_lost(
    join: Join, started: Callable[..., Server]
) -> None:
    """It answers questions, but takes no changes."""
    master, other = started(""), started("--repl-diskless-sync-delay 0")
    node = join(master.url, "a")
    together(node)
    with master.client() as client:
        client.replicaof("127.0.0.1", str(other.port))
        comes_true(lambda: fleet_of(node).is_lost)
        assert len(opened(node, PEERS[0], 9)) == 8
        client.replicaof("NO", "ONE")
    together(node)


def role(server: Server) -> object:
    """None: a sentinel, which ends all connections when it promotes a server, cut us off."""
    import valkey

    try:
        with server.client() as client:
            return client.info("replication")["role"]
    except valkey.ConnectionError:
        return None


def test_a_sentinel_promotes_a_replica_and_the_nodes_follow(
    tmp_path: Path, join: Join, started: Callable[..., Server]
) -> None:
    master = started("--repl-diskless-sync-delay 0")
    replica = replica_of(master, started)
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n")
    sentinel = started(f"{config} --sentinel", tmp_path)
    with sentinel.client() as client:
        comes_true(lambda: client.sentinel_slaves("main"))
    url = f"valkey+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/0"
    nodes = [join(url, name) for name in ("a", "b")]
    share_everything(*nodes)
    master.kill()
    comes_true(lambda: all(fleet_of(node).is_lost for node in nodes))
    comes_true(lambda: role(replica) == "master", seconds=60)
    together(*nodes)
    nodes[1].ban("192.0.2.9", 600)
    comes_true(lambda: len(nodes[0].bans()) == 1)
