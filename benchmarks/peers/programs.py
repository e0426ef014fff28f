"""Builds and runs what benchmarks.peers compares, where the toolchain is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.verdict import ROOT

SOURCES = Path(__file__).parent
BUILT = ROOT / "build" / "peers"
MINUTES = 20


class MissingProgramError(Exception):
    """This machine cannot build the program. The message says why."""


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


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that answers each line of its standard input with one line, until it is killed."""
    # The allocator of C then gives each freed table back, for Rust and Python alike. Otherwise it
    # depends on chance which ones it keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str]) -> str:
    """The answer to an empty line. RuntimeError: the program ended."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen[str]) -> str:
    """The next line of the program. RuntimeError: the program ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with status {process.wait()}")
    return line


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
