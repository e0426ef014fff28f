"""Durations as arguments of commands."""

from __future__ import annotations

import click
import pytest

from rcmgr.cli.durations import Duration


@pytest.mark.parametrize(("text", "seconds"), [
    ("30", 30), ("30s", 30), ("1.5m", 90), ("2h", 7_200), ("7d", 604_800), ("365d", 31_536_000),
    (0.5, 0.5),
])
def test_units(text: str | float, seconds: float) -> None:
    assert Duration(365).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.0d", "-1", "1w", "m", "nan", "inf", "1e3", "1 m"])
def test_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration such as 90, 15m, 2h or 7d"):
        Duration().convert(text, None, None)


def test_the_longest() -> None:
    assert Duration().convert("999999999d", None, None) == 999_999_999 * 86_400
    for text in ("366d", "31536001"):
        with pytest.raises(click.BadParameter, match=f"'{text}' is longer than 365d"):
            Duration(365).convert(text, None, None)
