"""The stacks of all threads and tasks, for a test that exceeds its time limit."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType

import trio


def stacks() -> str:
    """All threads of the process, and the tasks of trio and asyncio of this thread."""
    return "\n".join([*_of_threads(), *_of_trio_tasks(), *_of_asyncio_tasks()])


def _of_threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"


def _of_trio_tasks() -> Iterator[str]:
    try:
        tasks = [trio.lowlevel.current_root_task()]
    except RuntimeError:  # this thread runs no trio
        return
    while tasks:
        task = tasks.pop()
        if task is None:
            continue
        yield f"trio task {task.name}:\n{_lines(list(task.iter_await_frames()))}"
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _of_asyncio_tasks() -> Iterator[str]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # this thread runs no asyncio
        return
    for task in asyncio.all_tasks(loop):
        frames = [(frame, frame.f_lineno) for frame in task.get_stack()]
        yield f"asyncio task {task.get_name()}:\n{_lines(frames)}"


def _lines(frames: list[tuple[FrameType, int]]) -> str:
    return "".join(traceback.StackSummary.extract(iter(frames)).format())
