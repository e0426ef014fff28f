"""Waiting for tokens, under both event loops."""

from __future__ import annotations

import asyncio

import pytest
import trio
import trio.testing

from rcmgr import TokenBucket
from rcmgr.counting.waiting import Waiters


def virtual_clock() -> int:
    return round(trio.current_time() * 1e9)


async def test_first_come_first_served(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(10, 1.0, 0, clock=virtual_clock)
    order: list[tuple[str, float]] = []
    start = trio.current_time()

    async def waiter(name: str, tokens: int) -> None:
        await bucket.wait(tokens)
        order.append((name, round(trio.current_time() - start, 3)))

    async with trio.open_nursery() as nursery:
        for name, tokens in (("big", 5), ("small", 1), ("other", 2)):
            nursery.start_soon(waiter, name, tokens)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [("big", 5.0), ("small", 6.0), ("other", 8.0)]


async def test_a_cancelled_waiter_gives_its_place_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = TokenBucket(10, 1.0, 0, clock=virtual_clock)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for cancelled_after in (1.5, 2.5):

            async def give_up(seconds: float = cancelled_after) -> None:
                with trio.move_on_after(seconds):
                    await bucket.wait(10)

            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
        await bucket.wait(3)
    assert round(trio.current_time() - start, 3) == 3.0
    assert bucket.get_available_tokens() == 0


async def test_what_will_never_be_there() -> None:
    bucket = TokenBucket(10, 1.0)
    with pytest.raises(ValueError, match="never be there: the capacity is 10"):
        await bucket.wait(11)
    with pytest.raises(ValueError, match="0 or more"):
        await bucket.wait(-1)


def test_under_asyncio() -> None:
    bucket = TokenBucket(1, 200.0, 0)

    async def main() -> list[int]:
        done: list[int] = []

        async def waiter(number: int) -> None:
            await bucket.wait()
            done.append(number)

        await asyncio.gather(*[waiter(number) for number in range(5)])
        return done

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


async def test_a_capacity_that_shrinks_below_what_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = TokenBucket(10, 1.0, 0, clock=virtual_clock)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ValueError, match="never be there: the capacity is 3"):
                await bucket.wait(5)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        bucket.set_rate(3, 1.0)


async def test_waiters_started_in_a_nursery_by_themselves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = TokenBucket(10, 1.0, 0, clock=virtual_clock)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for tokens in (3, 2, 1):
            nursery.start_soon(bucket.wait, tokens)
    assert round(trio.current_time() - start, 3) == 6.0
    await bucket.wait()
    assert round(trio.current_time() - start, 3) == 7.0


async def test_waiters_in_a_nursery_are_cancelled_at_any_point(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = TokenBucket(10, 1.0, 0, clock=virtual_clock)
    for seconds in (0, 0.5, 1, 1.5, 2):
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(bucket.wait, 2)
    bucket.try_consume(bucket.get_available_tokens())
    start = trio.current_time()
    await bucket.wait(2)
    assert round(trio.current_time() - start, 3) <= 2.0


def test_tasks_of_asyncio_and_one_bucket_in_several_event_loops() -> None:
    bucket = TokenBucket(100, 1000.0, 0)

    async def in_asyncio() -> None:
        tasks = [asyncio.create_task(bucket.wait(2)) for _ in range(5)]
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [type(None)] * 3 + [
            asyncio.CancelledError, type(None)]

    async def in_trio() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bucket.wait, 2)

    for _ in range(2):
        asyncio.run(in_asyncio())
        trio.run(in_trio)


async def test_the_queue_ends_with_its_last_waiter() -> None:
    waiters = Waiters()
    bucket = TokenBucket(1, 1000.0)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(waiters.wait, bucket, 1)
    assert waiters._turns._queues == {}
    with pytest.raises(ValueError, match="never be there"):
        await waiters.wait(bucket, 2)
    assert waiters._turns._queues == {}
