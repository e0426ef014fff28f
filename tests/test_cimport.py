"""Compiled modules of others can cimport ours: the .pxd files and the C headers are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rcmgr

PACKAGE = Path(rcmgr.__file__).parent
HEADERS = PACKAGE / "include"
PUBLIC = sorted(
    ".".join(("rcmgr", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.pxd") if not path.name.startswith("_")
)

SETUP = """
from pathlib import Path
from Cython.Build import cythonize
from setuptools import Extension, setup

module = Extension("theirs", ["theirs.pyx"], include_dirs=[{headers!r}])
setup(ext_modules=cythonize([module], language_level=3, include_path={path!r}))
"""

pytestmark = pytest.mark.skipif(
    not HEADERS.is_dir(), reason="rcmgr is not installed: its headers are in ext/")


def test_every_pxd_file_can_be_cimported(tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="Cython is not installed")
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    lines = [f"from {name} cimport *" for name in PUBLIC]
    lines += [
        "from rcmgr.counting.connection_tracker cimport ConnectionRecord, is_inbound",
        "from rcmgr.peers cimport key_of",
        "def inbound(ConnectionRecord record):", "    return is_inbound(record)",
        "def key(peer):", "    return key_of(peer)",
    ]
    (tmp_path / "theirs.pyx").write_text("\n".join(lines) + "\n")
    (tmp_path / "setup.py").write_text(
        SETUP.format(headers=str(HEADERS), path=[str(PACKAGE.parent)]))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tmp_path,
        capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    code = "import theirs; print(theirs.key(b'peer'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "b'peer'\n"
