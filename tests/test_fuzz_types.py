"""No argument crashes a compiled type. RCMGR_FUZZ_RUNS=100 runs it for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = int(os.environ.get("RCMGR_FUZZ_RUNS", "4"))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("seed", range(RUNS))
def test_no_call_crashes_or_returns_without_an_exception(
    tmp_path: Path, seed: int, threads: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", Path(__file__).with_name("fuzz_types.py"),
         str(seed), "3000", str(threads)],
        cwd=tmp_path,  # some calls write files
        capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
