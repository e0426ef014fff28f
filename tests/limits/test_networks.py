"""Networks and the limits on them."""

from __future__ import annotations

import ipaddress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rcmgr.limits.networks import AddressRates, Network, SubnetLimits, packed_ip, prefix_of

IPS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(IPS, st.data())
def test_prefixes_agree_with_ipaddress(ip: ipaddress.IPv4Address, data: st.DataObject) -> None:
    packed = packed_ip(str(ip))
    assert packed is not None
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    bits = data.draw(st.integers(0, ip.max_prefixlen))
    network = ipaddress.ip_network(f"{ip}/{bits}", strict=False)
    assert prefix_of(packed, bits) == network.network_address.packed[: -(-bits // 8)]
    assert str(Network.parse(f"{ip}/{bits}")) == str(
        ipaddress.ip_network(str(network)) if network.version == 4 else Network.of(packed, bits)
    )


@pytest.mark.parametrize(
    "text",
    ["1.2.3.4/33", "::1/129", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/x", "1.2.3.4/\u0661", "x/8",
     "::ffff:0:0/95", "", "/8"],
)
def test_no_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|wider"):
        Network.parse(text)


def test_mapped_networks_are_ipv4() -> None:
    assert Network.parse("::ffff:10.0.0.0/104") == Network.parse("10.0.0.0/8")
    assert str(Network.parse("::ffff:10.1.2.3")) == "10.1.2.3/32"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ipv4": ((33, 1),)}, ValueError, "0 to 32"),
        ({"ipv6": ((129, 1),)}, ValueError, "0 to 128"),
        ({"ipv4": (("32", 1),)}, TypeError, "prefix length"),
        ({"ipv4": ((32, -1),)}, ValueError, r"ipv4\[/32\]"),
        ({"ipv4": ((32, 1), (32, 2))}, ValueError, "twice"),
        ({"ipv4": (5,)}, TypeError, "pairs"),
        ({"overrides": {"x": 1}}, ValueError, "not an IP"),
        ({"overrides": {"1.2.3.4": "1"}}, TypeError, "overrides"),
    ],
)
def test_subnet_limits_are_checked(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SubnetLimits(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ipv4": ((32, 5),)}, TypeError, "must be a Rate"),
        ({"overrides": {"1.2.3.4": 5}}, TypeError, "overrides"),
        ({"overall": 5}, TypeError, "overall"),
        ({"max_networks": 0}, ValueError, "1 or more"),
        ({"max_networks": "9"}, TypeError, "max_networks"),
    ],
)
def test_address_rates_are_checked(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AddressRates(**arguments)
