from __future__ import annotations

from typing import Any

import cbor2
import pytest

from rcmgr import (
    AddressRates,
    Allowlist,
    ConcreteLimits,
    Limit,
    NodeLimits,
    PenaltyBox,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.counting.event_ring import EventRing
from rcmgr.limits.networks import Network
from rcmgr.record.settings import ProtocolRates, document_of, read_settings

LIMITS = NodeLimits(
    ConcreteLimits(system=Limit(conns=5), peer={b"a secret peer": Limit(streams=1)}),
    subnets=SubnetLimits(overrides={"198.51.100.0/24": 2, "127.0.0.0/8": None}),
    rates=AddressRates(overrides={"2001:db8::/32": Rate(1.0, 2)}),
    penalties=PenaltyBox(exempt=frozenset(("198.51.100.7/32",))),
)


def manager() -> ResourceManager:
    made = ResourceManager(LIMITS, Allowlist(["198.51.100.0/24"]))
    made.add_allowed_peer(b"friend")
    made.add_protocol_rate_limiter(
        "/a", RateLimits(default=Rate(2.0, 3), overrides={"get": None}),
        networks=AddressRates(ipv4=((24, Rate(1.0, 1)),)))
    return made


def read(node: ResourceManager, ring: EventRing) -> Any:
    return read_settings(cbor2.loads(cbor2.dumps(document_of(node, ring))))


def test_with_identities_settings_are_read_as_they_were() -> None:
    found = read(manager(), EventRing(identities=True))
    assert found.limits == LIMITS
    assert found.peers == [b"friend"]
    assert found.networks == [(Network.parse("198.51.100.0/24"), [None])]
    assert found.rates == {"/a": ProtocolRates(
        RateLimits(default=Rate(2.0, 3), overrides={"get": None}),
        AddressRates(ipv4=((24, Rate(1.0, 1)),)))}


def test_without_identities_names_are_those_of_the_record() -> None:
    ring = EventRing()
    found = read(manager(), ring)
    network = Network.of(ring.hash_of_ip(b"\xc6\x33\x64\0"), 24)
    assert found.limits.subnets.overrides == {str(network): 2, "127.0.0.0/8": None}
    assert found.networks == [(network, [None])]
    assert found.peers == [ring.hash_of_peer(b"friend")]
    assert found.limits.scopes.peer == {ring.hash_of_peer(b"a secret peer"): Limit(streams=1)}
    text = cbor2.dumps(document_of(manager(), ring))
    for secret in (b"198.51.100", b"2001:db8", b"a secret peer", b"friend"):
        assert secret not in text
    assert found.limits.scopes.system == Limit(conns=5)


@pytest.mark.parametrize(
    "document",
    [
        {}, {"limits": 5, "peer_limits": [], "rates": {}, "allow": {}},
        {"limits": "{}", "peer_limits": [[b"p", {"streams": -1}]], "rates": {}, "allow": {}},
        {"limits": '{"System": {"Conns": "many"}}', "peer_limits": [], "rates": {}, "allow": {}},
        {"limits": "{}", "peer_limits": [], "rates": {"/a": 5}, "allow": {}},
        {"limits": "{}", "peer_limits": [], "rates": {}, "allow": {"peers": [], "networks": [5]}},
    ],
)
def test_other_documents_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_settings(document)
