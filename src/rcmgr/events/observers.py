"""Calls that are made for the sake of others, and whose failure is theirs alone."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

__all__ = ["Observer", "ObserverCounts"]

_MOST_WAITING = 1024

logger = logging.getLogger(__name__)
_asyncio_tasks: set[asyncio.Task[None]] = set()


class ObserverCounts:
    """What went wrong with all observers of one handler. Thread safe."""

    def __init__(self) -> None:
        self.errors = 0
        self.left_out = 0
        self._lock = threading.Lock()

    def add_error(self) -> None:
        with self._lock:
            self.errors += 1

    def add_left_out(self) -> None:
        with self._lock:
            self.left_out += 1


class Observer:
    """Somebody who is told of one event after the other.

    At once; or, if `in_thread`, in a thread that is there while something waits. What the handler
    returns, if it can be awaited, is awaited in a task of the event loop of the thread that tells;
    such a task, too, is there while something waits.
    """

    def __init__(
        self, handler: Callable[[Any], Any], counts: ObserverCounts, *, in_thread: bool
    ) -> None:
        self.handler = handler
        self._counts = counts
        self._in_thread = in_thread
        self._active = True
        self._was_logged = False
        self._lock = threading.Lock()
        self._events: deque[Any] = deque()
        self._has_thread = False
        # by the thread whose event loop awaits them
        self._awaited: dict[int, deque[Awaitable[Any]]] = {}

    def leave(self) -> None:
        """Be told of nothing any more; what is under way goes on."""
        self._active = False

    def tell(self, event: Any) -> None:
        """Never raises for what the handler does, except for a KeyboardInterrupt within it."""
        if not self._active:
            return
        if self._in_thread:
            self._tell_thread(event)
        elif len(self._awaited.get(threading.get_ident(), ())) >= _MOST_WAITING:
            self._counts.add_left_out()
        else:
            self._call(event)

    def _call(self, event: Any) -> None:
        try:
            result = self.handler(event)
            if result is not None and inspect.isawaitable(result):
                self._await(result)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is reported)
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._counts.add_error()
        with self._lock:
            is_first, self._was_logged = not self._was_logged, True
        if is_first:
            logger.error(
                "an observer of connections failed; from now on this is only counted: %r",
                self.handler, exc_info=error,
            )

    # -- in a thread ---------------------------------------------------------------------------

    def _tell_thread(self, event: Any) -> None:
        with self._lock:
            if len(self._events) >= _MOST_WAITING:
                self._counts.add_left_out()
                return
            self._events.append(event)
            if self._has_thread:
                return
            self._has_thread = True
        try:
            threading.Thread(target=self._work, name="rcmgr observer", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            self._has_thread = False
            self._failed(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not (self._events and self._active):
                    self._has_thread = False
                    return
                event = self._events.popleft()
            self._call(event)

    # -- in a task -----------------------------------------------------------------------------

    def _await(self, work: Awaitable[Any]) -> None:
        thread = threading.get_ident()
        waiting = self._awaited.get(thread)
        if waiting is not None:
            waiting.append(work)
            return
        self._awaited[thread] = deque([work])
        try:
            _start(partial(self._await_all, thread))
        except BaseException:
            del self._awaited[thread]
            _drop(work)
            raise

    async def _await_all(self, thread: int) -> None:
        waiting = self._awaited[thread]
        try:
            while waiting and self._active:
                try:
                    await waiting.popleft()
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 (as above)
                    self._failed_awaiting(error)
        finally:
            del self._awaited[thread]
            for work in waiting:
                self._counts.add_left_out()
                _drop(work)

    def _failed_awaiting(self, error: BaseException) -> None:
        """Cancelling is the event loop's business; all else is the observer's, also in a group."""
        cancelled, others = _parted(error)
        if others is not None:
            self._failed(others)
        if cancelled is not None:
            raise cancelled


def _parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    split = getattr(error, "split", None)
    if split is not None and hasattr(error, "exceptions"):
        cancelled, others = split(_is_cancelled)
        return cancelled, others
    return (error, None) if _is_cancelled(error) else (None, error)


def _is_cancelled(error: BaseException) -> bool:
    trio = sys.modules.get("trio")
    return isinstance(error, asyncio.CancelledError | GeneratorExit) or (
        trio is not None and isinstance(error, trio.Cancelled))


def _drop(work: Awaitable[Any]) -> None:
    """Without a warning that it never was awaited."""
    if inspect.iscoroutine(work):
        work.close()


def _start(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In a task of the event loop of this thread. RuntimeError: it has none."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(work)
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "an observer that is a coroutine function needs trio or asyncio") from None
    task = loop.create_task(work())
    _asyncio_tasks.add(task)  # asyncio itself keeps no reference
    task.add_done_callback(_asyncio_tasks.discard)
