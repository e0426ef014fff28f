"""Checks of single values. Each raises TypeError or ValueError, which name the field."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import gcd, inf
from typing import Any

from rcmgr.limits.names import suggestion

__all__ = [
    "bucket_ticks",
    "check_choice",
    "check_count",
    "check_fraction",
    "check_limit",
    "check_names",
    "check_number",
    "check_table",
]

_ON_FULL = ("evict_fullest", "deny_new")
_SECONDS_PER_YEAR = 31_557_600
_MAX_YEARS = 50


def check_limit(name: str, value: object) -> None:
    """A limit is None (no limit) or an int of 0 or more."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int or None (no limit), not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, or None (no limit), not {value}")


def check_count(name: str, value: object, least: int = 0, most: int | None = None) -> None:
    """A count is an int from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be {least} to {most}, not {value}")


def check_number(name: str, value: object, least: float, most: float) -> None:
    """A number is an int or a float from `least` to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least} to {most}, not {value}")


def check_fraction(name: str, value: object, *, below_one: bool = False) -> None:
    """A fraction is None (no limit), or a number above 0 and at most 1, or below 1."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a fraction or None (no limit), not {value!r}")
    if not 0 < value <= 1 or (value == 1 and below_one):
        most = "below 1" if below_one else "at most 1"
        raise ValueError(
            f"{name} must be a fraction above 0 and {most}, not {value!r}: 0.9 is ninety percent"
        )


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """A choice is one of a few values."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


def check_table(name: str, most: object, on_full: object) -> None:
    """The number of buckets in a table, and what a full table does; see `BucketTable`."""
    check_count(name, most, 1, 1 << 32)
    check_choice("on_full", on_full, _ON_FULL)


def check_names(
    what: str, values: Collection[str], known: Sequence[str], *, required: bool = False
) -> None:
    """All names in `values` are `known`. required: all known names are in `values`."""
    for name in values:
        if name not in known:
            hint = suggestion(str(name), known)
            raise ValueError(
                f"unknown name {name!r} in {what}: known are {', '.join(known)}"
                + (f"; {hint}" if hint else ""))
    for name in known:
        if required and name not in values:
            raise ValueError(f"{what} needs {name!r}")


def bucket_ticks(
    capacity: Any, refill_rate: Any, max_scale: int = 1 << 32, max_depth: int = 1 << 61,
    *, capacity_name: str = "capacity",
) -> tuple[int, int]:
    """How a token bucket counts time: ticks per nanosecond, and ticks per token.

    The result is exact where it fits, and else as fine as it fits.
    TypeError, ValueError: a wrong value, or times that are wrong by more than one in a million.
    """
    name = capacity_name
    if isinstance(capacity, bool) or not isinstance(capacity, int):
        raise TypeError(f"{name} must be an int, not {capacity!r}")
    if isinstance(refill_rate, bool) or not isinstance(refill_rate, int | float):
        raise TypeError(f"refill_rate must be a float or an int, not {refill_rate!r}")
    if not 1 <= capacity <= max_depth:
        raise ValueError(f"{name} must be from 1 to 2**61 tokens, not {capacity}")
    if not refill_rate > 0:
        raise ValueError(f"refill_rate must be above 0 tokens per second, not {refill_rate}")
    if refill_rate == inf:
        return 1, 0
    tokens, seconds = refill_rate.as_integer_ratio()
    if capacity * seconds > _MAX_YEARS * _SECONDS_PER_YEAR * tokens:
        raise ValueError(
            f"{name} {capacity} at refill_rate {refill_rate} takes more than {_MAX_YEARS} years "
            "to fill")
    # a token takes interval / tokens nanoseconds: the fraction in lowest terms is exact
    interval = 1_000_000_000 * seconds
    scale = min(tokens // gcd(interval, tokens), max_scale)
    cost = -(-interval * scale // tokens)  # rounded up: a little slower, never faster
    while capacity * cost > max_depth and scale > 1:
        scale //= 2
        cost = -(-interval * scale // tokens)
    error = cost * tokens - interval * scale
    if capacity * cost > max_depth or error * 2_000_000 > interval * scale:
        raise ValueError(
            f"{name} {capacity} at refill_rate {refill_rate} does not fit: its times cannot be "
            "held to one part in a million")
    return scale, cost
