"""ext/scope.h by itself: compiled with ASan and UBSan where they link, and run."""

from __future__ import annotations

from pathlib import Path

from build import run_c_test


def test_c(tmp_path: Path) -> None:
    run_c_test("test_scope", tmp_path)
