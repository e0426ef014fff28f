from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rcmgr.cli.status_tables import (
    denial_lines,
    dry_run_line,
    headline,
    limits_table,
    rows_screen,
    rows_table,
    top_screen,
)


def usage(limit: str, used: int, of: int, peak: int | None = None) -> dict[str, Any]:
    return {"limit": limit, "used": used, "of": of, "peak": peak, "share": used / of if of else 1}


def status(*rows: dict[str, Any], time: float = 100.0, **denied: int) -> dict[str, Any]:
    return {
        "rcmgr": "1.2.3",
        "pid": 42,
        "time": time,
        "stats": {"connections": 3, "peers": 2, "streams": 5},
        "usage": list(rows),
        "denials": {"total": sum(denied.values()), "by_limit": denied},
        "latest_denials": [{"message": "first"}, {"message": "last\x1b[2J"}] if denied else [],
    }


def lines(shown: RenderableType, console: Console) -> list[str]:
    with console.capture() as capture:
        console.print(shown)
    return [line.rstrip() for line in capture.get().splitlines()]


def console(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), width=width, height=height)


def ascii_console() -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80)


def test_the_headline_has_the_node_and_its_counts() -> None:
    (line,) = lines(headline(status()), console())
    assert line.startswith("rcmgr 1.2.3, process 42, ")
    assert line.endswith(": connections 3, peers 2, streams 5")


@pytest.mark.parametrize(
    ("limit", "used", "of", "shown"),
    [
        ("system conns", 3, 4, ["3", "4", "75%"]),
        ("system memory", 512, 1023, ["512", "B", "1023", "B", "50%"]),
        ("system memory", 1536, 1 << 20, ["1.5", "KiB", "1", "MiB", "0%"]),
        ("system memory", 3 << 30, 5000 << 30, ["3", "GiB", "5000", "GiB", "0%"]),
    ],
)
def test_amounts_of_memory_have_units(limit: str, used: int, of: int, shown: list[str]) -> None:
    table = limits_table(status(usage(limit, used, of)), console(60), rows=None)
    row = lines(table, console(60))[1]
    assert [word for word in row.split() if not set(word) & set("█·")][2:] == shown


@pytest.mark.parametrize(("used", "bar"), [(0, "····················"), (5, "██████████··········"),
                                           (12, "████████████████████")])
def test_a_bar_shows_the_share(used: int, bar: str) -> None:
    table = limits_table(status(usage("a", used, 10)), console(), rows=None)
    assert bar in lines(table, console())[1]


def test_peaks_need_a_wide_terminal() -> None:
    found = status(usage("a", 1, 10, peak=7))
    assert lines(limits_table(found, console(70), None), console(70))[0].split()[3] == "peak"
    assert "peak" not in lines(limits_table(found, console(69), None), console(69))[0]


def test_the_ids_of_peers_are_shortened() -> None:
    found = status(usage("peer:" + "a" * 6 + "b" * 30 + "c" * 6, 1, 2))
    wide = console(200)
    assert lines(limits_table(found, wide, None), wide)[1].startswith("peer:aaaaaa…cccccc ")
    plain = ascii_console()
    assert lines(limits_table(found, plain, None), plain)[1].startswith("peer:aaaaaa..cccccc ")


def test_a_table_may_have_fewer_rows() -> None:
    found = status(*(usage(f"limit {number}", 1, 2) for number in range(9)))
    assert len(lines(limits_table(found, console(), rows=4), console())) == 1 + 4


def test_the_screen_has_denials_per_second_by_limit() -> None:
    before = status(time=10.0, a_limit=4, other=1)
    now = status(usage("a", 1, 2), time=12.0, a_limit=14, other=3, third=0)
    screen = lines(top_screen(now, before, console()), console())
    assert screen[1] == "denials 17, 6 a second, a limit 5, other 1; `q` quits"
    assert screen[2] == r"last: last\x1b[2J"


def test_the_first_screen_has_no_rates() -> None:
    screen = lines(top_screen(status(), None, console()), console())
    assert screen[1:3] == ["denials 0; `q` quits", "last: none"]


def test_names_of_a_peers_limits_are_not_cut_at_80_columns() -> None:
    peer = "peer:Qm" + "a" * 44
    found = status(usage(f"{peer} conns_inbound", 3, 3), usage(f"{peer} streams_outbound", 3, 4))
    shown = lines(limits_table(found, console(), None), console())
    assert shown[1].startswith("peer:Qmaaaa…aaaaaa conns inbound ")
    assert shown[2].startswith("peer:Qmaaaa…aaaaaa streams outbound ")
    assert max(map(len, shown)) <= 80
    assert "█" in shown[1]


def test_denials_have_limits_and_times() -> None:
    found = status(a_limit=4, other=1, never=0)
    found["latest_denials"][0]["seconds_ago"] = 12.3
    assert list(denial_lines(found)) == [
        "denials 5:", "  4 by a limit", "  1 by other", "latest denials:",
        "  12 s ago: first", r"  last\x1b[2J"]
    assert list(denial_lines(status())) == ["denials 0"]


@pytest.mark.parametrize("seconds", [None, "x", float("nan"), [], {}])
def test_a_wrong_time_of_a_denial_is_left_out(seconds: object) -> None:
    found = status(limit=1)
    found["latest_denials"] = [{"message": "no", "seconds_ago": seconds}]
    assert list(denial_lines(found))[-1] == "  no"


ROWS = [
    {"peer": "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51", "connections": 3, "memory": 2048},
    {"peer": "x\x1b[2J", "connections": 12, "memory": 0},
]


@pytest.mark.parametrize(("width", "name"), [
    (80, "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"), (40, "QmNLei…QKCh51")])
def test_rows_of_peers_fit(width: int, name: str) -> None:
    head, first, second = lines(rows_table(ROWS, "peer", console(width)), console(width))
    assert head.split() == ["peer", "conns", "memory"]
    assert first.split() == [name, "3", "2", "KiB"]
    assert second.split() == [r"x\x1b[2J", "12", "0", "B"]
    ascii_first = lines(rows_table(ROWS, "peer", ascii_console()), ascii_console())[1]
    assert ascii_first.isascii()


def test_no_rows_are_a_line() -> None:
    assert lines(rows_table([], "peer", console()), console()) == ["no peer yet"]


def test_the_screen_of_rows_has_as_many_as_the_terminal() -> None:
    shown = lines(rows_screen(status(), "peer", ROWS * 20, console(height=10)), console(height=10))
    assert shown[1] == "by peer; `q` quits"
    assert len(shown) <= 10


def test_a_dry_run_has_a_line() -> None:
    dry = {"limits": ["rate"], "is_whole": False, "would_deny": {"total": 2, "by_limit": {}}}
    assert dry_run_line({**status(), "dry_run": dry}) == "DRY RUN of rate; would refuse 2 so far"
    assert dry_run_line({**status(), "dry_run": {**dry, "limits": []}}) is None
    assert dry_run_line(status()) is None
    whole = {**status(), "dry_run": {**dry, "limits": ["all"], "is_whole": True}}
    for shown in (top_screen(whole, None, console()), rows_screen(whole, "peer", [], console())):
        assert "DRY RUN: no limit refuses anything; would refuse 2 so far" in lines(
            shown, console())
