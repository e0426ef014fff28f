"""Waiting for tokens, under both event loops."""

from __future__ import annotations

import asyncio

import pytest
import trio
import trio.testing

from rcmgr import TokenBucket


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
