from __future__ import annotations

from pathlib import Path

import pytest
from record_script import Clock, Run

from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceManager
from rcmgr.replay.replay import replay


def test_use_is_drawn_against_limits(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rcmgr.replay.plot import draw

    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(tmp_path / "node.rec") as recording:
        run = Run(manager, clock)
        for seed in range(4):
            run.go(150, seed)
            recording.flush()
    result = replay(tmp_path / "node.rec", NodeLimits(ConcreteLimits(system=Limit(streams=30))))
    assert result.outcome.newly_refused
    draw(result, tmp_path / "out.svg", "title of it")
    text = (tmp_path / "out.svg").read_text()
    assert text.count("<!-- limit 30 -->") == 1
    assert "<!-- title of it -->" in text
    with pytest.raises(ValueError, match="xyz"):
        draw(result, tmp_path / "out.xyz", "")


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcmgr.replay import plot

    def missing(package: str, user: str, extra: str) -> None:
        raise ImportError(f"{user} needs {package}: pip install 'rcmgr[{extra}]'")

    monkeypatch.setattr(plot, "require", missing)
    with pytest.raises(ImportError, match=r"rcmgr\[plot\]"):
        plot.draw(None, tmp_path / "out.svg", "")  # type: ignore[arg-type]
