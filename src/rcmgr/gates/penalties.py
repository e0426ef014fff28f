"""Offences cost points. Offenders with too many points are banned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Protocol

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.event_ring import EventRing
from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.errors import RateLimitExceeded
from rcmgr.gates.addresses import Allowlist, endpoint_of
from rcmgr.gates.bans import Bans, Subject
from rcmgr.gates.fleet import FleetRefusal
from rcmgr.gates.networks import AddressRefusal
from rcmgr.gates.requests import RateRefusal
from rcmgr.limits.networks import Network
from rcmgr.limits.penalties import PenaltyBox
from rcmgr.peers import peer_key

__all__ = ["Offence", "OffenceLog", "Penalties"]


class Offence(Enum):
    """An act of a stranger: its name in reasons, and the points for its address and its peer.

    After a handshake, the peer pays in full and its address a fifth, because honest peers may
    share the address.

    HANDSHAKE, RATE, DENIED, NO_PROTOCOL, WINDOW: docs/bans.md has a table of them.
    """

    HANDSHAKE = ("failed handshakes", 4, 0)
    RATE = ("too many requests", 2, 2)
    DENIED = ("denied again and again", 1, 1)
    NO_PROTOCOL = ("streams without a protocol", 1, 5)
    WINDOW = ("data beyond its window", 5, 25)

    def __init__(self, text: str, address_points: int, peer_points: int) -> None:
        self.text = text
        self.address_points, self.peer_points = address_points, peer_points


class OffenceLog(Protocol):
    """Reports offences and bans; see `CanonicalLog`."""

    def offended(
        self, peer: Hashable | None, address: str | None, offence: Offence
    ) -> None: ...
    def banned(self, peer: Hashable | None, address: str | None, offence: Offence) -> None: ...


class Penalties:
    """The penalty box of a node: counts offences, and bans offenders. O(1), about 1 us.

    Thread safe. Strangers cannot fill it: it holds `rules.max_offenders` addresses and as many
    peers, by keyed hash.
    """

    def __init__(
        self, rules: PenaltyBox, bans: Bans, allowlist: Allowlist, log: OffenceLog,
        *, clock: Callable[[], int] | None = None,
    ) -> None:
        self.rules, self._bans, self._allowlist, self._log = rules, bans, allowlist, log
        self._addresses, self._peers = (
            BucketTable(rules.threshold, decay, max_peers=rules.max_offenders, clock=clock)
            for decay in (rules.address_decay, rules.peer_decay))
        self._exempt: PrefixTable[bool] = PrefixTable()
        for text in rules.exempt:
            self._exempt.set(Network.parse(text), True)
        self._lock = threading.Lock()
        self.ring: EventRing | None = None
        """Where offences that are no denial are noted; None: nothing is recorded."""

    def denied(self, refusal: object, peer: Hashable | None, address: object) -> None:
        """A limit refused this inbound request. Bans and evictions are no offence."""
        if not getattr(refusal, "is_offence", True):
            return
        by_rate = isinstance(refusal, RateRefusal | RateLimitExceeded) or (
            isinstance(refusal, AddressRefusal) and refusal.limit is None) or (
            isinstance(refusal, FleetRefusal) and refusal.most is None)
        self._charge(Offence.RATE if by_rate else Offence.DENIED, peer, address)

    def handshake_failed(self, address: object) -> None:
        """An inbound connection ended before its handshake was done."""
        self.charge(Offence.HANDSHAKE, None, address)

    def charge(self, offence: Offence, peer: Hashable | None, address: object) -> None:
        """Charge an offence to a peer and its address; None: unknown."""
        ring = self.ring  # another thread may take it away
        if ring is not None:
            ring.note_offence(offence.name, peer, address)
        self._charge(offence, peer, address)

    def _charge(self, offence: Offence, peer: Hashable | None, address: object) -> None:
        text = None if address is None else str(address)
        ip = None if text is None else endpoint_of(text).ip
        if peer is not None and self._allowlist.allows(peer, ip):
            return
        if ip is not None and (
            self._exempt.longest(ip) is not None or self._allowlist.allows_address(ip)
        ):
            ip = None
        self._log.offended(peer, text if ip is not None else None, offence)
        if peer is not None:
            key = peer_key(peer)
            if (
                offence.peer_points and isinstance(key, bytes | str)
                and not self._peers.try_consume(key, offence.peer_points)
            ):
                self._ban(key, self._peers, key, peer, text, offence)
        if ip is not None:
            rules, is_ipv4 = self.rules, len(ip) == 4
            network = Network.of(ip, rules.ipv4_prefix if is_ipv4 else rules.ipv6_prefix)
            key = _key_of(network)
            if not self._addresses.try_consume(key, offence.address_points):
                self._ban(network, self._addresses, key, peer, text, offence)

    def _ban(
        self, subject: Subject, table: BucketTable, key: bytes | str,
        peer: Hashable | None, address: str | None, offence: Offence,
    ) -> None:
        table.forget(key)
        of_address, rules = isinstance(subject, Network), self.rules
        first, most = (
            (rules.address_seconds, rules.address_most_seconds) if of_address
            else (rules.peer_seconds, rules.peer_most_seconds))
        with self._lock:
            times, left = self._bans.former(subject)
            if left > 0:
                return  # the offence began before the ban
            if -left > rules.forget_seconds:
                times = 0
            self._bans.add(
                subject, min(most, first * 2.0 ** min(times, 64)), offence.text, "penalty box",
                times + 1, slows=of_address)
        self._log.banned(peer, address, offence)

    def forgive(self, subject: Subject) -> None:
        """Forget the points of a peer or address."""
        if isinstance(subject, Network):
            self._addresses.forget(_key_of(subject))
        else:
            self._peers.forget(subject)


def _key_of(network: Network) -> bytes:
    return (b"4" if network.is_ipv4 else b"6") + network.prefix
