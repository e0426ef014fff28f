"""Peers and networks that are shut out for a time."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from rcmgr.counting.event_ring import EventRing
from rcmgr.counting.pacing import in_order, paced
from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.errors import Banned, shortened
from rcmgr.gates.addresses import endpoint_of, parse_entry
from rcmgr.limits.checks import check_number
from rcmgr.limits.networks import Network
from rcmgr.peers import peer_key, peer_text

__all__ = ["Ban", "BanRefusal", "Bans", "Subject", "ban_subject"]

_MOST_BANS: Final = 10_000
_MOST_SECONDS: Final = 100 * 366 * 86_400.0
_MOST_CHARACTERS: Final = 200
_LONGEST_TEXT: Final = 100  # a longer address needs `shortened`

Subject = Network | Hashable
"""The network, or the key of the peer, that a ban is about."""


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban that is in force.

    what: the peer as base58 text, the address, or the network ("192.0.2.0/24").
    seconds_left: inf: until `unban`. reason: for people.
    by: "operator" (`ResourceManager.ban`) or "penalty box".
    times: how often the penalty box has banned this offender, this time included.
    node: the node of the fleet that made it. Empty: this node.
    """

    what: str
    seconds_left: float
    reason: str
    by: Literal["operator", "penalty box"]
    times: int
    node: str = ""


class _Entry:
    """A ban, with the monotonic time of its end."""

    __slots__ = ("by", "node", "reason", "times", "trickle", "until", "what")

    def __init__(
        self, what: str, until: float, reason: str, by: Literal["operator", "penalty box"],
        times: int, trickle: TokenBucket | None, node: str,
    ) -> None:
        self.what, self.until, self.reason = what, until, reason
        self.by, self.times, self.trickle, self.node = by, times, trickle, node


class BanRefusal(NamedTuple):
    """A connection of a banned peer or address. Falsy."""

    what: str
    reason: str
    seconds_left: float
    address: str | None

    @property
    def is_offence(self) -> Literal[False]:
        """The penalty box charges refusals without this attribute."""
        return False

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def code(self) -> str:
        """The code of its error."""
        return "connection.banned"

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> Banned:
        return Banned(
            self.what, self.reason, self.seconds_left, connection_id, peer_id, self.address)


def ban_subject(what: Hashable) -> Subject:
    """The network or peer that `what` names. ValueError: it names neither, or both.

    what: as an entry of an `Allowlist`.
    """
    network, peer = parse_entry(what)
    if network is not None and peer is not None:
        raise ValueError(f"a ban is about a peer or about an address, not both: {what!r}")
    return peer if network is None else network


def subject_text(subject: Subject) -> str:
    if not isinstance(subject, Network):
        return peer_text(subject)
    text = str(subject)
    address, _, bits = text.partition("/")
    return address if int(bits) == (32 if subject.is_ipv4 else 128) else text


def _parts(subject: Subject) -> tuple[Hashable | None, str | None, int]:
    """The peer of a subject, or the first address of a network and its bits."""
    if not isinstance(subject, Network):
        return subject, None, 0
    return None, str(subject).partition("/")[0], subject.bits


class Watcher(Protocol):
    """Learns changes, in the thread that makes them."""

    def made(self, ban: Ban, all_bans: Iterable[Ban]) -> None: ...
    def ended(self, what: str, all_bans: Iterable[Ban]) -> None: ...


class Journal(Watcher, Protocol):
    """Where bans are kept; see `BanFile`."""

    def load(self) -> Iterable[Ban]: ...


class Bans:
    """The bans of a node: at most 10,000. If there are more, those that end first are dropped.

    clock: monotonic nanoseconds. Thread safe. A look-up costs about 1 us while there are bans.
    """

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self.entries: dict[Subject, _Entry] = {}
        """The bans by subject: always the same dict, empty without bans."""
        self._networks: PrefixTable[_Entry] = PrefixTable()
        self._ends: list[tuple[float, int, Subject, _Entry]] = []
        """A heap, which is read under the lock."""
        self._next_end = math.inf
        """No ban ends before it. Look-ups read it without the lock."""
        # subject -> (its bans by the penalty box so far, when the last of them ends)
        self._former: dict[Subject, tuple[int, float]] = {}
        self._added = 0
        self._journal: Journal | None = None
        self.watchers: list[Watcher] = []
        """Each of them learns every change too."""
        self.ring: EventRing | None = None
        """Where bans are noted; None: nothing is recorded."""
        self.refused = 0
        """How often a ban refused a connection."""

    def _now(self) -> float:
        return self._clock() / 1e9

    def __len__(self) -> int:
        self._end_old()
        return len(self.entries)

    def __iter__(self) -> Iterator[Ban]:
        """The bans, those that end first in front."""
        self._end_old()
        with self._lock:
            entries = list(self.entries.values())
        now = self._now()
        for each in paced(in_order(entries, lambda each: each.until)):
            yield Ban(
                each.what, max(0.0, each.until - now), each.reason, each.by, each.times, each.node)

    def add(
        self, subject: Subject, seconds: float | None, reason: str = "",
        by: Literal["operator", "penalty box"] = "operator", times: int = 0, *,
        slows: bool = False, node: str = "",
    ) -> Ban:
        """Ban for so many seconds; None: until `remove`. It replaces a ban of the same subject.

        slows: let one handshake a second through. node: the node of the fleet that made it, which
        keeps it; no journal does. TypeError, ValueError: seconds or reason.
        """
        if seconds is not None:
            check_number("seconds", seconds, 0, _MOST_SECONDS)
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a text, not {reason!r}")
        until = math.inf if seconds is None else self._now() + seconds
        entry = _Entry(
            subject_text(subject), until, reason[:_MOST_CHARACTERS], by, times,
            TokenBucket(1, 1.0, clock=self._clock) if slows else None, node)
        with self._lock:
            self._drop(subject)
            self.entries[subject] = entry
            if isinstance(subject, Network):
                self._networks.set(subject, entry)
            self._added += 1
            heapq.heappush(self._ends, (until, self._added, subject, entry))
            self._next_end = min(self._next_end, until)
            while len(self.entries) > _MOST_BANS:
                self._end_first()
            if times:
                self._former[subject] = times, until
                if len(self._former) > _MOST_BANS:
                    ends = sorted(self._former.items(), key=lambda each: each[1][1])
                    self._former = dict(ends[len(ends) // 2:])
        ring = self.ring  # another thread may take it away
        if ring is not None:
            ring.note_ban(*_parts(subject), seconds, by == "penalty box")
        ban = Ban(
            entry.what, math.inf if seconds is None else seconds, entry.reason, by, times, node)
        if self._journal is not None and not node:
            self._journal.made(ban, self)
        for watcher in tuple(self.watchers):
            watcher.made(ban, self)
        return ban

    def record_to(self, ring: EventRing | None) -> None:
        """Note all bans in this ring, also those in force now. None: note nothing."""
        self.ring = ring
        if ring is not None:
            now = self._now()
            for subject, entry in list(self.entries.items()):
                seconds = None if math.isinf(entry.until) else max(0.0, entry.until - now)
                ring.note_ban(*_parts(subject), seconds, entry.by == "penalty box")

    def load(self, journal: Journal) -> None:
        """Add the bans that a journal keeps, and tell it of later changes."""
        for ban in journal.load():
            subject, of_box = ban_subject(ban.what), ban.by == "penalty box"
            self.add(
                subject, None if math.isinf(ban.seconds_left) else ban.seconds_left, ban.reason,
                ban.by, ban.times, slows=of_box and isinstance(subject, Network))
        self._journal = journal

    def end_of_box(self) -> None:
        """End all bans by the penalty box, and forget its earlier ones."""
        with self._lock:
            self._former.clear()
            ended = [
                (subject, each.what) for subject, each in self.entries.items()
                if each.by == "penalty box"]
            for subject, _ in ended:
                self._drop(subject)
        if self._journal is not None:
            for _, what in ended:
                self._journal.ended(what, self)

    def former(self, subject: Subject) -> tuple[int, float]:
        """How often the penalty box has banned it, and in how many seconds the last ban ends."""
        times, end = self._former.get(subject, (0, 0.0))
        return times, end - self._now()

    def remove(self, subject: Subject, *, told: bool = True) -> bool:
        """End a ban, and forget earlier ones. False: this exact subject has no ban.

        told: False: the fleet has ended it, so the watchers are not told.
        """
        self._end_old()
        with self._lock:
            self._former.pop(subject, None)
            removed = self._drop(subject)
        ring = self.ring
        if removed and ring is not None:
            ring.note_unban(*_parts(subject))
        if removed and self._journal is not None:
            self._journal.ended(subject_text(subject), self)
        if told:
            for watcher in tuple(self.watchers):
                watcher.ended(subject_text(subject), self)
        return removed

    def refusal(
        self, peer: Hashable | None, address: object, *, inbound: bool, counted: bool = True
    ) -> BanRefusal | Literal[True]:
        """The ban that refuses this connection; True: none does.

        peer, address: None: not to be asked about. The penalty box refuses no outbound connection.
        counted: whether it counts in `refused`.
        """
        now = self._now()
        if self._next_end <= now:
            self._end_old()
        if peer is not None:
            entry = self.entries.get(peer_key(peer))
            if entry is not None and (inbound or entry.by == "operator"):
                return self._refused(entry, address, now, counted)
        if address is not None:
            ip = endpoint_of(address).ip
            for _, entry in () if ip is None else self._networks.matching(ip):
                if not inbound and entry.by != "operator":
                    continue
                if entry.trickle is None or not entry.trickle.try_consume():
                    return self._refused(entry, address, now, counted)
        return True

    def shuts_out(self, address: object) -> bool:
        """Whether `refusal` would refuse all inbound peers of an address now. It counts nothing."""
        self._end_old()
        ip = endpoint_of(address).ip
        return ip is not None and any(
            entry.trickle is None or entry.trickle.get_available_tokens() < 1
            for _, entry in self._networks.matching(ip))

    def _refused(
        self, entry: _Entry, address: object, now: float, counted: bool
    ) -> BanRefusal:
        with self._lock:
            self.refused += counted
        left = entry.until - now
        if address is not None and (type(address) is not str or len(address) > _LONGEST_TEXT):
            address = shortened(address)
        # a flood waits for this: calling the class takes twice as long
        return tuple.__new__(
            BanRefusal, (entry.what, entry.reason, left if left > 0 else 0.0, address))

    def _end_old(self) -> None:
        now = self._now()
        if self._next_end > now:
            return
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                self._end_first()
            self._next_end = self._ends[0][0] if self._ends else math.inf

    def _end_first(self) -> None:
        """Locked. Drop the ban that ends first, or a heap entry whose ban was removed before."""
        _, _, subject, entry = heapq.heappop(self._ends)
        if self.entries.get(subject) is entry:
            self._drop(subject)

    def _drop(self, subject: Subject) -> bool:
        """Locked."""
        if self.entries.pop(subject, None) is None:
            return False
        if isinstance(subject, Network):
            self._networks.remove(subject)
        if len(self._ends) > 2 * len(self.entries) + 64:
            self._ends = [each for each in self._ends if self.entries.get(each[2]) is each[3]]
            heapq.heapify(self._ends)
        return True
