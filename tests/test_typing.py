"""A type checker accepts code that uses the package like the README."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.libp2p

USER_CODE = """\
from libp2p import new_host

from rcmgr import ConnectionLimits, ResourceLimits, ResourceManager

manager = ResourceManager(ResourceLimits(max_streams=9), connection_limits=ConnectionLimits())
host = new_host(resource_manager=manager)
"""


def complaints(code: str, folder: Path) -> str:
    pytest.importorskip("mypy", reason="mypy is not installed (extra: dev)")
    (folder / "node.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "node.py"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_a_strict_user_passes_a_manager_to_a_host_without_a_cast(tmp_path: Path) -> None:
    assert complaints(USER_CODE, tmp_path).startswith("Success")


def test_a_wrong_argument_is_still_found(tmp_path: Path) -> None:
    wrong = USER_CODE.replace("max_streams=9", "max_streams='9'")
    assert '"max_streams" to "ResourceLimits" has incompatible type "str"' in complaints(
        wrong, tmp_path
    )
