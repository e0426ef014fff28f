"""Checks of single values name the field and the value."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.limits.checks import (
    bucket_ticks,
    check_choice,
    check_count,
    check_fraction,
    check_limit,
    check_names,
    check_number,
    check_table,
)


@pytest.mark.parametrize(
    ("check", "right"),
    [
        (check_limit, [None, 0, 1, 2**70]),
        (partial(check_count, least=1, most=3), [1, 3]),
        (check_count, [0, 2**70]),
        (partial(check_number, least=0, most=2), [0, 0.5, 2]),
        (check_fraction, [None, 0.1, 1]),
        (partial(check_fraction, below_one=True), [None, 0.1, 0.999]),
        (partial(check_choice, choices=("a", "b")), ["a", "b"]),
    ],
)
def test_right_values(check: Callable[..., None], right: list[Any]) -> None:
    for value in right:
        check("x", value)


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (check_limit, True, TypeError, "x must be an int or None (no limit), not True"),
        (check_limit, 1.0, TypeError, "x must be an int or None (no limit), not 1.0"),
        (check_limit, -1, ValueError, "x must be 0 or more, or None (no limit), not -1"),
        (check_count, None, TypeError, "x must be an int, not None"),
        (check_count, -1, ValueError, "x must be 0 or more, not -1"),
        (partial(check_count, least=1, most=3), 4, ValueError, "x must be 1 to 3, not 4"),
        (partial(check_number, least=0, most=2), "1", TypeError, "x must be a number, not '1'"),
        (partial(check_number, least=0, most=2), math.nan, ValueError, "x must be 0 to 2, not nan"),
        (check_fraction, True, TypeError, "x must be a fraction or None (no limit), not True"),
        (check_fraction, 0, ValueError,
         "x must be a fraction above 0 and at most 1, not 0: 0.9 is ninety percent"),
        (partial(check_fraction, below_one=True), 1, ValueError,
         "x must be a fraction above 0 and below 1, not 1: 0.9 is ninety percent"),
        (partial(check_choice, choices=("a", "b")), [], ValueError,
         "x must be one of a, b, not []"),
        (partial(check_table, on_full="deny_new"), 2**32 + 1, ValueError,
         "x must be 1 to 4294967296, not 4294967297"),
    ],
)
def test_wrong_values(
    check: Callable[..., None], value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        check("x", value)
    assert str(caught.value) == message


def test_names() -> None:
    check_names("a rate", ["a"], ["a", "b"])
    check_names("a rate", ["b", "a"], ["a", "b"], required=True)
    with pytest.raises(ValueError, match="unknown name 'c' in a rate: known are a, b"):
        check_names("a rate", ["a", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="a rate needs 'b'"):
        check_names("a rate", ["a"], ["a", "b"], required=True)


@pytest.mark.parametrize(
    ("capacity", "rate", "ticks"),
    [(1, 1, (1, 10**9)), (5, math.inf, (1, 0)), (3, 2e9, (2, 1)), (3, 3e9, (3, 1)),
     (3, 3, (3, 10**9))],
)
def test_ticks_of_a_rate(capacity: int, rate: float, ticks: tuple[int, int]) -> None:
    assert bucket_ticks(capacity, rate) == ticks


def test_a_rate_that_is_too_fine_for_a_table() -> None:
    """A table counts in coarser ticks than a single bucket."""
    TokenBucket(1, 1e12 + 1)
    with pytest.raises(ValueError, match="does not fit"):
        BucketTable(1, 1e12 + 1)
