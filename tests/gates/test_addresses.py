"""Endpoints of addresses, values by network, and the allowlist."""

from __future__ import annotations

import ipaddress

import base58
import hypothesis.strategies as st
import pytest
from hypothesis import given
from libp2p_values import Multiaddr
from threads import in_threads, rounds

from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.gates.addresses import Allowlist, endpoint_of
from rcmgr.limits.networks import Network, packed_ip
from rcmgr.manager import ResourceManager

PEER = bytes.fromhex("1220") + bytes(range(32))
OTHER = bytes.fromhex("1220") + bytes(range(1, 33))
TEXT = base58.b58encode(PEER).decode()
OTHER_TEXT = base58.b58encode(OTHER).decode()


class ID:
    def __init__(self, value: bytes) -> None:
        self._bytes = value


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("/ip4/1.2.3.4", "1.2.3.4"),
        ("/ip4/1.2.3.4/tcp/4001/ws", "1.2.3.4"),
        ("/ip6/2001:db8::1/udp/4001/quic-v1", "2001:db8::1"),
        ("/ip6/::ffff:1.2.3.4/tcp/1", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", "fe80::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("/dns4/example.org/tcp/1", None),
        ("/dnsaddr/example.org", None),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{TEXT}/p2p-circuit", None),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{TEXT}/p2p-circuit/p2p/{OTHER_TEXT}", None),
        ("/memory/1", None),
        ("/ip4", None),
        ("/ip4/", None),
        ("/ip4/1.2.3", None),
        ("/ip4/1.2.3.4.5", None),
        ("", None),
        ("/", None),
        ("nonsense", None),
        ("1.2.3.4\0", None),
        ("/ip6/ä::1", None),
    ],
)
def test_the_ip_of_an_address(address: str, ip: str | None) -> None:
    expected = None if ip is None else ipaddress.ip_address(ip).packed
    assert endpoint_of(address).ip == expected


def test_the_peer_of_an_address() -> None:
    assert endpoint_of(f"/ip4/1.2.3.4/tcp/1/p2p/{TEXT}").peer == PEER
    assert endpoint_of(f"/ip4/1.2.3.4/p2p/{TEXT}/p2p-circuit/p2p/{OTHER_TEXT}").peer == OTHER
    assert endpoint_of("/ip4/1.2.3.4/tcp/1").peer is None


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    endpoint_of(text)
    packed_ip(text)
    for slash in ("", "/ip4/", "/ip6/", "/p2p/"):
        try:
            Allowlist([slash + text])
        except ValueError:
            continue


IPS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
NETWORKS = st.builds(
    lambda ip, bits: ipaddress.ip_network(f"{ip}/{min(bits, ip.max_prefixlen)}", strict=False),
    st.one_of(
        st.sampled_from([ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("2001:db8::")]),
        IPS.filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None),
    ),
    st.integers(0, 128),
)


@given(st.dictionaries(NETWORKS, st.integers(0, 9), max_size=20), st.lists(IPS, max_size=10),
       st.data())
def test_the_longest_prefix_wins(networks: dict, ips: list, data: st.DataObject) -> None:  # type: ignore[type-arg]
    table: PrefixTable[int] = PrefixTable()
    for network, value in networks.items():
        table.set(Network.parse(str(network)), value)
    if networks:
        for network in data.draw(st.lists(st.sampled_from(list(networks)), unique=True)):
            del networks[network]
            table.remove(Network.parse(str(network)))
            with pytest.raises(KeyError):
                table.remove(Network.parse(str(network)))
    for ip in [*ips, *(network.network_address for network in networks)]:
        packed = packed_ip(str(ip))
        assert packed is not None
        real = getattr(ip, "ipv4_mapped", None) or ip
        matching = sorted(
            ((n.prefixlen, v) for n, v in networks.items() if real in n), reverse=True
        )
        assert list(table.matching(packed)) == matching
        assert table.longest(packed) == (matching[0] if matching else None)


def test_allowlist_entries() -> None:
    allowlist = Allowlist([
        "/ip4/1.2.3.4/tcp/80", "/ip4/10.0.0.0/ipcidr/8", "2001:db8::/32",
        f"/ip4/9.9.9.9/p2p/{TEXT}", f"/ip6/fd00::/ipcidr/16/p2p/{TEXT}", OTHER_TEXT,
    ])

    def address(text: str) -> bool:
        return allowlist.allows_address(packed_ip(text))

    assert [address(ip) for ip in ("1.2.3.4", "10.255.0.1", "2001:db8::9", "9.9.9.9", "fd00::1",
                                   "::ffff:10.0.0.1")] == [True] * 6
    assert [address(ip) for ip in ("1.2.3.5", "11.0.0.1", "2001:db9::", "fe00::1")] == [False] * 4
    assert not allowlist.allows_address(None)
    nine = packed_ip("9.9.9.9")
    assert allowlist.allows(PEER, nine)
    assert allowlist.allows(ID(PEER), nine)
    assert allowlist.allows(TEXT, nine)
    assert not allowlist.allows(b"stranger", nine)
    assert not allowlist.allows(PEER, packed_ip("8.8.8.8"))
    assert not allowlist.allows(PEER)
    assert allowlist.allows(b"stranger", packed_ip("10.0.0.1"))
    assert allowlist.allows(OTHER)
    assert allowlist.allows(OTHER, packed_ip("8.8.8.8"))
    assert len(allowlist) == 6


def test_a_wider_entry_for_all_and_a_narrower_one_for_a_peer() -> None:
    allowlist = Allowlist(["10.0.0.0/8", f"/ip4/10.1.0.0/ipcidr/16/p2p/{TEXT}"])
    assert allowlist.allows(OTHER, packed_ip("10.1.2.3"))
    assert allowlist.remove("10.0.0.0/8")
    assert not allowlist.allows(OTHER, packed_ip("10.1.2.3"))
    assert allowlist.allows(PEER, packed_ip("10.1.2.3"))


def test_allowlist_is_edited_while_it_is_read() -> None:
    allowlist = Allowlist()
    assert not allowlist
    entry = f"/ip4/10.0.0.0/ipcidr/8/p2p/{TEXT}"
    for each in (entry, "10.0.0.0/8", ID(OTHER)):
        allowlist.add(each)
        allowlist.add(each)  # a second time changes nothing
    assert allowlist
    assert allowlist.remove(entry)
    assert not allowlist.remove(entry)
    assert allowlist.allows(b"x", packed_ip("10.0.0.1"))
    assert allowlist.remove("10.0.0.0/8")
    assert allowlist.remove(OTHER)
    assert not allowlist.remove(OTHER_TEXT)
    assert not allowlist

    done: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            try:
                for _ in range(rounds(50_000)):
                    assert allowlist.allows_address(bytes([10, 0, 0, 1]))
            finally:
                done.append(number)
        while not done:
            allowlist.add("10.0.0.0/9")
            allowlist.add("10.0.0.0/10")
            allowlist.remove("10.0.0.0/10")
            allowlist.remove("10.0.0.0/9")

    allowlist.add("10.0.0.0/24")
    in_threads(work, 2)


@pytest.mark.parametrize(
    "entry",
    ["/tcp/80", "/dns4/example.org/tcp/80", "/ip4/1.2.3.4/p2p/nonsense", "/ip4/x", "nonsense",
     "/ip4/1.2.3.4/ipcidr/33", "/ip4/1.2.3.4/ipcidr/x", 5, ""],
)
def test_no_allowlist_entries(entry: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Allowlist([entry])  # type: ignore[list-item]


def test_a_multiaddr_is_an_address_and_no_peer() -> None:
    """A `Multiaddr` has bytes like an `ID`."""
    allowlist = Allowlist([Multiaddr("/ip4/9.9.9.9/tcp/1"), Multiaddr(f"/p2p/{TEXT}")])
    allowlist.add(Multiaddr("/ip4/10.0.0.0/ipcidr/8"))
    assert list(allowlist.allowed_peers) == [PEER]
    assert allowlist.allows_address("9.9.9.9")
    assert allowlist.allows(OTHER, "10.1.2.3")
    assert allowlist.remove(Multiaddr("/ip4/10.0.0.0/ipcidr/8"))
    assert not allowlist.allows_address("10.1.2.3")
    manager = ResourceManager()
    manager.ban(Multiaddr("/ip4/8.8.8.8"))
    assert manager.open_connection(None, "8.8.8.8", "inbound") is None


def test_one_text_is_no_collection() -> None:
    with pytest.raises(TypeError, match="collection"):
        Allowlist("1.2.3.4")
