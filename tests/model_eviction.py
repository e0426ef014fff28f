"""The eviction policy again, from scratch over plain lists.

The rules are in ext/eviction.h and ext/pending_shares.h. Nothing here is clever or fast. A list is
in the order of the C code's list, the oldest first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

SECOND = 1_000_000_000
GROUPS_SEEN, GROUP_SEATS_SEEN, UNPROVEN_SEEN = 16, 24, 64
OFTEN, MOST_TURNS = 6, 16
STALE, HALF_LIFE = 600 * SECOND, 300 * SECOND


def siphash13(key: bytes, data: bytes) -> int:
    """SipHash-1-3, written from its specification."""
    mask = 2**64 - 1

    def rotated(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    k0, k1 = (int.from_bytes(key[i : i + 8], sys.byteorder) for i in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def mixed() -> None:
        v[0] = (v[0] + v[1]) & mask
        v[1] = rotated(v[1], 13) ^ v[0]
        v[0] = rotated(v[0], 32)
        v[2] = (v[2] + v[3]) & mask
        v[3] = rotated(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & mask
        v[3] = rotated(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & mask
        v[1] = rotated(v[1], 17) ^ v[2]
        v[2] = rotated(v[2], 32)

    whole = len(data) // 8 * 8
    words = [data[i : i + 8] for i in range(0, whole, 8)]
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for word in (*words, last):
        number = int.from_bytes(word, "little")
        v[3] ^= number
        mixed()
        v[0] ^= number
    v[2] ^= 0xFF
    for _ in range(3):
        mixed()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@dataclass(eq=False)
class Group:
    name: bytes
    is_lucky: bool
    size: int = 0
    changed: int = 0
    """Goes up over all groups: which group came to its size last."""
    lists: dict[str, list[Connection]] = field(
        default_factory=lambda: {"probation": [], "unproven": [], "proven": []})


@dataclass(eq=False)
class Connection:
    owner: object
    group: Group
    born: int
    worked: int
    level: str = "probation"
    proven: bool = False
    work: float = 0.0
    epoch: int = 0
    latency: int | None = None


class EvictionModel:
    def __init__(
        self, places: int, clock: Callable[[], int], *, key: bytes, grace: int = SECOND,
        turn: int = 20 * SECOND, per_second: int | None = None,
    ) -> None:
        self.clock, self.grace, self.turn, self.key = clock, grace, turn, key
        self.groups: dict[bytes, Group] = {}
        self.by_age: list[Connection] = []
        self.levels: dict[str, list[Connection]] = {"probation": [], "unproven": [], "proven": []}
        self.best: dict[str, list[Connection]] = {"work": [], "latency": []}
        self.full_at: dict[bytes, int] = {}
        self.changes = 0
        self.spent_until = self.often_until = self.begun_until = self.in_vain_until = 0
        self.landmark, self.epoch = clock(), 0
        self.per_second = per_second
        self.set_places(places)

    # -- sizes of the protections -------------------------------------------------------------

    def set_places(self, places: int) -> None:
        self.places = places
        self.most_on_probation = 0 if places < 4 else min(64, max(1, places // 10))
        self.most_best = min(32, max(1, places // 8))
        self.crowd = max(6, places // 32)
        self.rate = self.per_second or max(16, places // 2)
        for kind, best in self.best.items():
            while len(best) > self.most_best:
                self.drop(best, min(best, key=lambda c: self.value(kind, c)))
        self.fit_probation(self.clock())

    @staticmethod
    def drop(best: list[Connection], connection: Connection) -> None:
        """The last one takes its place."""
        best[best.index(connection)] = best[-1]
        best.pop()

    # -- what happens -------------------------------------------------------------------------

    def add(self, owner: object, name: bytes, since: int | None = None) -> Connection:
        now = self.clock() if since is None else since
        lucky = (siphash13(self.key, name) >> 8) % 16 == 0
        group = self.groups.setdefault(name, Group(name, lucky))
        debt = min(self.debt(name, now) + self.turn, MOST_TURNS * self.turn)
        self.full_at[name] = max(self.full_at.get(name, 0), now + debt)
        connection = Connection(owner, group, now, now, epoch=self.epoch)
        self.resize(group, 1)
        self.append(connection, "probation")
        self.by_age.append(connection)
        self.fit_probation(now)
        for _ in range(2):
            stale = next(iter(self.levels["proven"]), None)
            if stale is not None and now - stale.worked >= STALE:
                stale.proven = False
                self.move(stale, "unproven")
        return connection

    def remove(self, connection: Connection) -> None:
        for best in self.best.values():
            if connection in best:
                self.drop(best, connection)
        self.levels[connection.level].remove(connection)
        connection.group.lists[connection.level].remove(connection)
        self.by_age.remove(connection)
        self.resize(connection.group, -1)

    def evict(self, connection: Connection, name: bytes) -> None:
        self.remove(connection)
        now, interval = self.clock(), SECOND // self.rate
        self.spent_until = max(self.spent_until, now) + interval
        if self.comes_often(name, now):
            self.often_until = max(self.often_until, now) + 4 * interval

    def note_work(self, connection: Connection, units: int = 1) -> None:
        now = self.clock()
        halves, rest = divmod(max(0, now - self.landmark), HALF_LIFE)
        if halves >= 512:
            self.landmark, self.epoch = now, self.epoch + 1
            halves = rest = 0
        connection.work = self.value("work", connection) + units * math.ldexp(
            1.0 + rest / HALF_LIFE, halves)
        connection.epoch = self.epoch
        if not connection.proven or now - connection.worked >= STALE // 10:
            connection.worked = now
            if connection.level == "unproven":
                self.move(connection, "proven")
            elif connection.level == "proven":
                self.levels["proven"].remove(connection)
                self.levels["proven"].append(connection)
            connection.proven = True
        self.consider("work", connection)

    def note_latency(self, connection: Connection, microseconds: int) -> None:
        if connection.latency is None or microseconds < connection.latency:
            connection.latency = microseconds
            self.consider("latency", connection)

    def promote(self, connection: Connection) -> None:
        if connection.level == "probation":
            level = "proven" if connection.proven else "unproven"
        else:
            level = connection.level
        for lists in (self.levels, connection.group.lists):
            lists[connection.level].remove(connection)
            lists[level].insert(0, connection)
        connection.level = level

    # -- inside -------------------------------------------------------------------------------

    def resize(self, group: Group, by: int) -> None:
        group.size += by
        self.changes += 1
        group.changed = self.changes
        if group.size == 0:
            del self.groups[group.name]

    def append(self, connection: Connection, level: str) -> None:
        connection.level = level
        self.levels[level].append(connection)
        connection.group.lists[level].append(connection)

    def move(self, connection: Connection, level: str) -> None:
        self.levels[connection.level].remove(connection)
        connection.group.lists[connection.level].remove(connection)
        self.append(connection, level)

    def fit_probation(self, now: int) -> None:
        while len(self.levels["probation"]) > self.most_on_probation:
            best = min(
                self.levels["probation"],
                key=lambda c: (not c.proven, self.debt(c.group.name, now)))
            best.worked = now
            self.move(best, "proven" if best.proven else "unproven")

    def value(self, kind: str, connection: Connection) -> float:
        if kind == "work":
            return connection.work if connection.epoch == self.epoch else 0.0
        return -math.inf if connection.latency is None else -float(connection.latency)

    def consider(self, kind: str, connection: Connection) -> None:
        best = self.best[kind]
        if connection in best:
            return
        own = [other for other in best if other.group is connection.group]
        if len(own) < max(1, self.most_best // 4):
            if len(best) < self.most_best:
                best.append(connection)
                return
            own = best
        worst = min(own, key=lambda other: self.value(kind, other))
        if self.value(kind, connection) > self.value(kind, worst):
            best[best.index(worst)] = connection

    def debt(self, name: bytes, now: int) -> int:
        return max(0, self.full_at.get(name, 0) - now)

    def comes_often(self, name: bytes, now: int) -> bool:
        return self.debt(name, now) >= OFTEN * self.turn

    def is_junior(self, connection: Connection) -> bool:
        return self.by_age.index(connection) >= len(self.by_age) // 2

    def grace_of(self, group: Group, now: int) -> int:
        """How long a connection of a group is left alone by newcomers of other groups."""
        return 0 if self.comes_often(group.name, now) else self.grace

    def is_spared(self, connection: Connection, grace: int, now: int) -> bool:
        return (
            any(connection in best for best in self.best.values())
            or now - connection.born < grace
            or (connection.group.size == 1 and connection.group.is_lucky)
        )

    # -- the choice ---------------------------------------------------------------------------

    def choose(self, name: bytes) -> tuple[str, Connection | None]:
        """The rule and the connection, or the reason and None."""
        now = self.clock()
        debt = self.debt(name, now)
        often = self.comes_often(name, now)
        interval = SECOND // self.rate
        burst = self.rate * interval
        if max(0, self.spent_until - now) + interval > (burst if debt < self.turn else burst // 2):
            return "too_many_evictions", None
        if often and max(0, self.often_until - now) + 4 * interval > burst:
            return "too_many_evictions", None
        group = self.groups.get(name)
        own = 0 if group is None else group.size
        rules: dict[str, Iterable[Connection]] = {
            "crowd": () if often else self.of_crowd(own, now),
            "own_group": () if group is None else self.of_own_group(group, now),
            "unproven": () if often else self.of_unproven(debt, now),
            "probation": [
                c for c in self.of_probation(debt, often, now) if not often or c.group is group],
        }
        for rule, candidates in rules.items():
            for found in candidates:
                return rule, found
        return "comes_too_often" if often else "all_worth_more", None

    def begin_handshake(self, name: bytes) -> int:
        """Nanoseconds until a newcomer may begin a handshake. 0: it begins one."""
        now = self.clock()
        if now >= self.in_vain_until or not self.comes_often(name, now):
            return 0
        interval = 4 * (SECOND // self.rate)
        until = max(self.begun_until, now) + interval
        delay = until - now - max(self.rate * (SECOND // self.rate), interval)
        if delay <= 0:
            self.begun_until = until
        return max(0, delay)

    def note_choice(self, name: bytes, chosen: Connection | None) -> None:
        """A newcomer was told the choice."""
        if chosen is None and self.comes_often(name, self.clock()):
            self.in_vain_until = self.clock() + self.turn

    def of_crowd(self, own: int, now: int) -> Iterable[Connection]:
        groups = sorted(self.groups.values(), key=lambda g: (-g.size, -g.changed))
        for group in groups[:GROUPS_SEEN]:
            if group.size <= 2 * (own + 1):
                return
            large, grace = group.size > self.crowd, self.grace_of(group, now)
            for c in group.lists["unproven"][::-1][:GROUP_SEATS_SEEN]:
                if not self.is_spared(c, grace, now) and (large or self.is_junior(c)):
                    yield c
            for c in group.lists["proven"][::-1][:GROUP_SEATS_SEEN] if large else ():
                if not self.is_spared(c, grace, now):
                    yield c

    def of_own_group(self, group: Group, now: int) -> Iterable[Connection]:
        large = group.size > self.crowd
        for c in group.lists["unproven"][::-1][:GROUP_SEATS_SEEN]:
            if not self.is_spared(c, self.grace, now) and (large or self.is_junior(c)):
                yield c

    def of_unproven(self, debt: int, now: int) -> Iterable[Connection]:
        for c in self.levels["unproven"][::-1][:UNPROVEN_SEEN]:
            grace = self.grace_of(c.group, now)
            if not self.is_spared(c, grace, now) and self.is_junior(c) and (
                self.debt(c.group.name, now) >= debt
            ):
                yield c

    def of_probation(self, debt: int, only_own: bool, now: int) -> Iterable[Connection]:
        def is_worse(c: Connection) -> bool:
            age, its = now - c.born, self.debt(c.group.name, now)
            grace = self.grace if only_own else self.grace_of(c.group, now)
            if age >= grace:
                return its >= debt
            return age >= grace // 3 and its >= debt + self.turn

        worse = [c for c in self.levels["probation"][::-1] if is_worse(c)]
        yield from sorted(worse, key=lambda c: -self.debt(c.group.name, now))


@dataclass(eq=False)
class Handshake:
    owner: object
    address: bytes
    group: bytes
    since: int
    stage: int = 0


class PendingModel:
    """The handshake that makes room.

    `handshakes` is in the order in which they came to their stage.
    """

    LAST_STAGE, SEEN = 3, 16

    def __init__(self, clock: Callable[[], int], grace: int, patience: int) -> None:
        self.clock, self.grace, self.patience = clock, grace, patience
        self.handshakes: list[Handshake] = []

    def add(self, owner: object, address: bytes, group: bytes) -> Handshake:
        handshake = Handshake(owner, address, group, self.clock())
        self.handshakes.append(handshake)
        return handshake

    def advance(self, handshake: Handshake) -> bool:
        if handshake.stage == self.LAST_STAGE:
            return False
        handshake.stage += 1
        handshake.since = self.clock()
        self.handshakes.remove(handshake)
        self.handshakes.append(handshake)
        return True

    def remove(self, handshake: Handshake) -> None:
        self.handshakes.remove(handshake)

    def size(self, group: bytes) -> int:
        return sum(h.group == group for h in self.handshakes)

    def oldest(self, stage: int, group: bytes | None = None) -> list[Handshake]:
        found = [h for h in self.handshakes if h.stage == stage and group in (None, h.group)]
        return found[: self.SEEN]

    def waited(self, handshake: Handshake) -> bool:
        wait = self.grace if handshake.stage == 0 else self.patience
        return self.clock() - handshake.since >= wait

    def of_fullest_address(self, found: list[Handshake]) -> Handshake | None:
        def at_address(one: Handshake) -> int:
            return sum(h.address == one.address for h in self.handshakes)

        return max(found, key=at_address, default=None)

    def choose(self, group: bytes) -> list[Handshake]:
        """The possible choices: groups of one size are equally good. Empty: no handshake."""
        own = self.size(group)
        groups = {h.group for h in self.handshakes}
        largest = max((self.size(each) for each in groups), default=0)
        if largest > own + 1:
            return [
                chosen for each in groups if self.size(each) == largest
                for chosen in [self.of_larger(each)]
            ]
        for stage in range(self.LAST_STAGE + 1):
            found = [h for h in self.oldest(stage, group) if self.waited(h)]
            chosen = self.of_fullest_address(found)
            if chosen is not None:
                return [chosen]
        for stage in range(self.LAST_STAGE + 1):
            for handshake in self.oldest(stage):
                if self.waited(handshake) and self.size(handshake.group) > own:
                    return [handshake]
        return []

    def of_larger(self, group: bytes) -> Handshake:
        now = self.clock()
        for grace in (self.grace, -math.inf):
            for stage in range(self.LAST_STAGE + 1):
                found = [h for h in self.oldest(stage, group) if now - h.since >= grace]
                chosen = self.of_fullest_address(found)
                if chosen is not None:
                    return chosen
        raise AssertionError("the group is empty")

    def next(self) -> list[Handshake]:
        groups = {h.group for h in self.handshakes}
        smallest = min((self.size(each) for each in groups), default=0)
        return [
            max((h for h in self.handshakes if h.group == each), key=lambda h: h.stage)
            for each in groups if self.size(each) == smallest
        ]
