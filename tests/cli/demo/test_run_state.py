from __future__ import annotations

import pytest
from demo_run import a_run

from rcmgr.cli.demo.run_state import Check


def test_a_run_passes_if_it_has_checks_and_all_held() -> None:
    run = a_run()
    assert not run.passed
    run.checks = [Check("a", True, ""), Check("b", True, "")]
    assert run.passed
    run.checks.append(Check("c", False, ""))
    assert not run.passed


@pytest.mark.parametrize(
    ("pings", "median", "p99"),
    [([7.0], 7.0, 7.0), ([1.0, 2.0], 1.0, 2.0), ([float(n) for n in range(1, 201)], 100.0, 198.0)],
)
def test_ping_percentiles_are_pings_that_happened(
    pings: list[float], median: float, p99: float
) -> None:
    run = a_run()
    run.honest.pings_ms = pings[::-1]
    assert run.ping() == (median, p99)
