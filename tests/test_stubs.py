"""The .pyi files say what the compiled modules are."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rcmgr

ALLOWLIST = Path(__file__).with_name("stubtest-allowlist.txt").absolute()


@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_stubs_agree_with_the_runtime(tmp_path: Path) -> None:
    home = Path(rcmgr.__file__).absolute().parent.parent
    environment = dict(os.environ)
    if home.name not in ("site-packages", "dist-packages"):  # mypy finds it there by itself
        environment |= {"MYPYPATH": str(home), "PYTHONPATH": str(home)}
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nignore_missing_imports = True\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy.stubtest", "rcmgr", "--mypy-config-file", str(config),
            "--allowlist", str(ALLOWLIST), "--ignore-unused-allowlist",
        ],
        cwd=tmp_path,  # mypy would find the source folder first
        env=environment, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
