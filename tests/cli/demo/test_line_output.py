from __future__ import annotations

import json

import pytest
from demo_run import FixedManager, a_run, row

from rcmgr.cli.demo.line_output import JsonLines, PlainLines
from rcmgr.cli.demo.run_state import Check, Run


def under_attack() -> Run:
    run = a_run(row("pending_inbound", 3, 5), row("transient_streams", 1, 1))
    run.phase, run.port, run.elapsed = "under attack", 4001, 1.5
    run.checks = [Check("One", True, "fine " * 30)]
    return run


def test_plain_lines_begin_with_a_head_and_come_once_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = under_attack()
    with PlainLines() as screen:
        screen.show(run)
        screen.show(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rcmgr demo: guarded by a test, 127.0.0.1:4001, 4 attackers, 20 s"
    assert [line for line in lines if line.startswith("  1.5")] == [
        "  1.5    3/5      0      -   90"
    ]


def test_plain_lines_fit_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FixedManager, "last_denial", lambda _: "the last denial " * 12)
    monkeypatch.setattr(FixedManager, "hint", lambda _: "a long hint " * 12)
    run = under_attack()
    run.honest.lost = "the reason " * 12
    screen = PlainLines()
    screen.show(run)
    screen.summary(run, 0)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("last denial: " + "the last denial " * 12, "a long hint " * 12,
                  "honest peer: LOST: " + "the reason " * 12):
        assert shown.strip() in " ".join(text.split())


def test_the_plain_summary_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines().summary(under_attack(), 0)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "pending inbound             3      5      5         5         0" in lines
    assert "memory, MiB                90    100    100         7         3" in lines
    assert "half-open: 3 tries, 0 refused" in lines
    assert lines[-1].strip() == "Exit status 0."


def test_json_has_samples_once_a_second_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    run = under_attack()
    with JsonLines() as screen:
        screen.show(run)
        screen.show(run)
        screen.summary(run, 1)
    sample, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert sample["event"] == "sample"
    assert sample["limits"]["pending_inbound"] == {
        "now": 3, "peak": 5, "limit": 5, "admitted": 5, "denied": 0,
    }
    assert summary["event"] == "summary"
    assert summary["exit_status"] == 1
    assert summary["checks"][0]["held"]
