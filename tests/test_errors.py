from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import logging
import math
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import pytest
from libp2p_values import ID

import rcmgr
import rcmgr.errors
from rcmgr import (
    AddressLimitExceeded,
    Banned,
    ConnectionEvicted,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    FleetLimitExceeded,
    MemoryReservationExceeded,
    MemoryUsageLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.errors import link_upstream, printable_name

PEER = ID(b"\x00\x01peer")

ERRORS = [
    ConnectionLimitExceeded(10, 11, ConnectionLimitKind.PENDING_INBOUND, "c", PEER),
    StreamLimitExceeded("system", "inbound stream", 5, 1, 5, peer_id=PEER),
    MemoryReservationExceeded("system", "memory", 90, 20, 100),
    ResourceLimitExceeded("full"),
    ResourceScopeClosed("manager"),
]


@pytest.mark.parametrize("kind", ConnectionLimitKind)
def test_message_of_a_connection_denial(kind: ConnectionLimitKind) -> None:
    """As section 4.1 of the enhancement plan asks."""
    error = ConnectionLimitExceeded(limit=10, current=11, kind=kind)
    expected = f"Connection limit exceeded: {kind.value} (current: 11, limit: 10)"
    assert str(error) == error.message == expected
    assert (error.connection_id, error.peer_id) == (None, None)


def test_the_values_of_kinds_are_stable() -> None:
    assert [kind.value for kind in ConnectionLimitKind] == [
        "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
        "established_per_peer", "established_total", "connections",
    ]


def test_the_fields_of_each_error() -> None:
    error = ConnectionLimitExceeded(1, 2, ConnectionLimitKind.CONNECTIONS, "c", PEER)
    assert (error.limit, error.current, error.kind, error.connection_id, error.peer_id) == (
        1, 2, ConnectionLimitKind.CONNECTIONS, "c", PEER)
    assert error.resource_type == "connection"
    assert "connection_id='c'" in repr(error)
    stream = StreamLimitExceeded("system", "stream", 6, 1, 5, peer_id=PEER)
    assert (stream.limit, stream.current, stream.resource, stream.peer_id) == (
        5, 6, "stream", PEER)
    assert str(stream).startswith("system: cannot reserve stream: resource limit exceeded")
    memory = MemoryReservationExceeded("system", "memory", 90, 20, 100)
    assert (memory.limit, memory.current, memory.requested, memory.available) == (100, 90, 20, 10)
    assert str(memory).startswith("system: resource limit exceeded (current: 90")
    assert isinstance(stream, ScopeLimitExceeded)
    assert isinstance(memory, ScopeLimitExceeded)
    for type_, arguments in ((ConnectionLimitExceeded, 3), (StreamLimitExceeded, 5),
                             (MemoryReservationExceeded, 5)):
        with pytest.raises(TypeError, match="required positional argument"):
            type_(*[1] * (arguments - 1))
    assert str(ResourceScopeClosed()) == "resource manager: resource scope closed"
    assert ResourceScopeClosed("scope").message == "scope: resource scope closed"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_pickle_and_copy(error: Any) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), repr(twin), twin.args) == (str(error), repr(error), error.args)
        assert twin.__dict__ == error.__dict__


@pytest.mark.libp2p
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_py_libp2ps_clauses_catch_our_errors(error: Any) -> None:
    import libp2p.rcmgr.exceptions as upstream

    theirs = (
        upstream.ResourceScopeClosed
        if isinstance(error, ResourceScopeClosed)
        else upstream.ResourceLimitExceeded
    )
    with pytest.raises(theirs) as caught:
        raise error
    assert caught.value is error
    assert isinstance(error, upstream.ResourceManagerException)
    # handlers written against upstream's class read these
    assert error.message == str(error)
    assert error.scope_name is None or isinstance(error.scope_name, str)


@pytest.mark.libp2p
def test_the_base_class_is_made_like_any_exception() -> None:
    """Also with libp2p, whose constructor sets a `message`."""
    import libp2p.rcmgr  # noqa: F401

    assert link_upstream()
    assert str(ResourceLimitExceeded("full")) == "full"
    assert ResourceLimitExceeded("full").message == "full"
    assert ResourceLimitExceeded("full").args == ("full",)

    class Mine(ResourceLimitExceeded):
        pass

    with pytest.raises(ResourceLimitExceeded, match=r"^mine$"):
        raise Mine("mine")


@pytest.mark.libp2p
def test_a_denial_does_not_catch_others() -> None:
    from libp2p.rcmgr.exceptions import ResourceLimitExceeded as Upstream

    assert issubclass(ConnectionLimitExceeded, Upstream)
    assert not issubclass(Upstream, ResourceLimitExceeded)
    assert not issubclass(ResourceScopeClosed, Upstream)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CATCH = """
import sys
from libp2p.rcmgr.exceptions import ResourceLimitExceeded, ResourceScopeClosed
for error, theirs in (
    (rcmgr.ConnectionLimitExceeded(1, 1, kind), ResourceLimitExceeded),
    (rcmgr.StreamLimitExceeded("system", "stream", 1, 1, 1), ResourceLimitExceeded),
    (rcmgr.MemoryReservationExceeded("system", "memory", 1, 1, 1), ResourceLimitExceeded),
    (rcmgr.ResourceLimitExceeded("full"), ResourceLimitExceeded),
    (rcmgr.ResourceScopeClosed(), ResourceScopeClosed),
):
    try:
        raise error
    except theirs as caught:
        assert caught is error and caught.message == str(error)
"""


@pytest.mark.libp2p
def test_caught_by_libp2ps_clause_if_libp2p_is_loaded_first() -> None:
    run(f"""
import libp2p, rcmgr
kind = rcmgr.ConnectionLimitKind.PENDING_INBOUND
{CATCH}
""")


@pytest.mark.libp2p
def test_caught_by_libp2ps_clause_if_libp2p_is_loaded_later() -> None:
    """libp2p also catches errors older than itself."""
    run(f"""
import sys, rcmgr
kind = rcmgr.ConnectionLimitKind.PENDING_INBOUND
for error in (rcmgr.ConnectionLimitExceeded(1, 1, kind), rcmgr.ResourceLimitExceeded("full")):
    try:
        raise error
    except rcmgr.ResourceLimitExceeded as caught:
        assert caught is error and caught.message == str(error)
assert "libp2p" not in sys.modules
import libp2p
early = error
{CATCH}
try:
    raise early
except ResourceLimitExceeded as caught:
    assert caught is early and caught.message == "full"
""")


@pytest.mark.libp2p
def test_a_denial_of_a_tracker_made_before_libp2p_was_loaded() -> None:
    run("""
import sys, rcmgr
manager = rcmgr.ResourceManager(connection_limits=rcmgr.ConnectionLimits(0, 0, 0, 0, 0, 0))
assert "libp2p" not in sys.modules
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
handler = manager.connection_lifecycle.handle_established_inbound_connection("c", b"peer")
try:
    handler.send(None)
except ResourceLimitExceeded as error:
    assert str(error).startswith(
        "Connection limit exceeded: established_inbound (current: 0, limit: 0); connection c")
""")


def test_pickled_with_libp2p_and_read_without_it() -> None:
    error = ConnectionLimitExceeded(1, 2, ConnectionLimitKind.PENDING_INBOUND, "c", b"peer")
    data = pickle.dumps(error)
    out = run(f"""
import pickle, sys
error = pickle.loads({data!r})
assert "libp2p" not in sys.modules
print(repr(error))
""")
    assert out.strip() == repr(error)


# -- texts, codes and settings ------------------------------------------------------------------

TOTAL = "ResourceLimits.max_connections (ConcreteLimits.system.conns)"
EXPLAINED = [
    (ConnectionEvicted("established_inbound", "c", PEER), "connection", "connection.evicted",
     "NodeLimits.eviction"),
    (ConnectionEvicted("pending_inbound"), "connection", "connection.evicted",
     "NodeLimits.eviction"),
    (ConnectionLimitExceeded(4, 4, ConnectionLimitKind.ESTABLISHED_PER_PEER, "c", PEER),
     "connection", "connection.established_per_peer", "ConnectionLimits.max_established_per_peer"),
    (ConnectionLimitExceeded(4, 4, ConnectionLimitKind.CONNECTIONS, "c", PEER),
     "connection", "connection.connections", "ConnectionTracker.max_connections"),
    (ScopeLimitExceeded("system", "connection", 9, 1, 9, peer_id=PEER),
     "connection", "connection.system.conns", TOTAL),
    (StreamLimitExceeded("system", "stream", 9, 1, 9, peer_id=PEER), "stream",
     "stream.system.streams", "ResourceLimits.max_streams (ConcreteLimits.system.streams)"),
    (MemoryReservationExceeded("system.span-3.span-12", "memory", 9, 1, 9), "memory",
     "memory.system.memory", "ResourceLimits.max_memory_mb (ConcreteLimits.system.memory)"),
    (ScopeLimitExceeded("system", "inbound connection", 9, 1, 9, peer_id=PEER),
     "connection", "connection.system.conns_inbound", "ConcreteLimits.system.conns_inbound"),
    (StreamLimitExceeded("transient", "stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.transient.streams", "ConcreteLimits.transient.streams"),
    (StreamLimitExceeded(f"protocol:/a/1.peer:{PEER}", "inbound stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.protocol_peer.streams_inbound",
     "ConcreteLimits.protocol_peer_default.streams_inbound or "
     "ConcreteLimits.protocol_peer['/a/1'].streams_inbound"),
    (StreamLimitExceeded("service:s", "outbound stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.service.streams_outbound",
     "ConcreteLimits.service_default.streams_outbound or "
     "ConcreteLimits.service['s'].streams_outbound"),
    (MemoryReservationExceeded(f"peer:{PEER}.span-2", "memory", 9, 1, 9, peer_id=PEER),
     "memory", "memory.peer.memory",
     f"ConcreteLimits.peer_default.memory or ConcreteLimits.peer['{PEER}'].memory"),
    (MemoryReservationExceeded("conn-7.span-2", "memory", 9, 1, 9, peer_id=PEER),
     "memory", "memory.conn.memory", "ConcreteLimits.conn.memory"),
    (ScopeLimitExceeded("allowlistedSystem", "file descriptor", 9, 1, 9, peer_id=PEER),
     "connection", "connection.allowlisted_system.fd", "ConcreteLimits.allowlisted_system.fd"),
    (MemoryUsageLimitExceeded(11, 10, 110.0),
     "memory", "memory.process",
     "MemoryConnectionLimits.max_bytes (ResourceManager.memory_limits)"),
    (MemoryUsageLimitExceeded(9, 10, 90.0, "deny_new_peers_above", "c", PEER),
     "memory", "memory.process",
     "MemoryConnectionLimits.deny_new_peers_above (ResourceManager.memory_limits)"),
    (AddressLimitExceeded("192.0.2.1", "192.0.2.1/32", 8, 8),
     "connection", "connection.address",
     "SubnetLimits.ipv4 or SubnetLimits.overrides['192.0.2.1/32']"),
    (AddressLimitExceeded("2001:db8::1", "2001:db8::/56", 8, 8),
     "connection", "connection.address",
     "SubnetLimits.ipv6 or SubnetLimits.overrides['2001:db8::/56']"),
    (RateLimitExceeded("connections", "connection", PEER, 2.0),
     "rate", "rate.peer", "ConnectionRateLimits.per_peer"),
    (RateLimitExceeded("network 192.0.2.0/24", "connection", None, 2.0, "192.0.2.1"),
     "rate", "rate.address", "AddressRates.ipv4 or ConnectionRateLimits.per_ip"),
    (AddressLimitExceeded("192.0.2.1", "192.0.2.0/24", 8, 8, "192.0.2.1/24"),
     "connection", "connection.address", "SubnetLimits.overrides['192.0.2.1/24']"),
    (RateLimitExceeded("network 0.0.0.0/0", "connection", None, 2.0, "192.0.2.1",
                       limited_by="overall"),
     "rate", "rate.address", "AddressRates.overall"),
    (RateLimitExceeded("network 192.0.2.0/24", "connection", None, 2.0, "192.0.2.1",
                       limited_by="192.0.2.0/24"),
     "rate", "rate.address", "AddressRates.overrides['192.0.2.0/24']"),
    (RateLimitExceeded("/a/1", "stream", PEER, math.inf, None, 0.5, 3),
     "rate", "rate.protocol",
     "RateLimits.default, RateLimits.overrides['stream'] or RateLimits.overall of /a/1"),
    (Banned("192.0.2.0/24", "by hand", 60.0, "c", PEER, "192.0.2.1"),
     "connection", "connection.banned", "ResourceManager.unban('192.0.2.0/24')"),
    (FleetLimitExceeded("peer_rate", "connections of one peer", None, 0.5, 3, 2.0, "c", PEER),
     "rate", "fleet.peer_rate", "FleetLimits.peer_rate"),
    (FleetLimitExceeded("network.connections", "network 192.0.2.0/24", 8, address="192.0.2.1"),
     "connection", "fleet.network.connections", "FleetLimits.network.connections"),
]


@pytest.mark.parametrize(
    ("error", "category", "code", "setting"), EXPLAINED, ids=[each[3][:60] for each in EXPLAINED])
def test_every_denial_explains_itself(error: Any, category: str, code: str, setting: str) -> None:
    assert isinstance(error, ResourceLimitExceeded)
    assert (error.category, error.code) == (category, code)
    assert error.setting == setting
    assert error.explanation.endswith(f"; see {setting}")
    assert "None" not in error.explanation
    assert str(error) == error.message
    assert error.explanation.startswith(str(error).partition(";")[0])
    values = json.loads(json.dumps(error.to_dict(), allow_nan=False))
    assert (values["code"], values["category"]) == (code, category)
    assert values["message"] == error.explanation
    if getattr(error, "peer_id", None) is not None:
        assert values["peer_id"] == str(PEER)
        assert str(PEER) in error.explanation
    for key, value in values.items():
        assert value is None or isinstance(value, str | int | float), key
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.to_dict() == error.to_dict()
    with pytest.raises(type(error)) as caught:
        raise error from KeyError("cause")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("setting", sorted({each[3] for each in EXPLAINED}))
def test_every_named_setting_exists(setting: str) -> None:
    """Each setting is an attribute or an argument of one of our classes, and so are its entries."""
    found = re.findall(r"([A-Z]\w+)\.(\w+)((?:\['[^']*'\])?)((?:\.\w+)?)", setting)
    assert found
    for name, attribute, key, field in found:
        cls = getattr(rcmgr, name)
        assert hasattr(cls, attribute) or attribute in inspect.signature(cls).parameters
        if name == "ConcreteLimits":
            value = getattr(rcmgr.ConcreteLimits(), attribute)
            assert isinstance(value, Mapping) == bool(key)
            assert hasattr(rcmgr.Limit(), field.removeprefix("."))


CODES = [
    "connection.address",
    "connection.connections",
    "connection.established_inbound",
    "connection.established_outbound",
    "connection.established_per_peer",
    "connection.established_total",
    "connection.evicted",
    "connection.pending_inbound",
    "connection.pending_outbound",
    "memory.process",
    "rate.address",
    "rate.peer",
    "rate.protocol",
    "resource",
]
"""Programs know limits by these: none may change, and a new one belongs here."""
SCOPES = {
    "system": "system", "transient": "transient", "allowlisted_system": "allowlistedSystem",
    "allowlisted_transient": "allowlistedTransient", "service": "service:s",
    "service_peer": "service:s.peer:p", "protocol": "protocol:/a", "peer": "peer:p",
    "protocol_peer": "protocol:/a.peer:p", "conn": "conn-1", "stream": "stream-1",
}
RESOURCES = {
    ("stream", StreamLimitExceeded): {
        "streams": "stream", "streams_inbound": "inbound stream",
        "streams_outbound": "outbound stream",
    },
    ("connection", ScopeLimitExceeded): {
        "conns": "connection", "conns_inbound": "inbound connection",
        "conns_outbound": "outbound connection", "fd": "file descriptor",
    },
    ("memory", MemoryReservationExceeded): {"memory": "memory"},
}


def test_codes_are_stable() -> None:
    errors: list[ResourceLimitExceeded] = [
        ResourceLimitExceeded("full"),
        MemoryUsageLimitExceeded(2, 1, 200.0),
        AddressLimitExceeded("192.0.2.1", "192.0.2.1/32", 8, 8),
        *(RateLimitExceeded(protocol, "o", None, 1.0)
          for protocol in ("connections", "network 192.0.2.0/24", "/a")),
        *(ConnectionLimitExceeded(1, 1, kind) for kind in ConnectionLimitKind),
        ConnectionEvicted("established_inbound"),
    ]
    assert sorted(error.code for error in errors) == CODES
    fields = {field for resources in RESOURCES.values() for field in resources}
    assert fields == {each.name for each in dataclasses.fields(rcmgr.Limit)}
    limited = {each.name.removesuffix("_default") for each in
               dataclasses.fields(rcmgr.ConcreteLimits)}
    assert limited == set(SCOPES)
    for (category, type_), resources in RESOURCES.items():
        for field, resource in resources.items():
            for scope, name in SCOPES.items():
                error = type_(name, resource, 1, 1, 1)
                assert error.code == f"{category}.{scope}.{field}"
                assert error.category == category


def test_all_errors_have_one_base_class() -> None:
    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    ours = {each for each in below(ResourceLimitExceeded) if each.__module__ == "rcmgr.errors"}
    tried = {type(each[0]) for each in EXPLAINED} | {ResourceLimitExceeded}
    assert ours == tried
    assert {each.category for each in ours - {ResourceLimitExceeded}} == {
        "connection", "stream", "memory", "rate"}


HOSTILE = "x\x1b]0;owned\x07\r\n\u202e\ud800\x00" + "y" * 100_000


@pytest.mark.parametrize("error", [
    ConnectionLimitExceeded(1, 1, ConnectionLimitKind.PENDING_INBOUND, HOSTILE, HOSTILE),
    StreamLimitExceeded(f"protocol:{HOSTILE}", "stream", 1, 1, 1, 255, HOSTILE, HOSTILE),
    MemoryReservationExceeded(f"service:{HOSTILE}.peer:{HOSTILE}", "memory", 1, 1, 1),
    MemoryUsageLimitExceeded(2, 1, 200.0, "max_bytes", HOSTILE, HOSTILE),
    AddressLimitExceeded(HOSTILE, "192.0.2.1/32", 8, 8),
    RateLimitExceeded(HOSTILE, HOSTILE, HOSTILE, 1.0, HOSTILE),
], ids=lambda error: type(error).__name__)
def test_names_that_strangers_choose_are_escaped_and_short(error: Any) -> None:
    """The text is short, has one line and no control characters, and can be encoded."""
    for text in (str(error), error.message, error.explanation, error.setting):
        assert text.isprintable()
        assert len(text) < 2000
        text.encode()
    assert r"x\x1b]0;owned\x07\r\n\u202e\ud800\x00yyy" in str(error)
    values = json.loads(json.dumps(error.to_dict()))
    assert any(value == HOSTILE or HOSTILE in str(value) for value in values.values())


def test_text_is_made_only_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of denials formats no text, for any limit."""
    manager = rcmgr.ResourceManager(
        rcmgr.NodeLimits(
            rcmgr.ConcreteLimits(
                system=rcmgr.Limit(streams=0, memory=9), peer_default=rcmgr.Limit(conns=0)),
            rcmgr.ConnectionLimits(max_pending_outbound=0),
            subnets=rcmgr.SubnetLimits(ipv4=((32, 0),)),
        ),
        connection_rate_limits=rcmgr.ConnectionRateLimits(per_peer=rcmgr.Rate(0.001, 1)),
    )

    def built(*_: Any, **__: Any) -> None:
        raise AssertionError("an error was built")

    kinds = [each for each in vars(rcmgr.errors).values() if isinstance(each, type)
             and issubclass(each, ResourceLimitExceeded)]
    caplog.set_level(logging.ERROR, "rcmgr")  # the first denial by a limit has a log line
    with monkeypatch.context() as patch:
        for kind in kinds:
            patch.setattr(kind, "__init__", built)
        for _ in range(2):
            assert manager.open_connection(b"peer", None, "inbound") is None
            assert manager.open_connection(None, None, "outbound") is None
            assert manager.open_connection(None, "192.0.2.1", "inbound") is None
            assert not manager.acquire_stream(b"peer", "inbound")
            assert not manager.acquire_memory(10)
    assert {error.code for error in manager.denials} == {
        "connection.peer.conns", "rate.peer", "connection.pending_outbound", "connection.address",
        "stream.system.streams", "memory.system.memory"}
    assert manager.denials.total == sum(manager.get_stats()["denied"].values()) == 10


def test_a_denial_for_memory_names_the_peer_and_the_direction() -> None:
    memory = rcmgr.MemoryConnectionLimits(
        max_bytes=1, cache=rcmgr.MemoryStatsCache(probe=lambda: 2))
    manager = rcmgr.ResourceManager(memory_limits=memory)
    assert manager.open_connection(None, None, "outbound") is None
    assert manager.open_connection(PEER, None, "inbound") is None
    assert not manager.acquire_memory(1)
    entries = manager.denials.entries()
    assert [each.inbound for each in entries] == [False, True, None]
    assert [each.error.peer for each in entries] == [None, str(PEER), None]
    assert (manager.denials.inbound, manager.denials.outbound) == (1, 1)
    assert manager.denials.most_denied() == [(PEER.to_bytes(), 1)]
    assert entries[1].error.code == "memory.process"


def test_the_base_class_as_a_dict() -> None:
    assert ResourceLimitExceeded("full").to_dict() == {
        "code": "resource", "category": "resource", "setting": "the limits of the ResourceManager",
        "message": "full; see the limits of the ResourceManager",
        "documentation": ResourceLimitExceeded("full").documentation,
    }


@pytest.mark.parametrize(("name", "expected"), [
    ("/a/1.0.0", "/a/1.0.0"), (7, "7"), ("\n\x1b\ud800", r"\n\x1b\ud800"),
    ("a" * 160, "a" * 160), ("a" * 100 + "b" * 100, "a" * 80 + "..." + "b" * 77),
])
def test_a_printable_name_is_short_and_escaped(name: object, expected: str) -> None:
    assert printable_name(name) == expected
