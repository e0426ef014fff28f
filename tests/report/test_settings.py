"""A denial names settings that exist, and a higher value of each one lets the request pass."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import pytest

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    ConnectionTracker,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.peers import peer_key, peer_text

PEER = b"\x12\x20" + b"p" * 32
PROTOCOL, SERVICE = "/my/1.0.0", "my service"
ADDRESS = "192.0.2.1"
MANY = 10**6
FAST = Rate(1e6, MANY)
SLOW = Rate(0.001, 1)

Request = Callable[[ResourceManager], Any]


def connect(manager: ResourceManager, peer: Hashable | None = None, way: str = "inbound") -> Any:
    return manager.open_connection(peer, ADDRESS, way)


def with_value(limits: Any, path: str, value: Any) -> Any:
    """A copy of a tree of limits in which the field at the end of a path has another value.

    path: "system.conns", "peer['12D3'].streams".
    """
    name, rest = re.fullmatch(r"(\w+)(.*)", path).groups()  # type: ignore[union-attr]
    now = getattr(limits, name)
    if rest.startswith("["):
        literal, rest = re.fullmatch(r"\[('.*?'|\".*?\")\](.*)", rest).groups()  # type: ignore[union-attr]
        key = ast.literal_eval(literal)
        key = peer_key(key) if name == "peer" else key
        own = now.get(key, getattr(limits, f"{name}_default", None))
        new = with_value(own, rest[1:], value) if rest else value
        return replace(limits, **{name: {**now, key: new}})
    return replace(limits, **{name: with_value(now, rest[1:], value) if rest else value})


def set_in_manager(manager: ResourceManager, setting: str) -> None:
    """Set what one setting says, to far more than is needed."""
    setting, _, protocol = setting.partition(" of ")
    owner, path = re.match(r"(\w+)\.(\w.*?)(?: \(.*\))?$", setting).groups()  # type: ignore[union-attr]
    if owner == "ConcreteLimits":
        manager.scope_limits = with_value(manager.scope_limits, path, MANY)
    elif owner == "ResourceLimits":
        manager.limits = with_value(manager.limits, path, MANY)
    elif owner == "ConnectionLimits":
        manager.connection_limits = with_value(manager.connection_limits, path, MANY)
    elif owner == "ConnectionTracker":
        setattr(manager.connection_tracker, path, MANY)
    elif owner == "MemoryConnectionLimits":
        limits = manager.memory_limits
        assert limits is not None
        value = {"max_percentage": 1.0, "deny_new_peers_above": None, "max_pressure": 100.0}
        manager.memory_limits = limits.with_limits(
            replace(limits.limits, **{path: value.get(path, 1 << 60)}))
    elif owner == "SubnetLimits":
        value = ((32, MANY),) if path in ("ipv4", "ipv6") else MANY
        subnets = with_value(manager.node_limits.subnets, path, value)
        manager.node_limits = replace(manager.node_limits, subnets=subnets)
    elif owner == "AddressRates":
        value = ((32, FAST),) if path in ("ipv4", "ipv6") else FAST
        rates = with_value(manager.node_limits.rates, path, value)
        manager.node_limits = replace(manager.node_limits, rates=rates)
    elif owner == "ConnectionRateLimits":
        manager.connection_rate_limits = with_value(manager.connection_rate_limits, path, FAST)
    elif owner == "RateLimits":
        limiter = manager.protocol_rate_limiters[protocol]
        manager.add_protocol_rate_limiter(protocol, with_value(limiter.limits, path, FAST))
    elif owner == "ProtocolRateLimiter":
        limiter = manager.protocol_rate_limiters[protocol]
        manager.add_protocol_rate_limiter(
            protocol, limiter.limits, networks=AddressRates(((24, FAST),)))
    elif owner == "ResourceManager":
        assert re.fullmatch(r"unban\('(.*)'\)", path)
        assert manager.unban(ast.literal_eval(path[len("unban("):-1]))
    else:
        raise AssertionError(f"an unknown setting: {setting}")


# -- the requests ------------------------------------------------------------------------------

STATES: dict[str, tuple[Hashable | None, str]] = {
    "max_pending_inbound": (None, "inbound"), "max_pending_outbound": (None, "outbound"),
    "max_established_inbound": (PEER, "inbound"), "max_established_outbound": (PEER, "outbound"),
    "max_established_per_peer": (PEER, "inbound"), "max_established_total": (PEER, "inbound"),
}
STREAM_FIELDS = ("streams", "streams_inbound")
CONN_FIELDS = ("conns", "conns_inbound")
CASES: dict[str, tuple[Callable[[], ResourceManager], Request]] = {}


def case(name: str, make: Callable[[], ResourceManager], request: Request) -> None:
    CASES[name] = make, request


def of_scopes(**limits: Any) -> Callable[[], ResourceManager]:
    return lambda: ResourceManager(NodeLimits(ConcreteLimits(**limits)))


for state, (peer, way) in STATES.items():
    case(
        state,
        lambda state=state: ResourceManager(connection_limits=ConnectionLimits(**{state: 0})),
        lambda manager, peer=peer, way=way: connect(manager, peer, way))
for scope in ("system", "peer_default", "conn"):
    for field in CONN_FIELDS:
        case(f"{scope} {field}", of_scopes(**{scope: Limit(**{field: 0})}),
             lambda manager: connect(manager, PEER))
    case(f"{scope} outbound", of_scopes(**{scope: Limit(conns_outbound=0)}),
         lambda manager: connect(manager, PEER, "outbound"))
for scope in ("system", "transient", "conn"):
    case(f"{scope} fd", of_scopes(**{scope: Limit(fd=0)}), connect)
case("transient conns", of_scopes(transient=Limit(conns=0)), connect)
case("transient streams", of_scopes(transient=Limit(streams=0)),
     lambda manager: manager.open_stream(PEER, "inbound"))
for scope in ("system", "peer_default", "stream"):
    for field in STREAM_FIELDS:
        case(f"{scope} {field}", of_scopes(**{scope: Limit(**{field: 0})}),
             lambda manager: manager.open_stream(PEER, "inbound"))
case("one peer", of_scopes(peer={peer_text(PEER): Limit(streams=0)}),
     lambda manager: manager.acquire_stream(PEER, "inbound"))


def scoped(manager: ResourceManager) -> bool:
    return manager.acquire_scoped_stream(PEER, "inbound", SERVICE, PROTOCOL)


for scope in ("service", "service_peer", "protocol", "protocol_peer"):
    name = SERVICE if scope.startswith("service") else PROTOCOL
    for field in STREAM_FIELDS:
        case(f"{scope} default {field}",
             of_scopes(**{f"{scope}_default": Limit(**{field: 0})}), scoped)
        case(f"{scope} {field}", of_scopes(**{scope: {name: Limit(**{field: 0})}}), scoped)
for scope in ("allowlisted_system", "allowlisted_transient"):
    case(
        scope,
        lambda scope=scope: ResourceManager(
            NodeLimits(ConcreteLimits(**{scope: Limit(conns=0)})), ["192.0.2.0/24"]),
        connect)
case("memory", of_scopes(system=Limit(memory=10)), lambda manager: manager.acquire_memory(20))
case("memory of low priority", of_scopes(system=Limit(memory=30)),
     lambda manager: manager.acquire_memory(20, 100))


def using(used: int, pressure: float = 0.0, **limits: Any) -> Callable[[], ResourceManager]:
    return lambda: ResourceManager(memory_limits=MemoryConnectionLimits(
        **limits, cache=MemoryStatsCache(probe=lambda: used), total=lambda: 1000,
        pressure=lambda: pressure))


case("bytes", using(100, max_bytes=99), connect)
case("percentage", using(100, max_percentage=0.05), connect)
case("new peers", using(100, max_bytes=120, deny_new_peers_above=0.5),
     lambda manager: connect(manager, PEER))
case("pressure", using(100, 50.0, max_bytes=120, max_pressure=10.0),
     lambda manager: connect(manager, PEER))


def of_node(**limits: Any) -> Callable[[], ResourceManager]:
    return lambda: ResourceManager(NodeLimits(**limits))


case("network", of_node(subnets=SubnetLimits(ipv4=((32, 0),))), connect)
case("override of a network", of_node(subnets=SubnetLimits(overrides={"192.0.2.0/24": 0})), connect)


def twice(manager: ResourceManager) -> Any:
    """The second connection, which a slow rate refuses."""
    connect(manager, PEER)
    return connect(manager, PEER)


def twice_before_the_handshake(manager: ResourceManager) -> Any:
    connect(manager)
    return connect(manager)


case("rate of a network", of_node(rates=AddressRates(ipv4=((24, SLOW),))),
     twice_before_the_handshake)
case("rate of an override", of_node(rates=AddressRates(overrides={"192.0.2.0/24": SLOW})),
     twice_before_the_handshake)
case("rate of all", of_node(rates=AddressRates(ipv4=(), ipv6=(), overall=SLOW)),
     twice_before_the_handshake)
case("rate of an address",
     lambda: ResourceManager(connection_rate_limits=ConnectionRateLimits(per_ip=SLOW)),
     twice_before_the_handshake)
case("rate of a peer",
     lambda: ResourceManager(connection_rate_limits=ConnectionRateLimits(per_peer=SLOW)), twice)


def with_limiter(limits: RateLimits) -> Callable[[], ResourceManager]:
    def make() -> ResourceManager:
        manager = ResourceManager()
        manager.add_protocol_rate_limiter(PROTOCOL, limits)
        return manager

    return make


def ask_twice(manager: ResourceManager, operation: str = "search") -> bool:
    manager.check_protocol_rate_limit(PROTOCOL, PEER, operation)
    return manager.check_protocol_rate_limit(PROTOCOL, PEER, operation)


case("requests", with_limiter(RateLimits(SLOW)), ask_twice)
case("requests of an operation", with_limiter(RateLimits(FAST, {"search": SLOW})), ask_twice)
case("all requests", with_limiter(RateLimits(FAST, overall=SLOW)), ask_twice)
case("all requests alone", with_limiter(RateLimits(overall=SLOW)), ask_twice)
case("streams", with_limiter(RateLimits(SLOW)), lambda manager: ask_twice(manager, "stream"))


def of_networks() -> ResourceManager:
    manager = ResourceManager()
    manager.add_protocol_rate_limiter(
        PROTOCOL, RateLimits(FAST), networks=AddressRates(((24, SLOW),)))
    return manager


def ask_twice_from_a_network(manager: ResourceManager) -> bool:
    for number in range(2):
        answer = manager.check_protocol_rate_limit(
            PROTOCOL, b"\x12\x20" + bytes([number]) * 32, "search", address=ADDRESS)
    return answer


case("requests of a network", of_networks, ask_twice_from_a_network)


def banned() -> ResourceManager:
    manager = ResourceManager()
    manager.ban(ADDRESS, 60)
    return manager


case("ban", banned, connect)


@pytest.mark.parametrize("name", CASES)
def test_each_setting_lets_the_request_pass(name: str) -> None:
    make, request = CASES[name]
    manager = make()
    assert not request(manager)
    denial = manager.last_denial
    assert denial is not None
    assert denial.setting in str(denial)
    assert denial.setting in manager.explain()
    settings = denial.setting.split(" or ")
    assert len(set(settings)) == len(settings)
    for setting in settings:
        manager = make()
        assert not request(manager)
        set_in_manager(manager, setting)
        assert request(manager), setting


def test_the_settings_of_several_denials_are_named_once() -> None:
    manager = with_limiter(RateLimits(SLOW, {"search": SLOW}))()
    for operation in ("a", "b", "search", "stream"):
        ask_twice(manager, operation)
    line, = (each for each in manager.explain().splitlines() if "rate.protocol" in each)
    assert line == (
        "  5 by rate.protocol: see RateLimits.default of /my/1.0.0, "
        "RateLimits.overrides['search'] of /my/1.0.0")


def test_the_limit_of_a_tracker() -> None:
    tracker = ConnectionTracker(max_connections=0)
    denial = tracker.admit_pending_inbound("c", ConnectionLimits())
    assert denial is not None
    assert denial.to_error().setting == "ConnectionTracker.max_connections"
    larger = ConnectionTracker(max_connections=1)
    assert larger.admit_pending_inbound("c", ConnectionLimits()) is None
