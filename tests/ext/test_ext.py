"""The C of ext/, by itself: compiled with ASan and UBSan where they link, and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from build import EXT, HERE, compiler, run_c_test, sanitizer_flags

SYSTEM = {"linux": "linux", "darwin": "macos"}.get(sys.platform, "unknown")
SOURCES = {"test_rss": (f"rss_{SYSTEM}.c",)}


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("test_*.c")))
def test_c(name: str, tmp_path: Path) -> None:
    run_c_test(name, tmp_path, SOURCES.get(name, ()))


def test_the_c_tests_run_under_sanitizers(tmp_path: Path) -> None:
    """Elsewhere than in the CI on Linux, they may lack."""
    if compiler() is None:
        pytest.skip("no C compiler found")
    flags = sanitizer_flags(tmp_path)
    if not flags and not (sys.platform == "linux" and os.environ.get("CI")):
        pytest.skip("the compiler here has no ASan or UBSan: the C tests run without them")
    assert flags


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("x86_64-macos", "rss_macos.c"),
        ("aarch64-macos", "rss_macos.c"),
        ("x86_64-windows-gnu", "rss_windows.c"),
        ("aarch64-linux-musl", "rss_linux.c"),
        ("x86_64-freebsd-none", "rss_unknown.c"),
    ],
)
def test_compiles_for_other_systems(target: str, source: str, tmp_path: Path) -> None:
    """With the headers that the `ziglang` package brings, where it is installed."""
    pytest.importorskip("ziglang", reason="cross-compiles with the ziglang package (extra dev)")
    subprocess.run(
        [
            *[sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=c11", "-Wall"],
            *["-Werror", "-c", str(EXT / source), "-o", str(tmp_path / "rss.o")],
        ],
        check=True,
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert (tmp_path / "rss.o").stat().st_size > 0


def test_every_file_of_ext_has_a_c_test() -> None:
    tested = {path.stem.removeprefix("test_") for path in HERE.glob("test_*.c")}
    assert {path.stem for path in EXT.glob("*.h")} <= tested
