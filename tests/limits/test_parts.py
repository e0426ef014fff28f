"""Shorter ways to write parts of `NodeLimits`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from limit_values import NODES

from rcmgr.limits.networks import AddressRates
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.parts import ConnectionRateLimits, ResourceLimits
from rcmgr.limits.rates import PeerRates, Rate
from rcmgr.limits.scopes import ConcreteLimits, Limit

SLOW, FAST = Rate(0.1, 2), Rate(10, 20)
ODD = NodeLimits(ConcreteLimits(Limit(conns=7, memory=5 * 2**20 + 1)))


@given(NODES)
def test_to_apply_what_was_read_changes_nothing(limits: NodeLimits) -> None:
    for part in (ResourceLimits, ConnectionRateLimits):
        assert part.of(limits).applied_to(limits) == limits


def test_totals() -> None:
    read = ResourceLimits.of(ODD)
    assert read == ResourceLimits(7, 5, 2**31 - 1)
    one = replace(read, max_connections=8).applied_to(ODD)
    assert one.scopes.system == Limit(conns=8, memory=5 * 2**20 + 1)
    assert ResourceLimits(1, 2, 3).applied_to(ODD).scopes.system == Limit(
        conns=1, memory=2 << 20, streams=3)
    many = ResourceLimits(2**63, 2**60, 2**63).applied_to(ODD)
    assert many.scopes.system == Limit()  # a scope cannot count so many


def test_rates_of_addresses_and_peers() -> None:
    given = ConnectionRateLimits(SLOW, FAST, 77, "deny_new")
    node = given.applied_to(NodeLimits())
    assert node == NodeLimits(
        rates=AddressRates(((32, SLOW),), ((64, SLOW),), {}, None, 77, "deny_new"),
        peer_rates=PeerRates(FAST, 77, "deny_new"))
    assert ConnectionRateLimits.of(node) == given
    assert ConnectionRateLimits().applied_to(node) == NodeLimits()


@pytest.mark.parametrize("limits", [
    ConnectionRateLimits(), ConnectionRateLimits(per_peer=FAST, max_peers=5),
    ConnectionRateLimits(SLOW), ConnectionRateLimits(SLOW, None, 5),
    ConnectionRateLimits(SLOW, None, 5, "deny_new"),
    ConnectionRateLimits(None, FAST, 5, "deny_new"),
    ConnectionRateLimits(AddressRates()), ConnectionRateLimits(AddressRates(ipv4=()), FAST),
])
def test_rates_are_read_as_they_were_given(limits: ConnectionRateLimits) -> None:
    read = ConnectionRateLimits.of(limits.applied_to(NodeLimits()))
    assert (read.per_ip, read.per_peer) == (limits.per_ip, limits.per_peer)


def test_rates_are_checked() -> None:
    with pytest.raises(TypeError, match="per_ip must be a Rate or None"):
        ConnectionRateLimits(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="per_peer must be a Rate or None"):
        ConnectionRateLimits(None, AddressRates())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_peers must be 1 or more"):
        ConnectionRateLimits(max_peers=0)
