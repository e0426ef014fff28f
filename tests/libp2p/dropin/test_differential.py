"""The managers of libp2p.rcmgr 0.8.1 and ours agree after the same calls.

Differences that docs/differences.md names are expected, or their calls are left out. The machines
release only what they acquired: 0.8.1 frees a place of others otherwise. They disable features that
change limits, and limits that 0.8.1 never enforces.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import copy_context
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction, ResourceLimits, ResourceScopeClosed
from libp2p.rcmgr.allowlist import AllowlistConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.metrics import MetricType

from rcmgr.libp2p.dropin.manager import ResourceManager

FRIEND = ID.from_base58("QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB")
STRANGERS = [ID(b"\x00\x24\x08\x01\x12\x20" + bytes([i] * 32)) for i in range(3)]
PEERS = st.sampled_from(["", "a", "b", str(FRIEND), str(STRANGERS[0])])
WAYS = st.sampled_from(["inbound", "outbound"])
ADDRESSES = st.sampled_from([None, "10.0.0.1", "10.9.9.9", "192.0.2.1", "2001:db8::1", "nonsense"])
DIRECTIONS = st.sampled_from(list(Direction))
SERVICES = st.sampled_from([None, "service", "another service"])
PROTOCOLS = st.sampled_from([None, "/protocol", "/another"])
LIMITED = {
    "service": "service", "service_peer": "service",
    "protocol": "/protocol", "protocol_peer": "/protocol",
}
PICK = st.integers(0, 99)
COUNTED = {
    "_current_connections": "connections", "_current_memory": "memory_bytes",
    "_current_streams": "streams",
}
METRICS = (
    MetricType.CONNECTIONS_INBOUND, MetricType.CONNECTIONS_OUTBOUND, MetricType.STREAMS_INBOUND,
    MetricType.STREAMS_OUTBOUND, MetricType.MEMORY_USAGE,
)
# features that change limits, or that 0.8.1 never uses
CALM = {
    "enable_circuit_breaker": False, "enable_graceful_degradation": False,
    "enable_rate_limiting": False, "enable_memory_limits": False,
}


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a separate context, like that of a task without a pending connection."""
    return copy_context().run(call, *arguments)


def finish(work: Coroutine[Any, Any, None]) -> bool:
    """Whether the connection was admitted."""
    try:
        work.send(None)
    except StopIteration:
        return True
    except ResourceLimitExceeded:
        return False
    raise AssertionError("it suspended")


class Machine(RuleBasedStateMachine):
    def start(self, **arguments: Any) -> None:
        self.both: tuple[Any, Any] = (ResourceManager(**arguments), StockManager(**arguments))

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "both"):
            return
        ours, theirs = self.both
        stats = [manager.get_stats() for manager in self.both]
        for attribute, name in COUNTED.items():
            assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
            assert stats[0][name] == stats[1][name]
        for metric in METRICS:
            assert ours.metrics.get_counter(metric) == theirs.metrics.get_counter(metric), metric
        assert ours.ledger.over_released == ours.ledger.leaked == 0

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        for manager in self.both:
            manager.close()
            manager.close()
            for name in COUNTED:
                assert getattr(manager, name) == 0
            for call, arguments in (
                ("acquire_connection", ("a",)), ("acquire_memory", (1,)),
                ("acquire_stream", ("a", Direction.INBOUND)),
                ("acquire_scoped_stream", ("a", Direction.INBOUND, "service", "/protocol")),
            ):
                with pytest.raises(ResourceScopeClosed):
                    getattr(manager, call)(*arguments)


class Calls(Machine):
    """Counts of connections, streams and memory, after calls that take and give back."""

    @initialize(
        connections=st.integers(0, 4), streams=st.integers(0, 4),
        rules=st.sampled_from([None, [("10.0.0.0/8", 1)], [("10.0.0.0/8", 2), ("::/0", 0)]]),
        scoped=st.dictionaries(st.sampled_from(list(LIMITED)), st.integers(0, 2)),
        friends=st.sampled_from([set(), {FRIEND}]),
    )
    def make(
        self, connections: int, streams: int, rules: Any, scoped: dict[str, int], friends: set[ID]
    ) -> None:
        self.start(
            limits=ResourceLimits(connections, 1, streams), cidr_limits=rules,
            allowlist_config=AllowlistConfig(peers=friends), **CALM,
        )
        self.friends = friends
        self.limited = list(scoped)
        for kind, most in scoped.items():
            self.limit_streams(kind, most)
        self.connections: list[Any] = []
        self.scopes: list[Any] = []
        self.streams: list[Any] = []
        self.scoped: list[Any] = []
        self.memory: list[int] = []

    def limit_streams(self, kind: str, most: int) -> None:
        for manager in self.both:
            getattr(manager, f"set_{kind}_stream_limit")(LIMITED[kind], most)

    @property
    def friends_hold_something(self) -> bool:
        """In 0.8.1, friends take the room of other peers."""
        held = (self.connections, self.streams, self.scoped)
        return bool(self.friends) and (
            any(call[0] in (str(FRIEND), FRIEND) for calls in held for call in calls)
            or any(peer == FRIEND for _, peer in self.scopes)
        )

    def agree(self, call: str, *arguments: Any) -> Any:
        ours, theirs = (getattr(manager, call)(*arguments) for manager in self.both)
        assert ours == theirs
        return ours

    def take(self, kind: str, *arguments: Any) -> bool:
        """Whether both admitted it. If only ours did, for a friend, ours gives it back."""
        ours, theirs = (getattr(manager, f"acquire_{kind}")(*arguments) for manager in self.both)
        if ours and not theirs and (
            self.friends_hold_something or (self.friends and arguments[0] == str(FRIEND))
        ):
            getattr(self.both[0], f"release_{kind}")(*arguments)
            return False
        assert ours == theirs
        return bool(ours)

    @rule(peer=PEERS, address=ADDRESSES, way=WAYS)
    def acquire_connection(self, peer: str, address: str | None, way: str) -> None:
        if self.take("connection", peer, address, way):
            self.connections.append((peer, address, way))

    @precondition(lambda self: self.connections)
    @rule(pick=PICK)
    def release_connection(self, pick: int) -> None:
        self.agree("release_connection", *self.connections.pop(pick % len(self.connections)))

    @rule(peer=st.sampled_from([None, FRIEND, *STRANGERS]), address=ADDRESSES, way=WAYS)
    def open_connection(self, peer: ID | None, address: str | None, way: str) -> None:
        ours, theirs = (
            apart(manager.open_connection, peer, address, way) for manager in self.both)
        if ours is not None and theirs is None:
            may_be_a_friend = bool(self.friends) and peer is None
            assert self.friends_hold_something or peer in self.friends or may_be_a_friend
            ours.close()
            return
        assert (ours is None) == (theirs is None)
        if ours is not None:
            self.scopes.append(((ours, theirs), peer))

    @rule(peer=st.sampled_from(STRANGERS), address=ADDRESSES, way=WAYS)
    def open_before_and_after_a_handshake(self, peer: ID, address: str | None, way: str) -> None:
        """For a moment, 0.8.1 counts the connection twice, and so refuses the last one."""
        def connect(manager: Any) -> Any:
            before = manager.open_connection(None, address, way)
            if before is None:
                return None
            scope = manager.open_connection(peer, address, way)
            before.close()
            return scope

        ours, theirs = (apart(connect, manager) for manager in self.both)
        assert ours is not None or theirs is None
        if theirs is not None:
            self.scopes.append(((ours, theirs), peer))
        elif ours is not None:
            last = self.both[1].limits.max_connections - 1 == self.both[1]._current_connections
            assert last or self.friends_hold_something or self.both[1].cidr_limiter is not None
            ours.close()

    @precondition(lambda self: self.scopes)
    @rule(pick=PICK)
    def close_scope(self, pick: int) -> None:
        for scope in self.scopes.pop(pick % len(self.scopes))[0]:
            scope.close()
            scope.close()

    @rule(peer=PEERS, direction=DIRECTIONS)
    def acquire_stream(self, peer: str, direction: Direction) -> None:
        if self.take("stream", peer, direction):
            self.streams.append((peer, direction))

    @precondition(lambda self: self.streams)
    @rule(pick=PICK)
    def release_stream(self, pick: int) -> None:
        self.agree("release_stream", *self.streams.pop(pick % len(self.streams)))

    @rule(peer=PEERS, direction=DIRECTIONS, service=SERVICES, protocol=PROTOCOLS)
    def acquire_scoped_stream(
        self, peer: str, direction: Direction, service: str | None, protocol: str | None
    ) -> None:
        if self.take("scoped_stream", peer, direction, service, protocol):
            self.scoped.append((peer, direction, service, protocol))

    @precondition(lambda self: self.scoped)
    @rule(pick=PICK)
    def release_scoped_stream(self, pick: int) -> None:
        self.agree("release_scoped_stream", *self.scoped.pop(pick % len(self.scoped)))

    @rule(size=st.sampled_from([0, 1, 1000, 1 << 19, 1 << 20, 1 << 21]))
    def acquire_memory(self, size: int) -> None:
        theirs = self.both[1]
        if size == 0 and theirs._current_memory > theirs.limits.max_memory_bytes:
            return  # 0.8.1 denies even 0 bytes, if more is held than the limit
        if self.agree("acquire_memory", size):
            self.memory.append(size)

    @precondition(lambda self: self.memory)
    @rule(pick=PICK)
    def release_memory(self, pick: int) -> None:
        self.agree("release_memory", self.memory.pop(pick % len(self.memory)))

    @rule(kind=st.sampled_from(["connections", "memory", "streams", "x"]), amount=st.integers(0, 5))
    def available(self, kind: str, amount: int) -> None:
        self.agree("is_resource_available", kind, amount)

    @rule(connections=st.integers(0, 5), memory=st.integers(0, 2), streams=st.integers(0, 5))
    def change_limits(self, connections: int, memory: int, streams: int) -> None:
        for manager in self.both:
            manager.limits = ResourceLimits(connections, memory, streams)

    @precondition(lambda self: self.limited)
    @rule(pick=PICK, most=st.integers(0, 3))
    def change_a_scopes_limit(self, pick: int, most: int) -> None:
        """Change an existing limit, because 0.8.1 does not count in a scope without a limit."""
        self.limit_streams(self.limited[pick % len(self.limited)], most)


class Connections(Machine):
    """The calls of a swarm for its connections, in its order, under limits on states."""

    @initialize(
        inbound=st.integers(0, 3), outbound=st.integers(0, 3), per_peer=st.integers(0, 2),
        total=st.integers(0, 4),
    )
    def make(self, inbound: int, outbound: int, per_peer: int, total: int) -> None:
        self.start(
            limits=ResourceLimits(),
            connection_limits=ConnectionLimits(None, None, inbound, outbound, per_peer, total),
            **CALM,
        )
        self.numbers = count()
        self.live: dict[str, tuple[ID, tuple[Any, Any]]] = {}

    def connect(self, manager: Any, name: str, peer: ID, way: str, quic: bool) -> Any:
        """The scope, or None. 0.8.1 leaks the scope of a denied TCP connection; this closes it."""
        lifecycle = manager.connection_lifecycle
        handle = getattr(lifecycle, f"handle_established_{way}_connection")
        lifecycle.reconcile_live_connections(set(self.live))
        before = None
        if not (quic and way == "inbound"):
            before = manager.open_connection(None, None, way)
        scope = None if quic else manager.open_connection(peer, None, way)
        admitted = finish(handle(name, peer, None, None))
        if admitted and quic:
            scope = manager.open_connection(peer_id=peer, direction=way)
        if before is not None:
            before.close()
        if not admitted and scope is not None:
            scope.close()
        return scope if admitted else None

    @rule(peer=st.sampled_from(STRANGERS), way=WAYS, quic=st.booleans())
    def open(self, peer: ID, way: str, quic: bool) -> None:
        name = str(next(self.numbers))
        ours, theirs = (
            apart(self.connect, manager, name, peer, way, quic) for manager in self.both)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            self.live[name] = peer, (ours, theirs)

    @precondition(lambda self: self.live)
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        name = sorted(self.live)[pick % len(self.live)]
        peer, scopes = self.live.pop(name)
        for manager, scope in zip(self.both, scopes, strict=True):
            scope.close()
            manager.connection_lifecycle.notify_connection_closed(name, peer)

    @precondition(lambda self: self.live)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        """The swarm loses a connection, and reports those that it still has."""
        name = sorted(self.live)[pick % len(self.live)]
        _, scopes = self.live.pop(name)
        for manager, scope in zip(self.both, scopes, strict=True):
            lifecycle = manager.connection_lifecycle
            assert lifecycle.reconcile_live_connections(set(self.live)) == 0  # too young
            assert lifecycle.reconcile_live_connections(set(self.live), 0.0) == 1
            scope.close()

    @invariant()
    def states(self) -> None:
        if not hasattr(self, "both"):
            return
        ours, theirs = (manager.connection_tracker for manager in self.both)
        for kind in ("established_inbound", "established_outbound", "established_total"):
            assert ours.get_connection_count(kind) == theirs.get_connection_count(kind)
        for peer in STRANGERS:
            assert ours.get_peer_connection_count(peer) == theirs.get_peer_connection_count(peer)
        for name in ("established_inbound", "established_outbound"):
            assert set(getattr(ours, name)) == set(getattr(theirs, name))


class Rates(Machine):
    """The default features, with a rate so low that no token comes back during the test.

    All connections are inbound, because ours limits no dials. `acquire_connection` gets texts,
    because 0.8.1 limits no `ID`s.
    """

    @initialize(burst=st.integers(1, 4))
    def make(self, burst: int) -> None:
        self.start(
            limits=ResourceLimits(), connections_per_peer_per_sec=1e-9,
            burst_connections_per_peer=burst, allowlist_config=AllowlistConfig(peers={FRIEND}),
        )
        self.left = dict.fromkeys(STRANGERS, burst)

    def admitted(self, peer: ID, ours: bool, theirs: bool) -> bool:
        assert ours == theirs == (self.left[peer] > 0)
        self.left[peer] -= ours
        return ours

    @rule(peer=st.sampled_from(STRANGERS))
    def acquire(self, peer: ID) -> None:
        ours, theirs = (manager.acquire_connection(str(peer)) for manager in self.both)
        if self.admitted(peer, ours, theirs):
            for manager in self.both:
                manager.release_connection(str(peer))

    @rule(peer=st.sampled_from(STRANGERS), as_text=st.booleans())
    def open(self, peer: ID, as_text: bool) -> None:
        scopes = [
            apart(manager.open_connection, str(peer) if as_text else peer, None, Direction.INBOUND)
            for manager in self.both
        ]
        if self.admitted(peer, *(scope is not None for scope in scopes)):
            for scope in scopes:
                scope.close()

    @rule()
    def a_friend(self) -> None:
        """Only 0.8.1 limits a friend."""
        scope = apart(self.both[0].open_connection, FRIEND)
        assert scope is not None
        scope.close()

    @rule(direction=DIRECTIONS, size=st.integers(0, 1 << 20))
    def others(self, direction: Direction, size: int) -> None:
        for manager in self.both:
            assert manager.acquire_stream(str(STRANGERS[0]), direction)
            assert manager.acquire_memory(size)
        for manager in self.both:
            manager.release_stream(str(STRANGERS[0]), direction)
            manager.release_memory(size)


TestCalls = Calls.TestCase
TestConnections = Connections.TestCase
TestRates = Rates.TestCase
for _test in (TestCalls, TestConnections, TestRates):
    _test.settings = settings(max_examples=150, stateful_step_count=40)
