from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcmgr.counter import Counter

LARGEST = (1 << 63) - 1


def test_take_and_give() -> None:
    counter = Counter(3)
    assert [counter.take() for _ in range(5)] == [True, True, True, False, False]
    assert (counter.used, counter.peak, counter.admitted, counter.denied) == (3, 3, 3, 2)
    assert counter.give() is True
    assert counter.take()
    assert counter.give(3) is True
    assert (counter.used, counter.peak, counter.over_released) == (0, 3, 0)
    assert repr(counter) == "Counter(0 of 3)"


def test_all_or_nothing() -> None:
    counter = Counter(10)
    assert counter.take(10)
    assert not counter.take(1)
    assert counter.take(0)
    counter.give(4)
    assert not counter.take(5)
    assert counter.used == 6
    assert counter.take(4)


def test_zero_admits_nothing_and_none_everything() -> None:
    assert not Counter(0).take()
    assert Counter(0).take(0)
    counter = Counter()
    assert counter.limit is None
    assert counter.take(LARGEST)
    assert not counter.take()  # there is no more than that
    assert counter.give(LARGEST)


def test_more_given_than_taken_is_ignored_and_noted() -> None:
    counter = Counter(5)
    counter.take(2)
    assert counter.give(3) is False
    assert (counter.used, counter.over_released) == (0, 1)
    assert counter.give() is False
    assert (counter.used, counter.over_released) == (0, 2)
    assert counter.take(5)
    assert not counter.take()


def test_limit_at_run_time() -> None:
    counter = Counter(5)
    counter.take(5)
    counter.limit = 2
    assert counter.limit == 2
    assert counter.used == 5  # what is taken stays
    counter.give(3)
    assert not counter.take()
    counter.give()
    assert counter.take()
    counter.limit = None
    assert counter.take(100)


def test_exempt() -> None:
    counter = Counter(1)
    assert counter.take(exempt=True)
    assert counter.take(5, exempt=True)
    assert counter.used == 6
    assert not counter.take()
    assert Counter(0).take(LARGEST, exempt=True)


def test_clear() -> None:
    counter = Counter(2)
    counter.take(2)
    counter.clear()
    assert (counter.used, counter.peak, counter.admitted) == (0, 2, 1)
    assert counter.take(2)


@pytest.mark.parametrize("amount", [-1, -LARGEST])
def test_negative_amounts(amount: int) -> None:
    counter = Counter(5)
    counter.take(2)
    with pytest.raises(ValueError, match="0 or more"):
        counter.take(amount)
    with pytest.raises(ValueError, match="0 or more"):
        counter.take(amount, exempt=True)
    with pytest.raises(ValueError, match="0 or more"):
        counter.give(amount)
    assert (counter.used, counter.admitted, counter.denied) == (2, 1, 0)


@pytest.mark.parametrize("amount", [LARGEST + 1, -LARGEST - 2, 1 << 80])
def test_amounts_beyond_64_bits(amount: int) -> None:
    counter = Counter(5)
    with pytest.raises(OverflowError):
        counter.take(amount)
    with pytest.raises(OverflowError):
        counter.give(amount)


@pytest.mark.parametrize("amount", [1.0, "1", None])
def test_amounts_of_a_wrong_type(amount: Any) -> None:
    counter = Counter(5)
    with pytest.raises(TypeError):
        counter.take(amount)
    with pytest.raises(TypeError):
        counter.give(amount)


def test_limits() -> None:
    with pytest.raises(ValueError, match="-1"):
        Counter(-1)
    counter = Counter(5)
    with pytest.raises(ValueError, match="-1"):
        counter.limit = -1
    for wrong in (1.0, "1"):
        with pytest.raises(TypeError):
            counter.limit = wrong  # type: ignore[assignment]
    assert counter.limit == 5
    for huge in (LARGEST, LARGEST + 1, 1 << 80):
        counter.limit = huge  # as good as none
        assert counter.take(1 << 62)
        counter.clear()
    with pytest.raises(AttributeError):
        counter.used = 5  # type: ignore[misc]


@given(
    st.one_of(st.none(), st.integers(0, 20)),
    st.lists(
        st.tuples(
            st.sampled_from(["take", "exempt", "give", "limit", "clear"]), st.integers(0, 8)
        ),
        max_size=50,
    ),
)
def test_any_order_of_calls(limit: int | None, calls: list[tuple[str, int]]) -> None:
    counter = Counter(limit)
    used = peak = admitted = denied = excess = 0
    for call, amount in calls:
        if call == "give":
            assert counter.give(amount) == (amount <= used)
            excess += max(0, amount - used)
            used = max(0, used - amount)
        elif call == "limit":
            counter.limit = limit = amount
        elif call == "clear":
            counter.clear()
            used = 0
        else:
            fits = call == "exempt" or limit is None or used + amount <= limit
            assert counter.take(amount, exempt=call == "exempt") == fits
            used += amount if fits else 0
            admitted += fits
            denied += not fits
        peak = max(peak, used)
        assert (
            counter.used, counter.peak, counter.admitted, counter.denied, counter.over_released
        ) == (used, peak, admitted, denied, excess)
