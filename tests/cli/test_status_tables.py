from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rcmgr.cli.status_tables import denial_lines, headline, limits_table, top_screen


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
