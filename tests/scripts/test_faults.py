"""The parts of the deliberate faults, and the nightly jobs that try them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Any

import pytest
from load_script import SCRIPTS, load_script

faults = load_script("faults")
NIGHTLY = SCRIPTS.parent / ".github" / "workflows" / "nightly.yml"
SLOWEST_S = 120
"""The time for a fault on a slow runner, on average."""


@pytest.fixture(scope="module")
def everything() -> list[Any]:
    return list(faults.read())


@pytest.mark.parametrize("of", [1, 3, 8, 1000])
def test_the_parts_have_each_fault_once(of: int, everything: list[Any]) -> None:
    parts = [faults.Part.parse(f"{number}/{of}").take(everything) for number in range(1, of + 1)]
    names = [fault.name for part in parts for fault in part]
    assert sorted(names) == sorted(fault.name for fault in everything)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "8", "1/8/2", "-1/8", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="write 2/8 for the second of eight"):
        faults.Part.parse(text)


def test_the_nightly_jobs_try_all_parts_within_their_limit(everything: list[Any]) -> None:
    [job] = re.findall(r"^  faults:\n(.*?)(?=^  \w+:\n|\Z)", NIGHTLY.read_text(), re.M | re.S)
    parts = [faults.Part.parse(text) for text in re.findall(r'"(\d+/\d+)"', job)]
    assert parts == [faults.Part(number, len(parts)) for number in range(1, len(parts) + 1)]
    limit_s = 60 * int(re.search(r"timeout-minutes: (\d+)", job)[1])  # type: ignore[index]
    assert len(parts[0].take(everything)) * SLOWEST_S < limit_s
