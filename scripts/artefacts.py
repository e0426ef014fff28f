"""The files of a release: the source distribution, its wheels, and environments made from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class WrongFiles(Exception):
    """A folder does not hold exactly one source distribution."""


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> None:
    """Run a command without this checkout's Python path. CalledProcessError: it fails."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(
        [*map(str, command)], cwd=cwd, check=True,
        env={**inherited, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PREFER_BINARY": "1",
             **environment})


def the_sdist(dist: Path) -> Path:
    found = list(dist.glob("*.tar.gz"))
    if len(found) != 1:
        raise WrongFiles(f"{dist} holds {len(found)} source distributions, not one")
    return found[0]


def version_of(dist: Path) -> str:
    return the_sdist(dist).name.removeprefix("rcmgr-").removesuffix(".tar.gz")


def unpack(dist: Path, folder: Path, *, sources: bool) -> Path:
    """The unpacked sdist. sources: keep rcmgr's own; without them, its tests use the installed."""
    if not folder.exists():
        with tarfile.open(the_sdist(dist)) as archive:
            archive.extractall(folder, filter="data")
    [tree] = folder.iterdir()
    if not sources:
        for name in ("src", "ext"):
            shutil.rmtree(tree / name, ignore_errors=True)
    return tree


def make_environment(python: str, folder: Path) -> str:
    """Make an empty virtual environment; its interpreter."""
    run(python, "-m", "venv", folder)
    [inside] = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    return str(inside)


def install(python: str, dist: Path, extra: str) -> None:
    """Install the wheel of `dist` that fits this interpreter."""
    run(python, "-m", "pip", "install", "--quiet", "--find-links", dist, "--only-binary", "rcmgr",
        f"rcmgr[{extra}]=={version_of(dist)}")
