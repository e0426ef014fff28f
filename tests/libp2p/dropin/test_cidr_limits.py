"""libp2p's limits on networks and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.rcmgr.cidr_limits import CIDRLimiter as StockLimiter
from libp2p.rcmgr.cidr_limits import CIDRRule
from libp2p.rcmgr.manager import ResourceManager as StockManager
from stock_and_ours import managers

import rcmgr
from rcmgr.libp2p.dropin.cidr_limits import CIDRLimiter
from rcmgr.libp2p.dropin.manager import ResourceManager


def test_c1_a_mapped_ipv4_address_is_that_ipv4_address() -> None:
    for limiter, expected in (
        (StockLimiter([("10.0.0.0/8", 1)]), [True, True, True]),
        (CIDRLimiter([("10.0.0.0/8", 1)]), [True, False, False]),
    ):
        assert [limiter.acquire("::ffff:10.0.0.1") for _ in range(3)] == expected
    assert not CIDRLimiter([("::ffff:10.0.0.0/104", 0)]).allow("10.1.1.1")


def test_c2_a_network_with_two_rules_counts_once() -> None:
    rules = [("10.0.0.0/8", 2), ("10.1.2.3/8", 3), ("10.0.0.0/255.0.0.0", 9)]
    stock, ours = StockLimiter(rules), CIDRLimiter(rules)
    assert [stock.acquire("10.0.0.1") for _ in range(3)] == [True, False, False]
    assert [ours.acquire("10.0.0.1") for _ in range(3)] == [True, True, False]  # the lower limit


@pytest.mark.parametrize("rule", [
    ("nonsense", 1), ("10.0.0.0/33", 1), ("10.0.0.0/8", "many"), ("10.0.0.0/8", None),
    ("10.0.0.0/8",),
])
def test_c2_a_wrong_rule_is_an_error(rule: Any) -> None:
    if len(rule) == 2:
        assert StockLimiter([rule])._rules == []  # 0.8.1 drops the rule, and so the limit
    with pytest.raises(ValueError, match=r"not a rule of \(network, limit\): \('"):
        CIDRLimiter([rule])
    with pytest.raises(ValueError, match="not a rule"):
        ResourceManager(cidr_limits=[rule])


def test_c3_the_cost_does_not_grow_with_the_rules() -> None:
    looked: list[str] = []

    class Network:
        """Notes each look-up in a network of 0.8.1."""

        def __contains__(self, address: Any) -> bool:
            looked.append("stock")
            return False

    rules = [(f"10.{number >> 8}.{number & 255}.0/24", 9) for number in range(1000)]
    stock: Any = StockLimiter(rules)
    stock._rules = [CIDRRule(Network(), 9) for _ in stock._rules]  # type: ignore[arg-type]
    ours = CIDRLimiter(rules)
    for limiter in (stock, ours):
        assert limiter.allow("192.0.2.1")
    assert len(looked) == 1000
    assert ours._overrides.lengths(is_ipv4=True) == (24,)  # one look-up for each length


@pytest.mark.parametrize("address", ["example.org", "nonsense", "", None, "10.0.0.999"])
def test_c4_host_names_are_admitted(address: str | None) -> None:
    """As in 0.8.1: a limit on networks does not apply to an address that is in no network."""
    for limiter in (StockLimiter([("0.0.0.0/0", 0)]), CIDRLimiter([("0.0.0.0/0", 0)])):
        assert limiter.allow(address)
        assert limiter.acquire(address)
        limiter.release(address)
    stock_manager, our_manager = managers(cidr_limits=[("0.0.0.0/0", 0)])
    assert stock_manager.open_connection(None, address)
    is_mistyped = address == "10.0.0.999"
    assert (our_manager.open_connection(None, address) is None) is is_mistyped


def test_an_address_with_a_port_is_that_address() -> None:
    limiter = CIDRLimiter([("192.0.2.1/32", 1)])
    assert limiter.acquire("192.0.2.1:4001")
    assert not limiter.acquire("192.0.2.1")
    assert not limiter.allow("/ip4/192.0.2.1/tcp/1")
    limiter.release("192.0.2.1:9")
    assert limiter.allow("[::ffff:192.0.2.1]:4001")


NETWORKS = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "2001:db8::/32"]
ADDRESSES = [
    None, "nonsense", "10.0.0.1", "10.1.0.1", "10.1.2.3", "192.0.2.1", "2001:db8::1", "::1"]


@given(
    rules=st.dictionaries(st.sampled_from(NETWORKS), st.integers(-1, 3)),
    calls=st.lists(st.tuples(st.sampled_from(["allow", "acquire", "release"]),
                             st.sampled_from(ADDRESSES))),
)
def test_both_limiters_agree(rules: dict[str, int], calls: list[tuple[str, str | None]]) -> None:
    """Except in C1 and C2. Only acquired addresses are released: 0.8.1 frees a place for any."""
    both: list[Any] = [StockLimiter(rules.items()), CIDRLimiter(rules.items())]
    held: list[str | None] = []
    for call, address in calls:
        if call == "release":
            if address not in held:
                continue
            held.remove(address)
        theirs, ours = (getattr(limiter, call)(address) for limiter in both)
        assert theirs == ours
        if call == "acquire" and ours:
            held.append(address)
    assert both[1].over_released == 0
    for address in held:
        both[1].release(address)
    assert len(both[1]) == 0


def test_the_limiter_of_a_manager_may_be_replaced() -> None:
    for manager in managers(cidr_limits=[("10.0.0.0/8", 1), ("0.0.0.0/0", 2)]):
        kept = [manager.open_connection(None, "10.0.0.1")]
        assert not manager.cidr_limiter.allow("10.0.0.2")
        kept.append(manager.open_connection(None, "192.0.2.1"))
        assert not manager.cidr_limiter.allow("192.0.2.1")  # every rule that matches must admit
        assert manager.open_connection(None, "192.0.2.2") is None
        assert all(kept)
        manager.cidr_limiter = type(manager.cidr_limiter)([("192.0.2.0/24", 1)])
        assert manager.open_connection(None, "10.0.0.2")
        last = manager.open_connection(None, "192.0.2.1")
        assert last is not None
        assert manager.open_connection(None, "192.0.2.2") is None
        last.close()
        manager.cidr_limiter = None
        assert manager.open_connection(None, "192.0.2.2")
    assert ResourceManager().cidr_limiter is None
    assert StockManager().cidr_limiter is None


def test_the_limiter_of_a_manager_has_the_subnets_of_its_limits() -> None:
    node = rcmgr.NodeLimits(subnets=rcmgr.SubnetLimits(ipv4=((32, 1),)))
    limiter: Any = ResourceManager(node).cidr_limiter
    assert limiter.limits is node.subnets
