"""A thread that writes the decisions of a node into a record while the node runs."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakSet, ref

from rcmgr.counting.denials import DenialLog
from rcmgr.counting.event_ring import EventRing
from rcmgr.counting.memory_stats import default_cache
from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import Ledger
from rcmgr.extras import require
from rcmgr.gates.bans import Bans
from rcmgr.gates.penalties import Penalties
from rcmgr.limits.checks import check_count, check_number
from rcmgr.record.frames import Frame, Header, packed
from rcmgr.record.segments import Segments
from rcmgr.record.settings import Configured, allowed, document_of

__all__ = ["MAX_AGE_S", "MAX_BYTES", "Recorded", "Recording"]

MAX_BYTES: Final = 256 << 20
MAX_AGE_S: Final = 30 * 86_400.0
_LEAST_BYTES: Final = 1 << 17
_MOST_EVENTS: Final = 1 << 14
"""A frame has about as many at most."""
_FRAME_S: Final = 2.0
"""The age of the oldest event when its frame is written. A process that is killed loses as much."""
_PAUSE_S: Final = 0.05
"""Between two looks at the ring."""

logger = logging.getLogger(__name__)
_running: WeakSet[Recording] = WeakSet()


class Recorded(Configured, Protocol):
    """The parts of a manager that a recording uses."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def denials(self) -> DenialLog: ...
    @property
    def penalties(self) -> Penalties | None: ...
    @property
    def _bans(self) -> Bans: ...
    def _held(self) -> ScopeStat: ...


class Recording:
    """The record of a node, while it is written; `ResourceManager.record` makes one.

    `close` ends it; the end of the manager does too. Nothing about it delays or fails a decision.
    An error while it writes is logged once, and its events are lost and counted.
    Thread safe. After `fork`, only the parent records.
    """

    def __init__(
        self, node: Recorded, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S, identities: bool = False,
        clock: Callable[[], int] | None = None, before: Recording | None = None,
    ) -> None:
        """before: the recording that this one replaces. It stays if this one cannot begin."""
        require("cbor2", "a record", "record")
        check_count("max_bytes", max_bytes, _LEAST_BYTES)
        check_number("max_age_s", max_age_s, 1, 1e10)
        self.path = Path(path)
        self._node = ref(node)
        self._identities = identities
        self._clock = time.monotonic_ns if clock is None else clock
        self._ring = EventRing(clock=clock, identities=identities)
        self._lock = threading.RLock()  # guards the file, and all fields that follow
        self._names = 0                 # how many names the file has
        self._settings: list[list[Any]] = []  # noted, and not written yet
        self._settings_noted = 0
        self._latest = document_of(node, self._ring)
        self._due = 0.0                 # when the next frame is written
        self._written = self._lost = self._lost_told = self._dropped_told = 0
        self._failed = False
        self._closed = False
        self._wake = threading.Event()
        if before is not None and os.path.realpath(before.path) == os.path.realpath(path):
            before.close()  # one file has one writer
        self._segments = Segments(
            self.path, self._header, max_bytes=max_bytes, max_age_s=max_age_s)
        if before is not None:
            before.close()
        self._attach(node, self._ring)
        self._thread = threading.Thread(target=self._run, name="rcmgr record", daemon=True)
        self._thread.start()
        _running.add(self)

    # -- what the node tells -------------------------------------------------------------------

    def _attach(self, node: Recorded, ring: EventRing | None) -> None:
        """Let the parts of the node note their decisions in this ring."""
        node._bans.record_to(ring)
        if node.penalties is not None:
            node.penalties.ring = ring
        node.denials.ring = ring
        node.ledger._record_to(ring)

    def note_settings(self) -> None:
        """Record the settings of the node, which have changed."""
        with self._lock:
            node = self._node()
            if self._closed or node is None:
                return
            if node.penalties is not None:
                node.penalties.ring = self._ring
            self._latest = document_of(node, self._ring)
            self._settings.append([self._settings_noted, self._latest])
            self._ring.note_settings(self._settings_noted)
            self._settings_noted += 1

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._wake.wait(_PAUSE_S):
            if self._node() is None:
                self.close()
                return
            self._step()

    def _step(self) -> None:
        with self._lock:
            if self._closed:
                return
            while self._ring.drain():
                if self._ring.events >= _MOST_EVENTS:
                    self._write()
            now = time.monotonic()
            if not self._ring.events:
                self._due = now + _FRAME_S
            elif now >= self._due:
                self._write()

    def flush(self) -> None:
        """Write all events that were noted before this call."""
        with self._lock:
            if self._closed:
                return
            while self._ring.drain():
                pass
            self._write()

    def _write(self) -> None:
        """Write the events that are in columns. Locked."""
        events = self._ring.events
        if events == 0:
            return
        self._due = time.monotonic() + _FRAME_S
        dropped, lost = self._ring.dropped, self._lost
        try:
            self._segments.write(packed(self._frame(dropped, lost)))
        except Exception as error:  # noqa: BLE001  # it is logged, and the thread must continue
            self._lost += events
            self._end_file()  # it lacks the names and peers that this frame brought
            self._failed_with(error)
        else:
            self._written += events
            self._dropped_told, self._lost_told = dropped, lost
            if self._segments.is_full():
                self._end_file()
        self._note_allowlist()

    def _end_file(self) -> None:
        """Let the next frame begin a file, which has its own names, peers and addresses."""
        self._segments.close()
        self._ring.begin_file()
        self._names = 0

    def _frame(self, dropped: int, lost: int) -> Frame:
        """The events that are in columns. dropped, lost: so far."""
        begin, conn, stream = self._ring.begin
        *columns, secrets = self._ring.take_columns()
        names = self._ring.names[self._names:]
        self._names += len(names)
        settings, self._settings = self._settings, []
        return Frame(
            begin, conn, stream, columns, names, settings,
            peers=self._ring.identities_of(secrets) if self._identities else [],
            dropped=dropped - self._dropped_told, lost=lost - self._lost_told,
            rss=default_cache().get_memory_usage(), held=self._held())

    def _held(self) -> list[int]:
        node = self._node()
        return [] if node is None else list(node._held())

    def _note_allowlist(self) -> None:
        """The allowlist may change without a call of the manager."""
        node = self._node()
        if node is not None and self._latest["allow"] != allowed(node.allowlist, self._ring):
            self.note_settings()

    def _header(self) -> bytes:
        from rcmgr import __version__

        return packed(Header(
            time.time(), self._clock(), __version__, os.getpid(), self._identities, self._latest,
            self._held()))

    def _failed_with(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            logger.error(
                "%s: events are lost (%s); from now on only counted, in Recording.stats()",
                self.path, error)

    # -- the end, and numbers ------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counts as a dict, ready for JSON. "written": events in the files. "dropped": events that
        found no room, because the disk was slow. "lost": events that could not be written.
        """
        return {
            "path": str(self.path), "written": self._written, "dropped": self._ring.dropped,
            "lost": self._lost, "closed": self._closed}

    def close(self) -> None:
        """Write what is left, and end. Does nothing a second time."""
        with self._lock:
            if self._closed:
                return
            node = self._node()
            if node is not None:
                self._attach(node, None)
            self.flush()
            self._closed = True
            self._segments.close()
        self._wake.set()
        _running.discard(self)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _forked(self) -> None:
        """This is the child of a fork, which has no thread. The file is the parent's."""
        self._lock = threading.RLock()
        node = self._node()
        if node is not None:
            self._attach(node, None)
        self._closed = True
        self._segments.close()

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, {self.stats()})"


@atexit.register
def _close_all() -> None:
    for recording in list(_running):
        recording.close()


def _end_in_child() -> None:
    for recording in list(_running):
        recording._forked()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)
