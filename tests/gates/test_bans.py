"""Bans refuse peers and networks, last for their time, and end."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pytest
from libp2p_values import Multiaddr
from threads import in_threads, rounds

from rcmgr.gates.bans import Ban, Bans, ban_subject
from rcmgr.peers import peer_text

PEER = b"\x12\x20" + b"p" * 32
S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bans(clock: Clock) -> Bans:
    return Bans(clock=clock)


def refuses(
    bans: Bans, peer: Hashable | None, address: object, *, inbound: bool = True
) -> bool:
    return not bans.refusal(peer, address, inbound=inbound)


@pytest.mark.parametrize(("what", "text", "inside", "outside"), [
    ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ("192.0.2.9/24", "192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
    ("/ip4/192.0.2.1/tcp/4001", "192.0.2.1", "/ip4/192.0.2.1/tcp/9/ws", "192.0.2.2"),
    ("/ip4/192.0.0.0/ipcidr/16", "192.0.0.0/16", "192.0.7.7", "192.1.0.0"),
    ("2001:db8::/32", "2001:db8::/32", "/ip6/2001:db8:1::2/udp/1/quic-v1", "2001:db9::"),
    ("::ffff:192.0.2.1", "192.0.2.1", "/ip6/::ffff:192.0.2.1/tcp/1", "192.0.2.2"),
    ("0.0.0.0/0", "0.0.0.0/0", "1.1.1.1", "2001::1"),
])
def test_an_address_or_network(
    bans: Bans, what: str, text: str, inside: str, outside: str
) -> None:
    bans.add(ban_subject(what), None)
    assert [ban.what for ban in bans] == [text]
    assert refuses(bans, None, inside)
    assert refuses(bans, None, inside, inbound=False)
    assert not refuses(bans, None, outside)
    assert bans.remove(ban_subject(what))
    assert not refuses(bans, None, inside)
    assert bans.refused == 2


@pytest.mark.parametrize("name", [PEER, peer_text(PEER), f"/p2p/{peer_text(PEER)}"])
def test_a_peer_by_any_of_its_names(bans: Bans, name: Hashable) -> None:
    bans.add(ban_subject(name), None, "rude")
    assert [(ban.what, ban.reason) for ban in bans] == [(peer_text(PEER), "rude")]
    assert refuses(bans, PEER, None)
    assert refuses(bans, peer_text(PEER), "192.0.2.1", inbound=False)
    assert not refuses(bans, b"other", "192.0.2.1")
    assert bans.remove(ban_subject(PEER))


@pytest.mark.parametrize("what", [
    "", "12D3", "not a peer", "1.2.3.4/33", "/ip4/1.2.3.4/p2p/" + peer_text(PEER), 7, None,
    "/dns4/example.org/tcp/1", "1.2.3.4:80x",
])
def test_what_is_neither_is_refused(what: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts differ
        ban_subject(what)


@pytest.mark.parametrize(("seconds", "reason", "error"), [
    (-1, "", ValueError), (math.nan, "", ValueError), (math.inf, "", ValueError),
    (True, "", TypeError), ("1h", "", TypeError), (1, None, TypeError), (1, b"x", TypeError),
])
def test_a_wrong_ban_changes_nothing(
    bans: Bans, seconds: Any, reason: Any, error: type[Exception]
) -> None:
    before = bans.add(PEER, 60)
    with pytest.raises(error, match=r"seconds|reason"):
        bans.add(PEER, seconds, reason)
    assert list(bans) == [before]


def test_a_ban_ends_by_itself(bans: Bans, clock: Clock) -> None:
    bans.add(ban_subject("192.0.2.1"), 60)
    clock.now += 60 * S - 1
    assert refuses(bans, None, "192.0.2.1")
    clock.now += 1
    assert not refuses(bans, None, "192.0.2.1")
    assert bans.entries == {}
    assert not bans.remove(ban_subject("192.0.2.1"))


def test_bans_are_listed_by_their_end(bans: Bans, clock: Clock) -> None:
    bans.add(PEER, None, "for ever")
    bans.add(ban_subject("192.0.2.0/24"), 50)
    bans.add(ban_subject("192.0.2.1"), 40)
    clock.now += 10 * S
    assert list(bans) == [
        Ban("192.0.2.1", 30.0, "", "operator", 0), Ban("192.0.2.0/24", 40.0, "", "operator", 0),
        Ban(peer_text(PEER), math.inf, "for ever", "operator", 0)]
    assert len(bans) == 3


def test_a_new_ban_replaces_the_old_one(bans: Bans, clock: Clock) -> None:
    bans.add(PEER, 60)
    bans.add(PEER, 10)
    clock.now += 10 * S
    assert not refuses(bans, PEER, None)
    bans.add(PEER, 10)
    bans.add(PEER, 60)
    clock.now += 50 * S
    assert refuses(bans, PEER, None)


def test_a_network_inside_a_banned_one_has_its_own_ban(bans: Bans) -> None:
    bans.add(ban_subject("192.0.2.0/24"), None)
    bans.add(ban_subject("192.0.2.1"), None)
    assert bans.remove(ban_subject("192.0.2.1"))
    assert refuses(bans, None, "192.0.2.1")


def test_the_penalty_box_slows_an_address_and_refuses_no_dial(bans: Bans, clock: Clock) -> None:
    bans.add(ban_subject("192.0.2.1"), 60, "", "penalty box", 1, slows=True)
    bans.add(PEER, 60, "", "penalty box", 1)
    for _ in range(3):
        assert [refuses(bans, None, "192.0.2.1") for _ in range(3)] == [False, True, True]
        clock.now += S
    assert refuses(bans, PEER, None)
    assert not refuses(bans, PEER, "192.0.2.1", inbound=False)


def test_an_operators_ban_has_no_trickle(bans: Bans, clock: Clock) -> None:
    bans.add(ban_subject("192.0.2.1"), 60)
    for _ in range(3):
        assert refuses(bans, None, "192.0.2.1")
        clock.now += S


def test_at_most_ten_thousand_and_the_longest_stay(bans: Bans) -> None:
    for number in range(11_000):
        bans.add(b"%d" % number, 1000 + number)
    assert len(bans) == 10_000
    assert not refuses(bans, b"999", None)
    assert refuses(bans, b"1000", None)


def test_replaced_bans_leave_no_garbage(bans: Bans) -> None:
    for _ in range(1000):
        bans.add(PEER, 60)
    assert len(bans._ends) < 100


def test_removed_bans_leave_the_others_in_order(bans: Bans, clock: Clock) -> None:
    for number in range(300):
        bans.add(b"%d" % number, 1 + number * 7 % 300)
    removed = {number for number in range(300) if number % 3}
    for number in removed:
        assert bans.remove(b"%d" % number)
    assert len(bans._ends) < 300
    for second in range(1, 301):
        clock.now += S
        left = [number for number in range(300) if 1 + number * 7 % 300 > second]
        assert len(bans) == len(set(left) - removed)


def test_the_bans_of_the_box_end_together(bans: Bans) -> None:
    bans.add(PEER, 60, by="penalty box", times=2)
    bans.add(ban_subject("192.0.2.0/24"), 60, by="penalty box", times=1)
    bans.add(b"other", 60)
    assert bans.former(PEER)[0] == 2
    bans.end_of_box()
    assert [ban.by for ban in bans] == ["operator"]
    assert not refuses(bans, PEER, "192.0.2.1")
    assert refuses(bans, b"other", None)
    assert bans.former(PEER)[0] == 0


@pytest.mark.parametrize(("address", "text"), [
    (None, None), ("192.0.2.1", "192.0.2.1"), (Multiaddr("/ip4/192.0.2.1"), "/ip4/192.0.2.1"),
    ("/ip4/192.0.2.1/tcp/1" + "/ws" * 100, None),
])
def test_a_refusal_has_the_address_as_short_text(
    bans: Bans, address: object, text: str | None
) -> None:
    bans.add(PEER, 60)
    refusal: Any = bans.refusal(PEER, address, inbound=True)
    if address is None or text is not None:
        assert refusal.address == text
    else:
        assert len(refusal.address) < len(str(address))


def test_the_longest_ban_has_a_hundred_years(bans: Bans) -> None:
    bans.add(PEER, 100 * 366 * 86_400)
    with pytest.raises(ValueError, match="seconds"):
        bans.add(PEER, 100 * 366 * 86_400 + 1)


class Noted(list[Any]):
    """A ring that keeps what is noted."""

    def note_ban(self, *what: Any) -> None:
        self.append(what)

    def note_unban(self, *what: Any) -> None:
        self.append(what)


def test_a_record_has_the_bans_in_force_and_later_ones(bans: Bans, clock: Clock) -> None:
    network, address = ban_subject("192.0.2.0/24"), ban_subject("2001:db8::1")
    bans.add(PEER, 60, by="penalty box", times=1)
    bans.add(network, None)
    clock.now += 20 * S
    noted: Any = Noted()
    bans.record_to(noted)
    assert noted == [(PEER, None, 0, 40.0, True), (None, "192.0.2.0", 24, None, False)]
    noted.clear()
    bans.add(address, 5)
    bans.remove(address)
    bans.remove(address)  # it has ended already
    bans.remove(PEER)
    assert noted == [
        (None, "2001:db8::1", 128, 5, False), (None, "2001:db8::1", 128), (PEER, None, 0)]
    bans.record_to(None)
    bans.remove(network)
    assert len(noted) == 3


class Told(list[Any]):
    """A watcher that keeps what it learns."""

    def made(self, ban: Ban, all_bans: Any) -> None:
        self.append((ban.what, ban.by))

    def ended(self, what: str, all_bans: Any) -> None:
        self.append(what)


def test_watchers_learn_changes_unless_the_fleet_made_them(bans: Bans) -> None:
    told: Any = Told()
    bans.watchers.append(told)
    address = ban_subject("192.0.2.1")
    bans.add(address, 60)
    bans.remove(address)
    bans.add(address, 60)
    bans.remove(address, told=False)
    assert told == [("192.0.2.1", "operator"), "192.0.2.1", ("192.0.2.1", "operator")]


class ReadUnderLock(list[Any]):
    """A heap that another thread may change: heapq moves its items while others read them."""

    def __init__(self, bans: Bans) -> None:
        self.is_locked = bans._lock._is_owned  # type: ignore[attr-defined]

    def __len__(self) -> int:
        assert self.is_locked()
        return super().__len__()

    def __getitem__(self, index: Any) -> Any:
        assert self.is_locked()
        return super().__getitem__(index)


def test_the_heap_is_read_under_the_lock(bans: Bans, clock: Clock) -> None:
    bans._ends = ReadUnderLock(bans)
    for number in range(3):
        bans.add(b"%d" % number, 1 + number)
    for left in (3, 2, 1, 0):
        assert refuses(bans, b"2", None) == (left > 0)
        assert bans.shuts_out("192.0.2.1") is False
        assert len(bans) == len(list(bans)) == left
        clock.now += S
    bans.add(b"3", 1)
    clock.now += S
    assert not refuses(bans, b"3", None)
    assert len(bans) == 0


def test_the_error_says_who_why_and_how_long(bans: Bans, clock: Clock) -> None:
    bans.add(ban_subject("192.0.2.0/24"), 60, "floods\n")
    clock.now += 15 * S
    answer = bans.refusal(PEER, "192.0.2.1", inbound=True)
    assert answer is not True
    error = answer.to_error("c1", PEER)
    assert str(error) == (
        "banned: 192.0.2.0/24 for 45 s (floods\\n); connection c1; "
        f"address 192.0.2.1; peer {peer_text(PEER)}; see ResourceManager.unban('192.0.2.0/24')")
    assert error.to_dict()["code"] == "connection.banned"
    assert error.retry_after_s == 45


def test_threads(bans: Bans) -> None:
    def work(number: int) -> None:
        for turn in range(rounds(2_000)):
            what = ban_subject(f"192.0.{number}.{turn % 7}")
            bans.add(what, 0 if turn % 3 == 0 else 60)
            bans.refusal(PEER, f"192.0.{number}.1", inbound=True)
            if turn % 2:
                bans.remove(what)
            list(bans)

    in_threads(work, 4)
    for number in range(4):
        for last in range(7):
            bans.remove(ban_subject(f"192.0.{number}.{last}"))
    assert len(bans) == 0
    assert bans._networks.longest(b"\xc0\0\0\1") is None


def test_a_slowed_address_is_banned_with_its_network(bans: Bans) -> None:
    bans.add(ban_subject("192.0.2.1"), 60, "", "penalty box", 1, slows=True)
    bans.add(ban_subject("192.0.2.0/24"), 60)
    assert refuses(bans, None, "192.0.2.1")
    assert refuses(bans, None, "192.0.2.1", inbound=False)


def test_shut_out_without_a_refusal(bans: Bans, clock: Clock) -> None:
    """The question changes nothing: no count, no token of a slowed network, no ban."""
    assert not bans.shuts_out("192.0.2.1")
    bans.add(ban_subject("192.0.2.0/24"), 10)
    bans.add(ban_subject("198.51.100.0/24"), None, by="penalty box", times=1, slows=True)
    bans.add(ban_subject(PEER), None)
    for _ in range(2):
        assert bans.shuts_out("192.0.2.1")
        assert bans.shuts_out("/ip4/192.0.2.9/tcp/1")
        assert not bans.shuts_out("198.51.100.1")  # one a second may ask
        assert not bans.shuts_out("203.0.113.1")
        assert not bans.shuts_out("no address")
        assert not bans.shuts_out("")
    assert bans.refused == 0
    assert not refuses(bans, None, "198.51.100.1")
    assert bans.shuts_out("198.51.100.2")
    clock.now += 11 * S
    assert not bans.shuts_out("192.0.2.1")
    assert not bans.shuts_out("198.51.100.2")
