"""Run Python in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run(
    *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120,
        cwd=cwd, env={**os.environ, **env},
    )


def check(code: str, **env: str) -> str:
    """Run code that must not fail, and return its output."""
    done = run("-c", textwrap.dedent(code), **env)
    assert done.returncode == 0, done.stderr
    return done.stdout
