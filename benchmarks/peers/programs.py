"""The programs that benchmarks.peers compares, built where their toolchain is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.verdict import ROOT

SOURCES = Path(__file__).parent
BUILT = ROOT / "build" / "peers"
MINUTES = 20


class MissingProgramError(Exception):
    """The program cannot be built here. The message says why."""


def python() -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.ours"]


def go() -> list[str]:
    built = BUILT / "go" / "rcmgr-peers"
    _build("go", ["build", "-o", str(built), "."], SOURCES / "go")
    return [str(built)]


def rust() -> list[str]:
    target = BUILT / "rust"
    _build(
        "cargo", ["build", "--quiet", "--locked", "--release", "--target-dir", str(target)],
        SOURCES / "rust")
    return [str(target / "release" / "rcmgr-peers")]


def c(name: str) -> list[str]:
    built = BUILT / "c" / name
    built.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc").split()
    _build(
        compiler[0], [*compiler[1:], "-O2", "-std=gnu11", "-o", str(built), f"{name}.c"],
        SOURCES / "c")
    return [str(built)]


def _build(tool: str, arguments: list[str], folder: Path) -> None:
    if shutil.which(tool) is None:
        raise MissingProgramError(f"{tool} is not installed")
    try:
        done = subprocess.run(
            [tool, *arguments], cwd=folder, capture_output=True, text=True, check=False,
            timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        raise MissingProgramError(f"{tool} did not end within {MINUTES} minutes") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MissingProgramError(f"{tool} failed: {reason[-1]}")
