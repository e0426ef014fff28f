from __future__ import annotations

import pytest
from demo_run import PEER, a_run

from rcmgr.cli.demo.processes import Visitor
from rcmgr.cli.demo.run_state import Check
from rcmgr.cli.demo.run_text import (
    attackers_by_role,
    headline,
    honest_peer_line,
    label,
    limit_text,
    newcomers_line,
    phase_line,
    verdict_lines,
)


def test_labels_and_limits() -> None:
    assert label("pending_inbound") == "pending inbound"
    assert label("connections") == "all connections"
    assert (limit_text(None), limit_text(0)) == ("none", "0")


def test_the_headline_has_the_manager_and_the_options() -> None:
    run = a_run()
    run.port = 4001
    assert headline(run) == "guarded by a test, 127.0.0.1:4001, 4 attackers, 20 s"


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ("starting", "starting: 1 of 4 processes are ready"),
        ("under attack", "under attack for 3 of 20 s"),
        ("leaving", "all peers leave"),
        ("over", "over after 3.2 s of attack"),
    ],
)
def test_every_phase_has_a_line(phase: str, line: str) -> None:
    run = a_run()
    run.phase, run.elapsed, run.honest.ready = phase, 3.2, True
    assert phase_line(run) == line


def test_the_honest_peer_connects_pings_and_gets_lost() -> None:
    run = a_run()
    run.honest.peer_id = None
    assert honest_peer_line(run) == "connecting"
    run.honest.peer_id = PEER.to_base58()
    assert honest_peer_line(run) == "connected"
    run.honest.pings_ms = [1.0, 2.0, 9.0]
    assert honest_peer_line(run) == "ping median 2.0 ms, 99th percentile 9.0 ms, 3 pings"
    run.honest.died = "exit status 1"
    assert honest_peer_line(run) == "LOST: exit status 1"
    run.honest.lost = "StreamReset"
    assert honest_peer_line(run) == "LOST: StreamReset"


def test_attackers_of_one_role_are_added_up() -> None:
    run = a_run()
    run.attackers.append(Visitor("streams", tried=4, holding=2, refused=1))
    counts = attackers_by_role(run)
    assert list(counts) == ["half-open", "streams"]
    assert counts["streams"] == {"processes": 2, "tried": 5, "holding": 2, "refused": 1}


def test_the_verdict_has_checks_remarks_the_signal_and_the_status() -> None:
    run = a_run()
    run.checks = [Check("One", True, "fine"), Check("Two", False, "not fine")]
    assert verdict_lines(run, 1) == [
        ("ok", "One: fine."), ("FAILED", "Two: not fine."), ("", "Exit status 1."),
    ]
    run.signal = 2
    assert ("note", "Ended by signal 2 before the attack.") in verdict_lines(run, 130)
    run.elapsed = 1.0
    assert ("note", "Ended by signal 2 during the attack.") in verdict_lines(run, 130)


def test_newcomers_come_and_are_served() -> None:
    run = a_run()
    assert newcomers_line(run) == "none came yet"
    run.newcomers.came = 3
    assert newcomers_line(run) == "0 of 3 served"
    run.newcomers.pings_ms = [20.0, 30.4]
    assert newcomers_line(run) == "2 of 3 served, connected and pinged in 20 ms (median)"
