"""A type checker accepts code that uses the package like the README."""

from __future__ import annotations

import pytest
from mypy_run import run_mypy

pytestmark = pytest.mark.libp2p

USER_CODE = """\
from libp2p import new_host

from rcmgr import ConnectionLimits, ResourceLimits, ResourceManager

manager = ResourceManager(ResourceLimits(max_streams=9), connection_limits=ConnectionLimits())
host = new_host(resource_manager=manager)
"""


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of mypy for right and wrong code. It reads py-libp2p once for both."""
    pytest.importorskip("mypy", reason="mypy is not installed (extra: dev)")
    folder = tmp_path_factory.mktemp("typing")
    (folder / "right.py").write_text(USER_CODE)
    (folder / "wrong.py").write_text(USER_CODE.replace("max_streams=9", "max_streams='9'"))
    done = run_mypy("mypy", "--strict", "right.py", "wrong.py", cwd=folder)
    return done.stdout + done.stderr


def test_a_strict_user_passes_a_manager_to_a_host_without_a_cast(complaints: str) -> None:
    assert "right.py" not in complaints
    assert "Found 1 error in 1 file (checked 2 source files)" in complaints


def test_a_wrong_argument_is_still_found(complaints: str) -> None:
    assert "wrong.py:5: error: " in complaints
    assert '"max_streams" to "ResourceLimits" has incompatible type "str"' in complaints
