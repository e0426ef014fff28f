"""Small exact models of the compiled code. They are simple, and slow.

They count everything from scratch over plain dicts, and store nothing that they can compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rcmgr import ConnectionLimits

SECOND = 1_000_000_000

STATES = ("pending_inbound", "pending_outbound", "established_inbound", "established_outbound")


class Clock:
    """A clock in nanoseconds that moves only by `advance`."""

    def __init__(self, now: int = 1_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


class Refusal(NamedTuple):
    kind: str
    current: int
    limit: int


@dataclass(eq=False)
class Connection:
    id: Hashable
    peer: Hashable | None
    state: str
    exempt: bool
    reported: bool
    since: int
    removable_since: int | None = None
    """The time since which each reconciliation could remove it; None: the last one could not."""


def key(peer: Hashable) -> Hashable:
    return getattr(peer, "_bytes", peer)


def is_established(state: str) -> bool:
    return state.startswith("established")


class TrackerModel:
    """The answers of a ConnectionTracker. Times are the fake clock's."""

    # a stale connection is found within this time at the latest
    RECONCILED_WITHIN = 30 * SECOND

    def __init__(self, clock: Clock, *, reuse_ids: bool = False) -> None:
        self.clock = clock
        self.reuse_ids = reuse_ids
        self.connections: dict[Hashable, Connection] = {}
        self.bypass: set[Hashable] = set()
        self.max_connections: int | None = None
        self.peaks: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.admitted: Counter[str] = Counter()
        self.created = self.closed = 0

    # -- counting ----------------------------------------------------------------------------

    def select(self, state: str) -> list[Connection]:
        return [c for c in self.connections.values() if c.state == state]

    def of_peer(self, peer: Hashable) -> list[Connection]:
        return [
            c
            for c in self.connections.values()
            if is_established(c.state) and key(c.peer) == key(peer)
        ]

    def peers(self) -> dict[Hashable, set[Hashable]]:
        found: dict[Hashable, set[Hashable]] = {}
        for c in self.connections.values():
            if is_established(c.state):
                found.setdefault(key(c.peer), set()).add(c.id)
        return found

    def counted(self, kind: str, peer: Hashable = None) -> int:
        if kind == "established_per_peer":
            chosen: Iterable[Connection] = self.of_peer(peer)
        elif kind == "connections":
            chosen = self.connections.values()
        elif kind.endswith("_total"):
            prefix = kind.removesuffix("_total")
            chosen = [c for c in self.connections.values() if c.state.startswith(prefix)]
        else:
            chosen = self.select(kind)
        return len([c for c in chosen if not c.exempt])

    def oldest_pending_age(self) -> float | None:
        pending = [c for c in self.connections.values() if not is_established(c.state)]
        if not pending:
            return None
        return (self.clock.now - min(c.since for c in pending)) / SECOND

    # -- transitions -------------------------------------------------------------------------

    def refusing(
        self, state: str, peer: Hashable, limits: ConnectionLimits, was: Connection | None
    ) -> Refusal | None:
        kinds = [state]
        if is_established(state):
            kinds += ["established_per_peer", "established_total"]
        if was is None or was.exempt:
            kinds.append("connections")
        for kind in kinds:
            limit = (
                self.max_connections
                if kind == "connections"
                else getattr(limits, f"max_{kind}")
            )
            current = self.counted(kind, peer)
            if limit is not None and current >= limit:
                self.denied[kind] += 1
                return Refusal(kind, current, limit)
        return None

    def enter(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        for kind in (*STATES, "pending_total", "established_total", "connections"):
            self.peaks[kind] = max(self.peaks[kind], self.counted(kind))
        self.admitted[connection.state] += 1
        if is_established(connection.state):
            per_peer = self.counted("established_per_peer", connection.peer)
            self.peaks["established_per_peer"] = max(
                self.peaks["established_per_peer"], per_peer
            )

    def pend(
        self,
        connection_id: Hashable,
        direction: str,
        peer: Hashable = None,
        limits: ConnectionLimits | None = None,
    ) -> bool | Refusal:
        """True: it is pending now. False: it was pending before. ValueError: it cannot be."""
        state = f"pending_{direction}"
        was = self.connections.get(connection_id)
        if was is not None:
            if was.state == state:
                return False
            if not self.reuse_ids:
                raise ValueError
            self.remove(was)
        exempt = peer is not None and key(peer) in self.bypass
        if limits is not None and not exempt:
            refusal = self.refusing(state, peer, limits, None)
            if refusal is not None:
                return refusal
        self.created += 1
        self.enter(Connection(connection_id, peer, state, exempt, False, self.clock.now))
        return True

    def establish(
        self,
        connection_id: Hashable,
        direction: str,
        peer: Hashable,
        limits: ConnectionLimits | None = None,
        *,
        owned: bool = False,
    ) -> Refusal | None:
        """ValueError: its state does not allow it."""
        was = self.connections.get(connection_id)
        if peer is None:
            raise ValueError
        state = f"established_{direction}"
        if was is not None and was.state != f"pending_{direction}":
            if not self.reuse_ids:
                raise ValueError
            if was.state == state and key(was.peer) == key(peer):
                return None
            self.remove(was)
            was = None
        exempt = key(peer) in self.bypass
        if limits is not None and not exempt:
            refusal = None
            if was is not None and was.exempt:  # its pending state was never asked about
                refusal = self.refusing(was.state, peer, limits, None)
            if refusal is None:
                refusal = self.refusing(state, peer, limits, was)
            if refusal is not None:
                if was is not None:
                    self.remove(was)
                return refusal
        connection = was
        if connection is None:
            self.created += 1
            connection = Connection(connection_id, peer, state, exempt, False, 0)
        connection.peer, connection.state, connection.exempt = peer, state, exempt
        connection.since = self.clock.now
        connection.reported = not owned
        self.enter(connection)
        return None

    def remove(self, connection: Connection, *, only_pending: bool = False) -> bool:
        if connection.state == "closed" or (only_pending and is_established(connection.state)):
            return False
        del self.connections[connection.id]
        connection.state = "closed"
        connection.reported = False
        self.closed += 1
        return True

    def rename(self, connection: Connection, connection_id: Hashable) -> bool:
        """ValueError: another connection has the id."""
        if connection.state == "closed":
            return False
        holder = self.connections.get(connection_id)
        if holder is not None and holder is not connection:
            raise ValueError
        del self.connections[connection.id]
        connection.id = connection_id
        self.connections[connection_id] = connection
        if is_established(connection.state):
            connection.reported = True
        return True

    def clear(self) -> None:
        for connection in list(self.connections.values()):
            self.remove(connection)

    # -- reconciliation ----------------------------------------------------------------------

    def check_reconciled(
        self, live_ids: Collection[Hashable], min_age_seconds: float, gone: set[Hashable]
    ) -> None:
        """Check that `gone` could be removed, and that no stale connection was missed too long."""
        removable = {
            c.id: c
            for c in self.connections.values()
            if c.reported
            and c.id not in live_ids
            and self.clock.now - c.since >= int(min_age_seconds * SECOND)
        }
        assert gone <= set(removable)
        for connection in list(self.connections.values()):
            if connection.id in gone:
                self.remove(connection)
            elif connection.id in removable:
                if connection.removable_since is None:
                    connection.removable_since = self.clock.now
                assert self.clock.now - connection.removable_since < self.RECONCILED_WITHIN
            else:
                connection.removable_since = None
