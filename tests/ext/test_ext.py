"""The C of ext/, by itself: compiled with ASan and UBSan where they link, and run."""

from __future__ import annotations

from pathlib import Path

import pytest
from build import EXT, HERE, run_c_test


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("test_*.c")))
def test_c(name: str, tmp_path: Path) -> None:
    run_c_test(name, tmp_path)


def test_every_file_of_ext_has_a_c_test() -> None:
    tested = {path.stem.removeprefix("test_") for path in HERE.glob("test_*.c")}
    assert {path.stem for path in EXT.glob("*.h")} <= tested
