"""Many cycles of everything leave no memory behind. leaks.py has the cases and the numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import CASES

pytestmark = pytest.mark.timeout(600)

# Bytes per cycle. The smallest object has 16. Clean code has less than 0.02 traced bytes. It has up
# to 2.1 resident bytes, because the system counts whole pages.
TRACED_SLACK = 2.0
RESIDENT_SLACK = 8.0


def measure(case: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("leaks.py")), case],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.libp2p if case.startswith("dropin") else ())
    for case in sorted(CASES.keys() - {"leaks_sixteen_bytes"})
])
def test_cycles_leave_no_memory_behind(case: str) -> None:
    measured = measure(case)
    assert measured["traced"] < TRACED_SLACK
    assert measured["resident"] < RESIDENT_SLACK


def test_the_measurement_finds_a_leak_of_sixteen_bytes() -> None:
    measured = measure("leaks_sixteen_bytes")
    assert measured["traced"] > 2 * TRACED_SLACK
    assert measured["resident"] > RESIDENT_SLACK * 1.5
