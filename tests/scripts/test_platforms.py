"""The wheels that cibuildwheel builds are those of the table in docs/platforms.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_BUILT = {"cp313t"}
"""Rows of the table that cibuildwheel does not know."""


def table() -> dict[str, str]:
    """The cell of the table by identifier."""
    text = (ROOT / "docs" / "platforms.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in row] for row in rows]
    return {
        f"{row[0]}-{platform}": cell
        for row in body for platform, cell in zip(header[1:], row[1:], strict=True)
    }


@pytest.fixture(scope="module")
def built() -> set[str]:
    pytest.importorskip("cibuildwheel", reason="cibuildwheel is not installed (extra: dist)")
    found: set[str] = set()
    for platform, architectures in (
        ("linux", "x86_64 aarch64"), ("macos", "x86_64 arm64"), ("windows", "AMD64 ARM64")
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform",
             platform, "--archs", architectures.replace(" ", ","), str(ROOT)],
            capture_output=True, text=True, check=True,
        )
        found.update(done.stdout.split())
    return found


def test_the_wheels_are_those_of_the_table(built: set[str]) -> None:
    wanted = {
        identifier for identifier, cell in table().items()
        if cell != "none" and identifier.partition("-")[0] not in NOT_BUILT
    }
    assert built == wanted


def test_the_table_knows_every_python_that_we_declare() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    pythons = {identifier.partition("-")[0] for identifier in table()}
    for minor in range(10, 15):
        assert (f'"Programming Language :: Python :: 3.{minor}"' in text) == (
            f"cp3{minor}" in pythons)


def test_the_table_says_something_known_of_each() -> None:
    assert {*table().values()} == {"libp2p", "libp2p, builds", "rcmgr", "none"}
