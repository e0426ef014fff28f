"""The connection to the engine: its URLs, its errors, and the secrets in them."""

from __future__ import annotations

import re
import socket
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from engine_server import comes_true, free_port, needs_server, running

from rcmgr import Fleet, FleetLimits, NodeLimits, Rate, ResourceManager
from rcmgr.fleet import engine
from rcmgr.fleet.engine import Engine, EngineError, safe_url

SECRET = "s3cr%40t"
PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"


@pytest.mark.parametrize(("url", "shown"), [
    (f"valkey://user:{SECRET}@host:1/2?protocol=3#fleet", "valkey://host:1/2"),
    (f"rediss://:{SECRET}@[::1]:6379", "rediss://[::1]:6379"),
    ("valkey+sentinel://u:p@a:1,b:2/main/0", "valkey+sentinel://a:1,b:2/main/0"),
    ("valkeys+cluster://host", "valkeys+cluster://host"),
    ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
])
def test_the_place_has_no_secret(url: str, shown: str) -> None:
    assert safe_url(url) == shown
    assert repr(Engine(url, 1)) == f"Engine({shown!r})"


@pytest.mark.parametrize(("url", "message"), [
    (f"http://u:{SECRET}@host", "scheme must be one of"), (f"valkey://u:{SECRET}@", "no host"),
    (f"valkey://u:{SECRET}@host:x", "port|Port"), (f"valkey://u:{SECRET}@host:0", "port 0"),
    (f"valkey://u:{SECRET}@host:70000", "range"), (f"valkey+x://u:{SECRET}@h", "scheme"),
    (f"valkey+://u:{SECRET}@h", "scheme"), (f"valkey+sentinel://u:{SECRET}@h", "of the master"),
    ("unix://", "needs the path"), (f"valkey://u:{SECRET}@[h", "IPv6"), ("", "scheme"),
])
def test_a_wrong_url_is_named_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Engine(url, 1)
    assert "s3cr" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", [
    "valkey://u:12/s3cr@h:6379", "valkey://u:12#s3cr@h", "valkey://u:12?s3cr@h",
    "valkey://u:s3cr/x@h", "valkey://u:s3cr\u2100@h", "valkey://u:s3cr#x@h", "valkey://u:s3cr?x@h",
    "valkey://u:[s3cr]@h", "valkey://u:s3cr]@h", "valkey:u:s3cr@h", "s3cr:x@h",
    "valkey+sentinel://a,u:1/s3cr@h/main", "unix://u:12/s3cr@/run/x", "valkey://u:1,s3cr/@h",
])
def test_a_password_that_is_not_escaped_is_in_no_message(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url is no URL of an engine: ") as caught:
        Fleet(url)
    assert "s3cr" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


@pytest.mark.parametrize(("option", "message"), [
    ("foo=s3cr", "'foo' must be one of"), ("Password=s3cr", "'Password' must"),
    ("retry=3", "'retry' must"), ("connection_class=s3cr", "'connection_class' must"),
    ("decode_responses=1", "'decode_responses' must"), ("db=s3cr", "'db' has a wrong value"),
    ("ssl_ca_certs=s3cr", "'ssl_ca_certs' needs valkeys://"), ("protocol=4", "'protocol' has"),
    ("socket_timeout=nan", "'socket_timeout' has"), ("max_connections=-1", "'max_connections'"),
    ("foo", "'foo' must"),
])
def test_a_wrong_option_is_named_without_its_value(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Engine(f"valkey://h?{option}", 1)
    assert "s3cr" not in str(caught.value)


def test_the_page_lists_every_option() -> None:
    lines = PAGE.read_text().partition("| option |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = [name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(listed) == sorted({**engine._OPTIONS, **engine._TLS_OPTIONS})


@pytest.mark.parametrize("password", [
    "a/b", "a#b", "a?b", "a@b", "a:b", "[a]", "100%", "p\u00e4ss", "a b+c&d=e", "%2f"])
def test_an_escaped_password_reaches_the_client_as_it_is(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    import valkey.connection

    seen = options_of(monkeypatch, "Valkey")
    url = f"valkey://user:{quote(password, safe='')}@host"
    with pytest.raises(EngineError, match="made"):
        Engine(url, 1).call("ping")
    assert valkey.connection.parse_url(seen["args"][0])["password"] == password


def test_every_error_of_the_client_is_a_lost_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    import valkey

    def fails(*args: Any, **options: Any) -> Any:
        raise AttributeError("no such thing: s3cr@t")

    monkeypatch.setattr(valkey.Valkey, "from_url", fails)
    fleet = Fleet(f"valkey://u:{SECRET}@h")
    engine = Engine(f"valkey://u:{SECRET}@h", 1)
    for ask in (fleet.nodes, fleet.bans, lambda: engine.call("ping"), lambda: engine.listen("x")):
        with pytest.raises(EngineError, match=r"^AttributeError: no such thing: \*\*\*$"):
            ask()


def test_a_cluster_that_cannot_be_reached_is_a_lost_engine() -> None:
    fleet = Fleet(f"valkey+cluster://127.0.0.1:{free_port()}")
    with pytest.raises(EngineError, match="ValkeyClusterException"):
        fleet.nodes()


def test_a_url_is_text() -> None:
    with pytest.raises(TypeError, match=r"^url must be text such as .*, not bytes"):
        safe_url(b"valkey://host")


def test_without_a_server_the_error_says_so() -> None:
    engine = Engine(f"valkey://u:{SECRET}@127.0.0.1:{free_port()}", 1)
    with pytest.raises(EngineError, match="refused") as caught:
        engine.call("ping")
    assert "s3cr" not in str(caught.value)


@needs_server()
def test_scripts_survive_a_flush() -> None:
    with running() as server:
        engine = Engine(server.url, 10)
        assert engine.run("return ARGV[1]", [b"k"], [b"v"]) == b"v"
        engine.call("script_flush")
        assert engine.run("return ARGV[1]", [b"k"], [b"v"]) == b"v"
        with pytest.raises(EngineError, match="compiling script"):
            engine.run("nonsense(", [], [])
        with pytest.raises(EngineError, match=r"NOSCRIPT|No matching script"):
            engine.call("evalsha", "0" * 40, 0)
        engine.close()
        engine.close()


@needs_server()
def test_users_and_wrong_passwords() -> None:
    users = ["fleet", "on", ">s3cr@t", "~rcmgr:*", "&rcmgr:*", "+@all"]
    with running("--user", *users, "--user", "default", "off") as server:
        good = Engine(f"valkey://fleet:{SECRET}@127.0.0.1:{server.port}", 10)
        assert good.call("set", "rcmgr:x", 1)
        bad = Engine(f"valkey://fleet:{SECRET}x@127.0.0.1:{server.port}", 10)
        with pytest.raises(EngineError, match=r"WRONGPASS|invalid username"):
            bad.call("ping")
        with pytest.raises(EngineError, match=r"permissions|NOPERM"):
            good.call("get", "other")


def options_of(monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, Any]:
    """The arguments with which the client is made."""
    import valkey

    seen: dict[str, Any] = {}

    def make(*args: Any, **options: Any) -> Any:
        seen.update(options, args=args)
        raise OSError("made")

    monkeypatch.setattr(getattr(valkey, name), "from_url", make)
    return seen


@pytest.mark.parametrize(("url", "client", "plain", "checks"), [
    ("valkeys://h:1/0", "Valkey", "valkeys://h:1/0", True),
    ("rediss://h?ssl_check_hostname=false", "Valkey", "rediss://h?ssl_check_hostname=false", None),
    ("valkey://h", "Valkey", "valkey://h", None),
    ("valkeys+cluster://h:1", "ValkeyCluster", "valkeys://h:1", True),
])
def test_tls_checks_the_name_of_the_host(
    monkeypatch: pytest.MonkeyPatch, url: str, client: str, plain: str, checks: bool | None
) -> None:
    seen = options_of(monkeypatch, client)
    with pytest.raises(EngineError, match="made"):
        Engine(url, 0.5).call("ping")
    assert seen["args"] == (plain,)
    assert seen.get("ssl_check_hostname") is checks
    assert seen["socket_timeout"] == seen["socket_connect_timeout"] == 0.5


def test_a_sentinel_without_a_port_has_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def make(sentinels: Any, **options: Any) -> Any:
        seen.update(options, sentinels=sentinels)
        raise OSError("made")

    monkeypatch.setattr("valkey.sentinel.Sentinel", make)
    with pytest.raises(EngineError, match="made"):
        Engine("valkeys+sentinel://u:p@a,b:2/main/3", 0.5).call("ping")
    assert seen["sentinels"] == [("a", 26379), ("b", 2)]
    assert seen["sentinel_kwargs"] == {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    assert (seen["ssl"], seen["db"], seen["username"]) == (True, 3, "u")
    assert seen["socket_timeout"] == 0.5


def answers(engine: Engine, keys: list[str]) -> bool:
    try:
        return bool(engine.run("return #KEYS", keys, []) == 2)
    except EngineError:
        engine.close()
        return False


@needs_server()
def test_a_cluster_and_a_sentinel(tmp_path: Path) -> None:
    bus = str(free_port())
    with running("--cluster-enabled", "yes", "--cluster-port", bus, folder=tmp_path) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        engine = Engine(f"valkey+cluster://127.0.0.1:{server.port}", 10)
        keys = ["rcmgr:{x}:a", "rcmgr:{x}:b"]
        comes_true(lambda: answers(engine, keys))  # a new cluster needs a moment
        assert engine.run("return #KEYS", keys, []) == 2
        engine.close()
    with running() as server:
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
        with running(str(config), "--sentinel", folder=tmp_path) as sentinel:
            engine = Engine(f"valkey+sentinel://127.0.0.1:{sentinel.port}/main/0", 10)
            assert engine.call("set", "rcmgr:x", 1)
            with server.client() as client:
                assert client.get("rcmgr:x") == b"1"
            kept = engine._clients  # a client that is deleted closes its connections
            engine.close()
            with sentinel.client() as client:
                comes_true(lambda: len(client.client_list()) == 1)
            assert len(kept) == 2


def test_a_refused_fleet_keeps_the_tables_of_its_manager() -> None:
    fleet = Fleet(f"valkey://127.0.0.1:{free_port()}", timeout=0.05)
    first = ResourceManager(NodeLimits(fleet=FleetLimits(rate=Rate(1, 5))), fleet=fleet)
    shares = fleet._shares
    with pytest.raises(ValueError, match="belongs to one manager"):
        ResourceManager(fleet=fleet)
    assert fleet._shares is fleet._member.shares is shares
    first.close()
    with pytest.raises(ValueError, match="is closed"):
        ResourceManager(fleet=fleet)


def test_a_closed_fleet_is_refused() -> None:
    fleet = Fleet("valkey://h")
    fleet.close()
    with pytest.raises(ValueError, match="this Fleet is closed"):
        ResourceManager(fleet=fleet)
    assert fleet._shares is None


def test_a_failed_manager_leaves_no_server_and_no_thread() -> None:
    port = free_port()
    closed = Fleet("valkey://h")
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        ResourceManager(fleet=closed, enable_prometheus=True, prometheus_port=port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))  # OSError: its server was left running
        taken.listen()
        fleet = Fleet("valkey://h")
        with pytest.raises(OSError, match="in use"):
            ResourceManager(fleet=fleet, enable_prometheus=True, prometheus_port=port)
        assert not fleet._member._threads


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^name must be 1 to 64"):
        Fleet("valkey://h", name="")
