"""Limits for tests of properties: `NODES` makes any `NodeLimits`."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from go_limits import ORDER

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    DryRun,
    Eviction,
    FleetLimits,
    FleetPlaces,
    Limit,
    NodeLimits,
    PartialLimit,
    PartialLimits,
    PeerRates,
    PenaltyBox,
    ProcessMemoryLimits,
    Rate,
    SubnetLimits,
)
from rcmgr.limits.scopes import DEFAULT

# a file that says kubo's infinity means no limit
MAYBE = st.one_of(
    st.none(), st.integers(0, 2**63 - 2).filter(lambda limit: limit != 4_611_686_018_427_388_000))
COUNT = st.one_of(st.just(DEFAULT), MAYBE, st.just(2**63 - 1))
LIMIT = st.builds(Limit, **dict.fromkeys(ORDER, MAYBE))
PARTIAL = st.builds(PartialLimit, **dict.fromkeys(ORDER, COUNT))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PEERS = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest)
RATE = st.builds(Rate, st.one_of(st.floats(1e-3, 1e6), st.just(math.inf)), st.integers(1, 1000))
OVERRIDES = st.sampled_from(["10.0.0.0/8", "::1", "2001:db8::/32"])
FRACTIONS = st.floats(0.01, 0.99)
ON_FULL = st.sampled_from(["evict_fullest", "deny_new"])
TABLE_SIZES = st.integers(1, 2**32)
MEMORY = {
    "max_bytes": MAYBE, "max_percentage": st.one_of(st.none(), st.floats(0.01, 1)),
    "deny_new_peers_above": st.one_of(st.none(), FRACTIONS), "hysteresis": FRACTIONS,
    "max_pressure": st.one_of(st.none(), st.floats(0, 100)),
}


def by_length(bits: int, value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.integers(0, bits), value, max_size=3).map(lambda d: tuple(d.items()))


def trees(kind: Any, leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        kind, **dict.fromkeys([*kind.scopes()], leaf),
        **{name: st.dictionaries(NAMES, leaf, max_size=3)
           for name in ("service", "service_peer", "protocol", "protocol_peer")},
        peer=st.dictionaries(PEERS, leaf, max_size=3),
    )


SUBNETS = st.one_of(st.none(), st.builds(
    SubnetLimits, by_length(32, MAYBE), by_length(128, MAYBE), st.dictionaries(OVERRIDES, MAYBE)))
RATES = st.one_of(st.none(), st.builds(
    AddressRates, by_length(32, RATE), by_length(128, RATE),
    st.dictionaries(OVERRIDES, st.one_of(st.none(), RATE)), st.one_of(st.none(), RATE),
    TABLE_SIZES, ON_FULL))
PEER_RATES = st.one_of(st.none(), st.builds(PeerRates, RATE, TABLE_SIZES, ON_FULL))
SECONDS = st.floats(0.001, 1e6)
PENALTIES = st.one_of(st.none(), st.builds(
    lambda peer, address, **values: PenaltyBox(
        peer_seconds=min(peer), peer_most_seconds=max(peer),
        address_seconds=min(address), address_most_seconds=max(address), **values),
    st.tuples(SECONDS, SECONDS), st.tuples(SECONDS, SECONDS),
    threshold=st.integers(1, 10**6), address_decay=SECONDS, peer_decay=SECONDS,
    forget_seconds=SECONDS, ipv4_prefix=st.integers(1, 32), ipv6_prefix=st.integers(1, 128),
    exempt=st.frozensets(OVERRIDES), max_offenders=TABLE_SIZES))
SHARES = st.floats(1e-3, 1)
EVICTIONS = st.builds(
    Eviction, st.booleans(), st.integers(1, 32), st.integers(1, 128), SECONDS, SECONDS, SHARES,
    SHARES, SECONDS, SECONDS, SECONDS, st.one_of(st.just(0), SECONDS))
# the engine counts coarser than a node: these rates fit everywhere
FLEET_RATES = st.one_of(st.none(), st.builds(Rate, st.floats(0.1, 1e5), st.integers(1, 1000)))
FLEET_PLACES = st.builds(FleetPlaces, MAYBE, MAYBE)
RATES_BY_PROTOCOL = st.dictionaries(NAMES, FLEET_RATES.filter(bool), max_size=2)
FLEETS = st.one_of(st.none(), st.builds(
    FleetLimits, FLEET_RATES, FLEET_RATES, FLEET_RATES, RATES_BY_PROTOCOL, RATES_BY_PROTOCOL,
    FLEET_PLACES, st.builds(FleetPlaces, MAYBE), st.integers(1, 32), st.integers(1, 128),
    st.frozensets(OVERRIDES),
    st.sampled_from(["local", "refuse"]), st.integers(1, 1000), st.integers(1, 10_000_000)))
DRY_RUNS = st.builds(DryRun, st.frozensets(st.sampled_from(
    ["all", "rate", "stream.peer", "connection.system.conns", "memory.process"])))
PARTIALS = trees(PartialLimits, PARTIAL)
NODES = st.builds(
    NodeLimits, trees(ConcreteLimits, LIMIT),
    st.builds(ConnectionLimits, **dict.fromkeys(ConnectionLimits().to_dict(), MAYBE)),
    st.builds(ProcessMemoryLimits, **MEMORY), SUBNETS, RATES, PEER_RATES,
    PENALTIES,
    EVICTIONS, FLEETS, DRY_RUNS,
)
