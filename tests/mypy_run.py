"""Run a tool of mypy that reads the stubs of rcmgr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import rcmgr


def run_mypy(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE` in a folder without sources: mypy would find these first."""
    home = Path(rcmgr.__file__).absolute().parent.parent
    environment = dict(os.environ)
    if home.name not in ("site-packages", "dist-packages"):  # mypy finds it there by itself
        environment |= {"MYPYPATH": str(home), "PYTHONPATH": str(home)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=environment,
        capture_output=True, text=True, check=False)
