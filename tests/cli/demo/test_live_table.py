from __future__ import annotations

import pytest
from demo_run import row

from rcmgr.cli.demo.live_table import filled


@pytest.mark.parametrize(
    ("now", "peak", "limit", "bar"),
    [
        (0, 0, 7, "." * 14),
        (7, 7, 7, "#" * 14),
        (1, 2, 7, "##++.........."),
        (0, 9, 7, "+" * 14),
        (3, 3, None, ""),
        (0, 0, 0, ""),
    ],
)
def test_a_bar_shows_now_and_peak(now: int, peak: int, limit: int | None, bar: str) -> None:
    assert filled(row(now=now, peak=peak, limit=limit), "#+.") == bar
