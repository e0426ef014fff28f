"""The .pyi files say what the compiled modules are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mypy_run import run_mypy

ALLOWLIST = Path(__file__).with_name("stubtest-allowlist.txt").absolute()
# The packages that take mypy long to read. Without their types, the modules that use them show
# errors, so `mypy src` alone checks these modules.
CONFIG = """\
[mypy]
ignore_missing_imports = True
[mypy-libp2p.*,multiaddr.*,matplotlib.*,opentelemetry.*,trio.*,trio_websocket.*,click.*,rich.*,pytest.*,_pytest.*]
follow_imports = skip
follow_imports_for_stubs = True
[mypy-rcmgr.libp2p.*,rcmgr.cli.*]
ignore_errors = True
"""


@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_stubs_agree_with_the_runtime(tmp_path: Path) -> None:
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    done = run_mypy(
        "mypy.stubtest", "rcmgr", "--mypy-config-file", str(config),
        "--allowlist", str(ALLOWLIST), "--ignore-unused-allowlist", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
