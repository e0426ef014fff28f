from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from libp2p.peer.id import ID

from rcmgr import (
    AddressLimitExceeded,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryReservationExceeded,
    MemoryUsageLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.errors import link_upstream

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
    """The enhancement plan's 4.1."""
    error = ConnectionLimitExceeded(limit=10, current=11, kind=kind)
    expected = f"Connection limit exceeded: {kind.value} (current: 11, limit: 10)"
    assert str(error) == error.message == expected
    assert (error.connection_id, error.peer_id) == (None, None)


def test_kinds() -> None:
    assert [kind.value for kind in ConnectionLimitKind] == [
        "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
        "established_per_peer", "established_total", "connections",
    ]


def test_fields() -> None:
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


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_raised_and_caught(error: Any) -> None:
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
    # what handlers written against upstream's class read
    assert error.message == str(error)
    assert error.scope_name is None or isinstance(error.scope_name, str)


def test_the_root_is_made_like_any_exception() -> None:
    """With libp2p loaded too, whose constructor sets a `message` of its own."""
    import libp2p.rcmgr  # noqa: F401

    assert link_upstream()
    assert str(ResourceLimitExceeded("full")) == "full"
    assert ResourceLimitExceeded("full").message == "full"
    assert ResourceLimitExceeded("full").args == ("full",)

    class Mine(ResourceLimitExceeded):
        pass

    with pytest.raises(ResourceLimitExceeded, match=r"^mine$"):
        raise Mine("mine")


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


def test_caught_by_libp2ps_clause_when_libp2p_came_first() -> None:
    run(f"""
import libp2p, rcmgr
kind = rcmgr.ConnectionLimitKind.PENDING_INBOUND
{CATCH}
""")


def test_caught_by_libp2ps_clause_when_libp2p_comes_later() -> None:
    """Errors made, raised and caught before; then libp2p is loaded; then it must catch ours."""
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


# -- what a person and a program can do with it -----------------------------------------------

EXPLAINED = [
    (ConnectionLimitExceeded(4, 4, ConnectionLimitKind.ESTABLISHED_PER_PEER, "c", PEER),
     "connection", "connection.established_per_peer", "ConnectionLimits.max_established_per_peer"),
    (ScopeLimitExceeded("system", "inbound connection", 9, 1, 9, peer_id=PEER),
     "connection", "connection.system.conns_inbound", "system.conns_inbound"),
    (StreamLimitExceeded("transient", "stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.transient.streams", "transient.streams"),
    (StreamLimitExceeded(f"protocol:/a/1.peer:{PEER}", "inbound stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.protocol_peer.streams_inbound", "protocol_peer['/a/1'].streams_inbound"),
    (StreamLimitExceeded("service:s", "outbound stream", 9, 1, 9, peer_id=PEER),
     "stream", "stream.service.streams_outbound", "service_default.streams_outbound"),
    (MemoryReservationExceeded("conn-7.span-2", "memory", 9, 1, 9, peer_id=PEER),
     "memory", "memory.conn.memory", "conn.memory"),
    (ScopeLimitExceeded("allowlistedSystem", "file descriptor", 9, 1, 9, peer_id=PEER),
     "connection", "connection.allowlisted_system.fd", "allowlisted_system.fd"),
    (MemoryUsageLimitExceeded(11, 10, 110.0),
     "memory", "memory.process", "MemoryConnectionLimits"),
    (AddressLimitExceeded("192.0.2.1", "192.0.2.1/32", 8, 8),
     "connection", "connection.address", "SubnetLimits"),
    (RateLimitExceeded("connections", "connection of peer", PEER, 2.0),
     "rate", "rate.peer", "ConnectionRateLimits.per_peer"),
    (RateLimitExceeded("network 192.0.2.0/24", "connection", None, 2.0),
     "rate", "rate.address", "AddressRates"),
    (RateLimitExceeded("/a/1", "stream", PEER, math.inf),
     "rate", "rate.protocol", "RateLimits of /a/1"),
]


@pytest.mark.parametrize(
    ("error", "category", "code", "setting"), EXPLAINED, ids=[each[2] for each in EXPLAINED])
def test_every_denial_explains_itself(error: Any, category: str, code: str, setting: str) -> None:
    assert isinstance(error, ResourceLimitExceeded)
    assert (error.category, error.code) == (category, code)
    assert setting in error.setting
    assert error.setting in error.explanation
    assert str(error) == error.message
    assert error.explanation.startswith(str(error).partition(";")[0])
    told = json.loads(json.dumps(error.to_dict(), allow_nan=False))
    assert (told["code"], told["category"]) == (code, category)
    assert told["message"] == error.explanation
    if getattr(error, "peer_id", None) is not None:
        assert told["peer_id"] == str(PEER)
        assert str(PEER) in error.explanation
    for key, value in told.items():
        assert value is None or isinstance(value, str | int | float), key
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.to_dict() == error.to_dict()
    with pytest.raises(type(error)) as caught:
        raise error from KeyError("cause")
    assert isinstance(caught.value.__cause__, KeyError)


def test_codes_tell_limits_apart() -> None:
    codes = [each[2] for each in EXPLAINED]
    codes += [ConnectionLimitExceeded(1, 1, kind).code for kind in ConnectionLimitKind]
    assert len(set(codes)) == len(codes) - 1  # established_per_peer is there twice


def test_the_root_can_be_told_too() -> None:
    assert ResourceLimitExceeded("full").to_dict() == {
        "code": "resource", "category": "resource", "setting": "the limits of the ResourceManager",
        "message": "full; see the limits of the ResourceManager",
    }
