"""The events of a node as they happen, for readers who may be slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from rcmgr.counting.connection_tracker import ConnectionRecord
from rcmgr.counting.denials import DenialLog
from rcmgr.errors import shortened
from rcmgr.gates.bans import Ban
from rcmgr.limits.changes import differences
from rcmgr.limits.names import suggestion
from rcmgr.peers import peer_key, peer_text
from rcmgr.report.node import Node

__all__ = ["KINDS", "Watch", "plain_ban"]

KINDS: Final = ("connections", "denied", "would_deny", "evicted", "bans", "limits")
"""The kinds of events that a reader may choose."""
_MOST_WAITING: Final = 4096
_EVICTED: Final = "connection.evicted"


class Watch(AbstractContextManager["Watch"]):
    """The events of a node from now on, for one reader. A context manager, for one thread.

    kinds: the KINDS of the events; empty: all. ValueError: there is no such kind.

    At most 4,096 events of connections wait for `new_events`, and as many denials as their log
    keeps. It counts the others as left out. A host pays 0.3 us for each step of a connection,
    and nothing for other events.
    """

    def __init__(self, node: Node, kinds: Collection[str] = ()) -> None:
        for kind in kinds:
            if kind not in KINDS:
                hint = suggestion(str(kind), KINDS)
                raise ValueError(
                    f"kinds must be of {', '.join(KINDS)}, not {kind!r}"
                    + (f"; {hint}" if hint else ""))
        self.kinds = tuple(kinds) or KINDS
        self._node = node
        self._steps: list[tuple[str, float, ConnectionRecord]] = []
        self._left_out = 0
        self._lock = threading.Lock()
        self._seen = {log: log.total for log in (node.denials, node.would_deny)}
        self._limits = node.node_limits
        self._bans = self._bans_now()
        self._stop = (
            node.connection_tracker._watch_steps(self._note) if "connections" in self.kinds
            else lambda: None)

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _note(self, state: str, record: ConnectionRecord) -> None:
        """Called by the thread that counts the connection, after it has."""
        if len(self._steps) < _MOST_WAITING:
            self._steps.append((state, time.time(), record))
        else:
            self._leave_out(1)

    def _leave_out(self, events: int) -> None:
        with self._lock:
            self._left_out += events

    def new_events(self) -> list[dict[str, Any]]:
        """The events since the last call, ready for JSON."""
        events = [
            *self._connections(), *self._denials(self._node.denials),
            *self._denials(self._node.would_deny), *self._changed_bans(), *self._changed_limits()]
        events.sort(key=lambda event: event["time"])  # stable
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        if left_out:
            events.append({"event": "left_out", "time": time.time(), "events": left_out})
        return events

    def _connections(self) -> Iterator[dict[str, Any]]:
        count = len(self._steps)  # another thread may append meanwhile
        steps = self._steps[:count]
        del self._steps[:count]
        now = self._node.connection_tracker.now_ns
        for state, when, record in steps:
            peer = record.peer_id
            event, _, way = state.partition("_")
            closed = {"seconds": max(0.0, (now - record.since_ns) / 1e9)}
            yield {
                "event": event, "time": when,
                "connection_id": shortened(record.connection_id),
                "peer": None if peer is None else shortened(peer_text(peer_key(peer))),
                "address": None if record.address is None else shortened(record.address),
                **({"inbound": way == "inbound"} if way else closed),
            }

    def _denials(self, log: DenialLog) -> Iterator[dict[str, Any]]:
        name = "denied" if log.enforced else "would_deny"
        total = log.total
        new, self._seen[log] = total - self._seen[log], total
        entries = log.latest_entries(new)
        if name in self.kinds:
            self._leave_out(new - len(entries))
        for entry in entries:
            evicted = log.enforced and entry.error.code == _EVICTED
            event = "evicted" if evicted else name
            if event in self.kinds:
                yield {
                    "event": event, "time": time.time() - entry.seconds_ago,
                    "inbound": entry.inbound,
                    **{
                        key: shortened(value)
                        if isinstance(value, str) and key not in ("message", "setting") else value
                        for key, value in entry.error.to_dict().items()
                    },
                }

    def _bans_now(self) -> dict[str, Ban]:
        return {ban.what: ban for ban in self._node.bans()} if "bans" in self.kinds else {}

    def _changed_bans(self) -> Iterator[dict[str, Any]]:
        before, now = self._bans, self._bans_now()
        self._bans = now
        for what, ban in now.items():
            old = before.get(what)
            if old is None or ban.times != old.times or ban.seconds_left > old.seconds_left:
                yield {"event": "banned", "time": time.time(), **plain_ban(ban)}
        for what in before.keys() - now.keys():
            yield {"event": "unbanned", "time": time.time(), "what": what}

    def _changed_limits(self) -> Iterator[dict[str, Any]]:
        before, now = self._limits, self._node.node_limits
        if "limits" not in self.kinds or now == before:
            return
        self._limits = now
        yield {
            "event": "limits", "time": time.time(),
            "changes": [each._asdict() for each in differences(before, now)]}


def plain_ban(ban: Ban) -> dict[str, Any]:
    """A ban, ready for JSON. seconds_left: None: until it is ended. node: another of the fleet."""
    left = None if ban.seconds_left == float("inf") else ban.seconds_left
    return {
        "what": ban.what, "seconds_left": left, "reason": ban.reason, "by": ban.by,
        "times": ban.times, **({"node": ban.node} if ban.node else {})}
