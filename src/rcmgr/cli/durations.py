"""Durations as arguments of commands."""

from __future__ import annotations

import math
import re
from typing import Any

import click

__all__ = ["Duration"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.2
    """Seconds above 0, from a number with an optional unit: 90, 15m, 2h, 7d."""

    name = "duration"

    def __init__(self, most_days: float = math.inf) -> None:
        self.most_days = most_days

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", str(value))
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no duration such as 90, 15m, 2h or 7d", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2]]
        if seconds > self.most_days * _UNITS["d"]:
            self.fail(f"{value!r} is longer than {self.most_days:g}d", param, ctx)
        return seconds
