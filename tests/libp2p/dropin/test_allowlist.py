"""libp2p's allowlist and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction, ResourceLimits
from libp2p.rcmgr.allowlist import Allowlist as StockAllowlist
from libp2p.rcmgr.allowlist import AllowlistConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.manager import ResourceManager as StockManager
from multiaddr import Multiaddr
from stock_and_ours import FRIEND, OTHER, PEER, established, managers
from swarm import finish

import rcmgr
from rcmgr.libp2p.dropin.allowlist import Allowlist
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ResourceManager

HERE = "/ip4/192.0.2.1/tcp/4001"


def gets_in(manager: Any, connection_id: str, peer: ID) -> bool:
    return established(manager.connection_lifecycle, connection_id, peer, Multiaddr(HERE))


def test_a1_entries_with_addresses_are_consulted() -> None:
    stock, ours = managers(
        limits=ResourceLimits(max_connections=0), enable_graceful_degradation=False,
        allowlist_config=AllowlistConfig(
            multiaddrs={HERE}, peer_multiaddrs={(FRIEND, "/ip4/192.0.2.2")}),
    )
    for manager in (stock, ours):
        assert manager.allowlist.allowed_peer_and_multiaddr(FRIEND, HERE)
    asked = [(None, "192.0.2.1"), (FRIEND, "192.0.2.2"), (OTHER, "192.0.2.2"), (None, "192.0.2.3")]
    assert [stock.open_connection(*each) is not None for each in asked] == [False] * 4
    assert [ours.open_connection(*each) is not None for each in asked] == [True, True, False, False]


def test_a2_no_limit_applies_to_allowed_peers() -> None:
    stock, ours = managers(
        allowlist_config=AllowlistConfig(peers={FRIEND}), cidr_limits=[("10.0.0.0/8", 0)],
        connections_per_peer_per_sec=1e-6, burst_connections_per_peer=1,
        connection_limits=StockLimits(max_established_inbound=0),
    )
    allowed = [
        (
            manager.open_connection(FRIEND, "10.0.0.1") is not None,  # by CIDR
            [manager.acquire_connection(str(FRIEND)) for _ in range(3)],  # by rate
            gets_in(manager, "1", FRIEND),  # by state
        )
        for manager in (stock, ours)
    ]
    assert allowed[0] == (False, [False] * 3, False)
    assert allowed[1] == (True, [True] * 3, True)


def test_a2_peers_may_be_allowed_later() -> None:
    for manager, expected in zip(managers(
        connection_limits=StockLimits(max_established_inbound=0)), (False, True), strict=True
    ):
        assert not gets_in(manager, "1", FRIEND)
        manager.allowlist.add_peer(FRIEND)
        assert gets_in(manager, "2", FRIEND) == expected
        assert manager.connection_tracker.is_bypassed(FRIEND) == expected
        manager.allowlist.remove_peer(FRIEND)
        assert not gets_in(manager, "3", FRIEND)


def test_a3_a_full_node_admits_an_allowed_address() -> None:
    for manager, expected in zip(managers(
        limits=ResourceLimits(max_connections=1), enable_graceful_degradation=False,
        allowlist_config=AllowlistConfig(
            peers={FRIEND}, peer_multiaddrs={(FRIEND, "/ip4/192.0.2.1")}),
    ), (False, True), strict=True):
        kept = [manager.open_connection(OTHER, "192.0.2.9")]
        begun = manager.open_connection(None, "192.0.2.1")  # its peer is still unknown
        assert (begun is not None) == expected
        kept.append(manager.open_connection(FRIEND, "192.0.2.1"))
        assert all(kept)


def test_a4_bypassed_connections_take_no_room() -> None:
    stock_limits, limits = (kind(max_established_inbound=3) for kind in (
        StockLimits, ConnectionLimits))
    stock = StockManager(connection_limits=stock_limits)
    ours = ResourceManager(connection_limits=limits)
    for manager, expected in ((stock, False), (ours, True)):
        tracker: Any = manager.connection_tracker
        tracker.add_bypass_peer(FRIEND)
        assert all(gets_in(manager, str(number), FRIEND) for number in range(3))
        assert tracker.get_connection_count("established_inbound") == 3
        assert gets_in(manager, "4", PEER) == expected
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(), limits)
    lifecycle.tracker.add_bypass_peer(FRIEND)
    for number in range(3):
        finish(lifecycle.handle_established_inbound_connection(str(number), FRIEND))
    finish(lifecycle.handle_established_inbound_connection("4", PEER))


@pytest.mark.parametrize("name", [FRIEND, str(FRIEND), FRIEND.to_bytes()])
def test_a5_a_peer_has_several_names(name: Any) -> None:
    stock, ours = managers(allowlist_config=AllowlistConfig(peers={name}))
    assert stock.allowlist.allowed_peer(FRIEND) == (not isinstance(name, str))
    assert ours.allowlist.allowed_peer(FRIEND)
    assert ours.allowlist.allowed_peer(str(FRIEND))
    assert FRIEND in ours.allowlist.peers
    ours.allowlist.remove_peer(str(FRIEND))
    assert not ours.allowlist.allowed_peer(name)


ENTRIES = ["/ip4/192.0.2.1", "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/udp/1/quic-v1", "/ip6/::1"]


@given(calls=st.lists(st.one_of(
    st.tuples(st.sampled_from(["add_peer", "remove_peer"]), st.sampled_from([FRIEND, PEER])),
    st.tuples(
        st.sampled_from(["add_multiaddr", "remove_multiaddr"]), st.sampled_from(ENTRIES)),
    st.tuples(
        st.sampled_from(["add_peer_multiaddr", "remove_peer_multiaddr"]),
        st.sampled_from([FRIEND, PEER]), st.sampled_from(ENTRIES)),
    st.just(("clear",)),
)))
def test_both_allowlists_agree(calls: list[tuple[Any, ...]]) -> None:
    """Both have the same entries. Ours allows all that 0.8.1 allows, and other ports too (A1)."""
    stock: Any = StockAllowlist()
    ours: Any = Allowlist()
    for call, *arguments in calls:
        for allowlist in (stock, ours):
            getattr(allowlist, call)(*arguments)
        assert stock.peers == ours.peers
        assert ours.multiaddrs == stock.multiaddrs
        assert ours.peer_multiaddrs == stock.peer_multiaddrs
        assert len(ours) == len(stock)
        assert bool(ours) == bool(stock)
        assert ours.is_empty() == stock.is_empty()
        assert repr(ours) == repr(stock)
        assert ours.get_allowed_peers() == stock.get_allowed_peers()
        assert ours.get_allowed_multiaddrs() == stock.get_allowed_multiaddrs()
    # without ports, ours allows exactly these
    hosts = {entry.split("/")[2] for entry in stock.multiaddrs}
    pairs = {(peer, entry.split("/")[2]) for peer, entry in stock.peer_multiaddrs}
    for entry in ENTRIES:
        host = entry.split("/")[2]
        assert ours.allowed_multiaddr(entry) == ours.allowed(entry) == (host in hosts)
        assert ours.allowed_multiaddr(Multiaddr(entry)) == (host in hosts)
        for peer in (FRIEND, PEER):
            assert ours.allowed_peer(peer) == stock.allowed_peer(peer)
            expected = peer in stock.peers or host in hosts or (peer, host) in pairs
            assert ours.allowed_peer_and_multiaddr(peer, entry) == expected
            assert expected or not stock.allowed_peer_and_multiaddr(peer, entry)


def test_entries_without_an_ip_address_are_found_by_text_only() -> None:
    name = "/dns4/example.org/tcp/1"
    ours = Allowlist()
    for add, arguments in (
        (ours.add_multiaddr, (name,)), (ours.add_peer_multiaddr, (FRIEND, name)),
        (ours.add_multiaddr, (f"/p2p/{FRIEND}",)),
    ):
        with pytest.warns(UserWarning, match="admits no connection: missing ip address"):
            add(*arguments)
    assert ours.allowed_multiaddr(name)
    assert ours.allowed_peer_and_multiaddr(FRIEND, name)
    assert not ours.allowed_peer_and_multiaddr(OTHER, "/dns4/example.org/tcp/2")
    assert (len(ours), ours.networks) == (3, {})
    ours.remove_multiaddr(name)
    ours.remove_peer_multiaddr(FRIEND, name)
    assert not ours.allowed_peer_and_multiaddr(FRIEND, name)


def test_the_sets_of_an_allowlist_may_be_changed() -> None:
    ours = Allowlist()
    ours.peers.update([FRIEND, PEER])
    ours.multiaddrs.add("/ip4/10.0.0.0/ipcidr/8")
    ours.peer_multiaddrs.add((OTHER, "/ip4/192.0.2.1"))
    assert ours.allowed_peer(PEER)
    assert ours.allowed_multiaddr("/ip4/10.9.9.9/tcp/1")
    assert not ours.allowed_multiaddr("/ip4/192.0.2.1")
    assert ours.allowed_peer_and_multiaddr(OTHER, "/ip4/192.0.2.1/tcp/9")
    ours.peers.discard(PEER)
    ours.multiaddrs.clear()
    assert ours.peers.union({OTHER}) == {FRIEND, OTHER}
    assert not ours.allowed_multiaddr("/ip4/10.9.9.9/tcp/1")
    for name in ("peers", "multiaddrs", "peer_multiaddrs"):
        with pytest.raises(AttributeError):
            setattr(ours, name, set())


def test_entries_of_ours_are_seen_in_the_sets() -> None:
    ours: Any = Allowlist()
    ours.add(str(FRIEND))
    ours.add("10.0.0.0/8")
    ours.add(f"/ip4/192.0.2.1/p2p/{OTHER}")
    assert ours.peers == {FRIEND}
    assert ours.multiaddrs == {"10.0.0.0/8"}
    assert ours.peer_multiaddrs == {(OTHER, f"/ip4/192.0.2.1/p2p/{OTHER}")}
    assert ours.remove("/ip4/10.0.0.0/ipcidr/8")
    assert ours.remove(f"/ip4/192.0.2.1/p2p/{OTHER}")
    assert not ours.remove("10.0.0.0/8")
    assert (len(ours), ours.networks) == (1, {})


def test_an_address_with_two_entries_stays_until_both_are_removed() -> None:
    ours = Allowlist(AllowlistConfig(multiaddrs={"/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2"}))
    ours.remove_multiaddr("/ip4/192.0.2.1/tcp/1")
    assert ours.allowed_multiaddr("/ip4/192.0.2.1/tcp/1")
    ours.remove_multiaddr("/ip4/192.0.2.1/tcp/2")
    assert not ours.allowed_multiaddr("/ip4/192.0.2.1/tcp/1")


def test_the_allowlist_of_a_manager_may_be_changed() -> None:
    for manager, expected in zip(managers(
        limits=ResourceLimits(0, 512, 0), enable_graceful_degradation=False), (False, True),
        strict=True,
    ):
        manager.allowlist.add_peer(FRIEND)
        assert manager.open_connection(FRIEND)
        assert manager.acquire_stream(str(FRIEND), Direction.INBOUND)
        assert not manager.acquire_stream(str(PEER), Direction.INBOUND)
        manager.allowlist.add_multiaddr(Multiaddr("/ip4/192.0.2.1"))
        assert (manager.open_connection(None, "192.0.2.1") is not None) == expected
        manager.allowlist.remove_multiaddr("/ip4/192.0.2.1")
        # while the list has a peer, ours keeps a few handshakes for it
        assert (manager.open_connection(None, "192.0.2.1") is not None) == expected
        manager.allowlist.clear()
        assert manager.open_connection(FRIEND) is None


def test_a_manager_takes_every_kind_of_allowlist() -> None:
    ours = Allowlist()
    manager = ResourceManager(ResourceLimits(0), allowlist=ours)
    assert manager.allowlist is ours
    ours.add_peer(FRIEND)
    assert manager.open_connection(FRIEND)
    own = rcmgr.Allowlist([FRIEND])
    assert ResourceManager(allowlist=own).allowlist is own
    # made before `install()`, and so copied
    before = StockAllowlist(AllowlistConfig(peers={FRIEND}))
    manager = ResourceManager(ResourceLimits(0), allowlist=before)
    assert manager.open_connection(FRIEND)
    before.add_peer(PEER)
    assert manager.open_connection(PEER) is None
    plain: Any = ResourceManager(ResourceLimits(0), allowlist=[FRIEND, "10.0.0.0/8"]).allowlist
    assert plain.allowed_peer(FRIEND)
    assert plain.allowed_multiaddr("/ip4/10.0.0.1")
