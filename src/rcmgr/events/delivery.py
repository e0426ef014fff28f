"""Deliver events to one observer. Its errors and its delays stay its own."""

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

__all__ = ["Observer"]

_MOST_WAITING = 1024

logger = logging.getLogger(__name__)
_asyncio_tasks: set[asyncio.Task[None]] = set()


class Observer:
    """A function that receives events, one after the other.

    It runs in the thread of `notify`, or with `in_thread` in a separate thread. If it returns an
    awaitable, a task of the event loop of that thread awaits it. The thread and the task exist only
    while events wait.

    count: called with "error" when the function raised, and with "left out" for each event that was
        not delivered.
    """

    def __init__(
        self, handler: Callable[[Any], Any], count: Callable[[str], None], *, in_thread: bool
    ) -> None:
        self.handler = handler
        self._count = count
        self._in_thread = in_thread
        self._active = True
        self._was_logged = False
        self._lock = threading.Lock()
        self._events: deque[Any] = deque()
        self._has_thread = False
        # by the thread whose event loop awaits them
        self._awaited: dict[int, deque[Awaitable[Any]]] = {}

    def stop(self) -> None:
        """Deliver no more events. A call that has begun continues."""
        self._active = False

    def notify(self, event: Any) -> None:
        """Deliver the event. Raises KeyboardInterrupt, but no other exception of the function."""
        if not self._active:
            return
        if self._in_thread:
            self._notify_in_thread(event)
        elif len(self._awaited.get(threading.get_ident(), ())) >= _MOST_WAITING:
            self._count("left out")
        else:
            self._call(event)

    def _call(self, event: Any) -> None:
        try:
            result = self.handler(event)
            if result is not None and inspect.isawaitable(result):
                self._await(result)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (it is logged and counted)
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._count("error")
        with self._lock:
            is_first, self._was_logged = not self._was_logged, True
        if is_first:
            logger.error(
                "an observer of connections failed; from now on this is only counted: %r",
                self.handler, exc_info=error,
            )

    # -- in a thread ---------------------------------------------------------------------------

    def _notify_in_thread(self, event: Any) -> None:
        with self._lock:
            if len(self._events) >= _MOST_WAITING:
                self._count("left out")
                return
            self._events.append(event)
            if self._has_thread:
                return
            self._has_thread = True
        try:
            threading.Thread(target=self._work, name="rcmgr observer", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads, or Python is ending
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
                self._count("left out")
                _drop(work)

    def _failed_awaiting(self, error: BaseException) -> None:
        """Raise a cancellation again: it belongs to the event loop. Report everything else."""
        cancelled, others = _split_cancelled(error)
        if others is not None:
            self._failed(others)
        if cancelled is not None:
            raise cancelled


def _split_cancelled(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
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
    """Close it, so that Python does not warn that it was never awaited."""
    if inspect.iscoroutine(work):
        work.close()


def _start(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a task of this thread's event loop. RuntimeError: there is no event loop."""
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
    _asyncio_tasks.add(task)  # asyncio keeps no reference to a running task
    task.add_done_callback(_asyncio_tasks.discard)
