"""Replay a record: the same history through the real counting code, under other limits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rcmgr.limits.node import NodeLimits
from rcmgr.record.frames import Frame, Header
from rcmgr.record.history import History
from rcmgr.replay.events import Event
from rcmgr.replay.go_traces import GoTrace, is_go_trace
from rcmgr.replay.outcome import Outcome
from rcmgr.replay.player import Player

__all__ = ["Replay", "Sample", "replay"]

_MOST_SAMPLES: Final = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """The amounts held at a moment of the replay, in the order of `ScopeStat`."""

    wall: float
    held: tuple[int, ...]
    refused: int
    """Refused by the replay only, so far."""


@dataclass(slots=True)
class Replay:
    """The result of a replay."""

    outcome: Outcome
    player: Player
    history: History | GoTrace
    events: int = 0
    begin: float = 0.0
    """Unix time of the first event, in seconds."""
    end: float = 0.0
    held_before: list[int] = field(default_factory=list)
    """The amounts held before the record began, in the order of `ScopeStat`."""
    samples: list[Sample] = field(default_factory=list)
    complete: bool = True
    """False: Ctrl-C has ended it early."""
    offset: float = 0.0

    @property
    def same(self) -> int:
        """Decisions that are the same in the record and the replay."""
        return self.player.agreed + self.outcome.agreed

    @property
    def decisions(self) -> int:
        """Everything that was asked again."""
        outcome = self.outcome
        return (
            self.same + outcome.other_limit + outcome.newly_granted + outcome.newly_refused)

    def wall(self, time_ns: int) -> float:
        """The Unix time of an event, in seconds."""
        return time_ns / 1e9 + self.offset

    def take_sample(self) -> None:
        held = tuple(self.player.manager._held())
        self.samples.append(Sample(
            self.wall(self.player.now_ns), held, self.outcome.newly_refused))
        if len(self.samples) > _MOST_SAMPLES:
            del self.samples[1:-1:2]


def replay(
    path: Path, limits: NodeLimits | None = None, *, differences: int = 0,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Replay a record of this path under limits; None: the limits that the node had.

    path: also that of a trace file of go-libp2p.
    progress: called after each frame. Ctrl-C (KeyboardInterrupt) ends the replay, and the result
        is what was replayed until then.
    OSError, RecordError: the record cannot be read. ValueError: its settings make no sense.
    """
    outcome = Outcome(differences)
    history = GoTrace(path) if is_go_trace(path) else History(path)
    result = Replay(outcome, Player(limits, outcome.asked), history)
    with _without_collector():
        try:
            for frame in history:
                _take(result, frame)
                if progress is not None:
                    progress(result)
        except KeyboardInterrupt:
            result.complete = False
    return result


def _take(result: Replay, frame: Header | Frame | list[Event]) -> None:
    if isinstance(frame, Header):
        result.player.begin(frame)
        result.offset = frame.wall - frame.mono / 1e9
        if not result.begin:
            result.begin = result.end = frame.wall
            result.held_before = frame.held
        return
    if isinstance(frame, Frame):
        result.player.play(frame)
        result.events += frame.events
    else:
        if frame and not result.begin:
            result.begin = frame[0][2] / 1e9
        result.player.play_events(frame)
        result.events += len(frame)
    result.end = result.wall(result.player.now_ns)
    result.take_sample()


@contextmanager
def _without_collector() -> Iterator[None]:
    """A replay makes no cycles. The collector would look at all open connections again and again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
