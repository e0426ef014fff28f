"""The decisions that a replay makes otherwise than the record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from rcmgr.counting.groups import Refusal
from rcmgr.replay import events as kinds
from rcmgr.replay.events import Event
from rcmgr.replay.player import NOT_ASKED

__all__ = ["Difference", "Outcome", "Refused"]

_MOST_NAMES: Final = 1024
_MOST_OFFENDERS: Final = 100_000
WHAT: Final = {
    kinds.BEGIN: "handshake", kinds.ESTABLISH: "connection", kinds.REPORT: "connection",
    kinds.TAKE_OVER: "connection", kinds.ACQUIRE: "connection", kinds.CHARGE: "connection",
    kinds.SET_PEER: "connection", kinds.OPEN_STREAM: "stream", kinds.PROTOCOL: "stream",
    kinds.SERVICE: "stream", kinds.TAKE_STREAM: "stream", kinds.CONN_MEMORY: "memory",
    kinds.STREAM_MEMORY: "memory", kinds.MEMORY: "memory", kinds.RATE: "request",
    kinds.PROCESS: "memory",
}


@dataclass(slots=True)
class Refused:
    """Requests that one limit refused in the replay, and not in the record."""

    code: str
    setting: str
    """The setting of this limit, or an empty text."""
    message: str
    """The first error, in full."""
    first_ns: int
    last_ns: int = 0
    times: int = 0
    what: Counter[str] = field(default_factory=Counter)
    peers: Counter[Any] = field(default_factory=Counter)
    addresses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Difference:
    """One decision that the replay made otherwise."""

    time_ns: int
    what: str
    recorded: str | None
    """The code of the limit that refused in the record; None: it was granted."""
    replayed: str | None
    peer: Any
    address: str | None


class Outcome:
    """Counts how the answers of a `Player` differ from the record. `asked` is its listener.

    differences: how many single differences to keep.
    """

    def __init__(self, differences: int = 0) -> None:
        self.agreed = 0
        """Refused in both, by the same limit."""
        self.other_limit = 0
        """Refused in both, by different limits."""
        self.granted: Counter[str] = Counter()
        """Refused in the record only, by code."""
        self.refused: dict[tuple[str, str], Refused] = {}
        """Refused in the replay only, by code and scope."""
        self.recorded: Counter[str] = Counter()
        """All refusals of the record, by code."""
        self.differences: list[Difference] = []
        self._most = differences

    def asked(self, event: Event, answer: object) -> None:
        code = event[8]
        if code is not None:
            self.recorded[code] += 1
        if answer is NOT_ASKED:
            return
        if answer:
            self.granted[code or ""] += 1
            self._differ(event, None)
            return
        found: str = getattr(answer, "code", "")
        if code is None:
            self._refused(event, answer, found)
            self._differ(event, found)
        elif code == found:
            self.agreed += 1
        else:
            self.other_limit += 1
            self._differ(event, found)

    def _refused(self, event: Event, answer: Any, code: str) -> None:
        scope = ""
        if (type(answer) is Refusal and ".protocol." in code) or ".service." in code:
            scope = answer.scope
        key = (code, scope)
        refused = self.refused.get(key)
        if refused is None:
            if len(self.refused) >= _MOST_NAMES:
                key = (code, "")
            refused = self.refused.get(key)
            if refused is None:
                error = answer.to_error(None, event[4])
                refused = self.refused[key] = Refused(
                    code, error.to_dict().get("setting") or "", str(error), event[2])
        refused.times += 1
        refused.last_ns = event[2]
        refused.what[WHAT.get(event[0], "other")] += 1
        if event[4] is not None and len(refused.peers) < _MOST_OFFENDERS:
            refused.peers[event[4]] += 1
        if event[5] is not None and len(refused.addresses) < _MOST_OFFENDERS:
            refused.addresses[event[5]] += 1

    def _differ(self, event: Event, found: str | None) -> None:
        if len(self.differences) < self._most:
            self.differences.append(Difference(
                event[2], WHAT.get(event[0], "other"), event[8], found, event[4], event[5]))

    @property
    def newly_refused(self) -> int:
        return sum(refused.times for refused in self.refused.values())

    @property
    def newly_granted(self) -> int:
        return self.granted.total()
