"""The gate of cache misses, with counts that are given."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libp2p")

from benchmarks import misses
from benchmarks.misses import GATED, MOST_GROWTH, NOISE, Misses

KNOWN = 10.0
MOST = Misses(*[MOST_GROWTH * KNOWN + NOISE[name] for name in Misses._fields])


@pytest.mark.parametrize(("counted", "status"), [
    (Misses(KNOWN, KNOWN), 0), (MOST, 0), (Misses(MOST.first + 0.1, KNOWN), 1),
    (Misses(KNOWN, MOST.last + 0.1), 1), (Misses(0.0, 0.0), 0),
])
@pytest.mark.parametrize("base", [False, True])
def test_more_misses_than_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: bool, counted: Misses, status: int
) -> None:
    recorded = {work: Misses(KNOWN, KNOWN)._asdict() for work in GATED}
    table = tmp_path / "misses.json"
    table.write_text(json.dumps({} if base else {misses.this_build(): recorded}))
    monkeypatch.setattr(misses, "BASELINE", table)
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def measure(python: str, *arguments: Any) -> Misses:
        return Misses(KNOWN, KNOWN) if python == "other python" else counted

    monkeypatch.setattr(misses, "measure", measure)
    options = ["--base", "other python"] if base else []
    monkeypatch.setattr(sys, "argv", ["misses", "--check", *options])
    assert misses.main() == status


def test_a_build_of_python_without_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "misses.json"
    table.write_text("{}")
    monkeypatch.setattr(misses, "BASELINE", table)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(misses, "measure", lambda *arguments: Misses(1.0, 1.0))
    monkeypatch.setattr(sys, "argv", ["misses", "--check"])
    assert misses.main() == 2
    assert "no entry for" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["misses", "--record"])
    assert misses.main() == 0
    assert set(json.loads(table.read_text())[misses.this_build()]) == set(GATED)
