"""Wait in order of arrival, for turns or for the tokens of a bucket.

A coroutine of Python, because trio's locks need `cr_suspended`, which coroutines of Cython lack.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Protocol

__all__ = ["Turns", "Waiters"]


class Bucket(Protocol):
    """The part of a `TokenBucket` that `Waiters` use."""

    @property
    def capacity(self) -> int: ...
    def try_consume(self, tokens: int) -> bool: ...
    def time_until(self, tokens: int) -> float: ...


class Turns:
    """Gives tasks their turn, in order of arrival, one at a time.

    Each event loop has a separate queue, as long as it needs one. Thread safe.
    """

    def __init__(self) -> None:
        self._queues: dict[Any, Any] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for this task's turn, which lasts until the end of the block."""
        import anyio
        from anyio.lowlevel import current_token

        loop = current_token()
        queue = self._queues.setdefault(loop, anyio.Lock())
        try:
            async with queue:
                yield
        finally:
            statistics = queue.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._queues.pop(loop, None)


class Waiters:
    """The waiters of one bucket, in order of arrival. Thread safe."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def wait(self, bucket: Bucket, tokens: int) -> None:
        """Take `tokens` of the bucket. ValueError as `TokenBucket.wait`."""
        import anyio

        time_until(bucket, tokens)
        async with self._turns.turn():
            while not bucket.try_consume(tokens):  # noqa: ASYNC110 (only time refills it)
                await anyio.sleep(time_until(bucket, tokens))


def time_until(bucket: Bucket, tokens: int) -> float:
    """Seconds. ValueError: negative, or more than the capacity, which would wait forever."""
    wait = bucket.time_until(tokens)
    if wait == inf:
        raise ValueError(f"{tokens} tokens will never be there: the capacity is {bucket.capacity}")
    return wait
