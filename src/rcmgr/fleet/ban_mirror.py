"""The bans of a node and those of its fleet, kept equal."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from rcmgr.fleet.engine import Engine
from rcmgr.fleet.reading import FleetBan, ban_from, read_bans
from rcmgr.fleet.scripts import CHANGE_BANS
from rcmgr.gates.bans import Ban, Bans, Subject, ban_subject
from rcmgr.limits.networks import Network

__all__ = ["BanMirror"]

_MOST_WAITING: Final = 10_000
_SENT_AT_ONCE: Final = 8
_PATIENCE_S: Final = 0.3
"""Seconds that a message may take."""


class BanMirror:
    """Tells the engine about bans of this node, and this node about bans of others.

    prefix: all keys of the fleet begin with it. node: the name of this node. origin: its unique
        name.
    wake: called when a ban waits.
    Each change has a version at the engine, so that a missed message is noticed within a second.
    """

    def __init__(
        self, prefix: str, node: str, origin: str, wake: Callable[[], object],
        *, now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.channel = f"{prefix}changes"
        self._keys = [f"{prefix}bans", f"{prefix}reasons"]
        self._prefix, self._node, self._origin = prefix, node, origin
        self._wake, self._now = wake, now
        self._bans: Bans | None = None
        self._lock = threading.Lock()
        # subject as text -> its ban, or None if it was ended; the latest change counts
        self._waiting: dict[str, Ban | None] = {}
        self._read: tuple[int, int] | None = None  # generation and version that the node has
        self._generation = 0
        self._differs_since: float | None = None

    def watch(self, bans: Bans) -> None:
        """Tell the fleet about later changes of these bans, and about those in force."""
        self._bans = bans
        bans.watchers.append(self)
        for ban in bans:
            self.made(ban, ())

    def unwatch(self) -> None:
        if self._bans is not None and self in self._bans.watchers:
            self._bans.watchers.remove(self)

    # -- changes on this node ------------------------------------------------------------------

    def made(self, ban: Ban, all_bans: Iterable[Ban]) -> None:
        """A ban was made here, or came from the fleet."""
        if not ban.node:
            self._wait(ban.what, ban)

    def ended(self, what: str, all_bans: Iterable[Ban]) -> None:
        self._wait(what, None)

    def _wait(self, what: str, ban: Ban | None) -> None:
        with self._lock:
            self._waiting.pop(what, None)
            if len(self._waiting) < _MOST_WAITING:
                self._waiting[what] = ban
        self._wake()

    @property
    def waiting(self) -> int:
        """Changes that the engine does not know yet."""
        return len(self._waiting)

    def send(self, engine: Engine) -> None:
        """Tell the engine about some of the changes that wait. EngineError: they wait on."""
        with self._lock:
            changes = list(self._waiting.items())[:_SENT_AT_ONCE]
        if not changes:
            return
        said: list[Any] = [self.channel]
        for what, ban in changes:
            said += self._entry(what, ban)
        engine.run(CHANGE_BANS, self._keys, said)
        with self._lock:
            for what, ban in changes:
                if what in self._waiting and self._waiting[what] is ban:
                    del self._waiting[what]

    def _entry(self, what: str, ban: Ban | None) -> list[Any]:
        if ban is None:
            return [what, "0", "", json.dumps({"from": self._origin, "unban": what})]
        left = ban.seconds_left
        reason = {
            "reason": ban.reason, "by": ban.by, "times": ban.times, "node": self._node,
            "from": self._origin}
        message = {"ban": what, "seconds": None if math.isinf(left) else left, **reason}
        return [
            what, "" if math.isinf(left) else max(1, round(left * 1e6)), json.dumps(reason),
            json.dumps(message)]

    # -- changes elsewhere ---------------------------------------------------------------------

    def hear(self, message: bytes) -> None:
        """Apply a message of another node. Any program may have sent it."""
        try:
            generation, version, text = message.split(b" ", 2)
            change = int(generation), int(version)
            said = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict):
            return
        with self._lock:
            if self._read in ((change[0], change[1] - 1), (0, change[1] - 1)):
                self._read = change
                self._generation = change[0]
            elif not self._generation:
                self._generation = change[0]
        if said.get("from") == self._origin:
            return
        match said:
            case {"unban": str(what)}:
                self._end(what)
            case {"ban": str(what), "seconds": int() | float() | None as seconds}:
                if isinstance(seconds, bool):
                    return
                left = math.inf if seconds is None else float(seconds)
                self._make(ban_from(what, left, said))

    def compare(self, engine: Engine, bans: tuple[int, int]) -> None:
        """Read all bans if the engine has others than this node. EngineError.

        bans: generation and version at the engine. 0, 0: it has lost them, or never had any.
        """
        if bans == (0, 0):
            with self._lock:
                self._read = bans
            self._tell_all_again()
            return
        if self._read == bans or self.waiting:
            self._differs_since = None
            return
        if self._read is not None and not self._is_late():
            return
        found = read_bans(engine, self._prefix)
        if self._generation and found.generation != self._generation:
            self._tell_all_again()
        else:
            self._end_others(found.bans.keys())
        self._generation = found.generation
        with self._lock:
            self._read = (found.generation, found.version)
        for ban in found.bans.values():
            if ban.origin != self._origin:
                self._make(ban)

    def _is_late(self) -> bool:
        """Whether the versions have differed for longer than a message takes."""
        now = self._now()
        if self._differs_since is None:
            self._differs_since = now
        if now < self._differs_since + _PATIENCE_S:
            return False
        self._differs_since = None
        return True

    def forget_read(self) -> None:
        """Messages may have been missed: read all bans once more."""
        with self._lock:
            self._read = None

    def _tell_all_again(self) -> None:
        """The engine has no bans: tell it those of this node, if it has any."""
        self._generation = 0
        for ban in self._bans or ():
            self.made(ban, ())

    def _end_others(self, known: Iterable[str]) -> None:
        """End the bans that the fleet has ended while this node was cut off."""
        if self._read is None and not self._generation:
            return  # its first reading: the fleet does not know the bans of this node yet
        known = set(known)
        for ban in list(self._bans or ()):
            if ban.what not in known and ban.what not in self._waiting:
                self._end(ban.what)

    def _make(self, ban: FleetBan) -> None:
        subject = _subject(ban.what)
        if self._bans is None or subject is None or not ban.seconds_left > 0:
            return
        of_box = ban.by == "penalty box"
        seconds = None if math.isinf(ban.seconds_left) else ban.seconds_left
        try:
            self._bans.add(
                subject, seconds, ban.reason, cast(Any, ban.by), ban.times,
                slows=of_box and isinstance(subject, Network), node=ban.node or "?")
        except ValueError:  # a time that no node of ours has sent
            return

    def _end(self, what: str) -> None:
        subject = _subject(what)
        if self._bans is not None and subject is not None:
            self._bans.remove(subject, told=False)


def _subject(what: str) -> Subject | None:
    """None: no node of ours has sent it."""
    try:
        return ban_subject(what)
    except (TypeError, ValueError):
        return None
