"""Names of limits in a dry run."""

from __future__ import annotations

from typing import Any

import pytest

from rcmgr import DryRun, LimitsFile, LimitsFileError, NodeLimits
from rcmgr.limits import codes


@pytest.mark.parametrize(("names", "expected"), [
    ([], set()),
    (["all"], codes.ALL),
    (["rate.address"], {"rate.address"}),
    (["rate"], {"rate.address", "rate.peer", "rate.protocol"}),
    (["memory.process", "rate.peer"], {"memory.process", "rate.peer"}),
    (["stream.peer"], {
        "stream.peer.streams", "stream.peer.streams_inbound", "stream.peer.streams_outbound"}),
])
def test_a_name_stands_for_each_code_that_begins_with_it(names: list[str], expected: Any) -> None:
    assert DryRun(frozenset(names)).codes == expected


def test_it_is_whole_if_no_limit_refuses() -> None:
    assert DryRun(frozenset(["all"])).is_whole
    assert DryRun(codes.ALL).is_whole
    assert not DryRun(codes.ALL - {"rate.peer"}).is_whole
    assert not DryRun().is_whole


@pytest.mark.parametrize(("limits", "error", "text"), [
    ("all", TypeError, "limits must be names of limits, not 'all'"),
    (5, TypeError, "limits must be names of limits, not 5"),
    ([5], TypeError, "a name in limits must be a str, not 5"),
    (["rate.adress"], ValueError, "limits has 'rate.adress', which is no limit; "
                                  "did you mean 'rate.address'"),
    (["connection.sys"], ValueError, "limits has 'connection.sys', which is no limit"),
    (["rate."], ValueError, "limits has 'rate.', which is no limit"),
    ([""], ValueError, "limits has '', which is no limit"),
    (["?"], ValueError, "limits has '[?]', which is no limit: see docs/error-codes.md"),
])
def test_a_wrong_name_is_named(limits: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        DryRun(limits)


def test_a_list_of_names_is_kept_as_a_set() -> None:
    assert DryRun(["rate", "rate"]) == DryRun(frozenset(["rate"]))  # type: ignore[arg-type]


def test_a_word_stands_for_the_section() -> None:
    for word, dry_run in (("on", DryRun(frozenset(["all"]))), ("off", DryRun())):
        read = LimitsFile.from_toml(f'DryRun = "{word}"').build(NodeLimits())
        assert read.dry_run == dry_run
        assert NodeLimits(dry_run=word) == read  # type: ignore[arg-type]


def test_a_file_names_limits() -> None:
    read = LimitsFile.from_toml('[DryRun]\nlimits = ["rate", "stream.peer"]').build(NodeLimits())
    assert read.dry_run == DryRun(frozenset(["rate", "stream.peer"]))
    assert LimitsFile.from_toml(LimitsFile.of(read).to_toml()).build(NodeLimits()) == read
    with pytest.raises(LimitsFileError, match="DryRun: limits has 'rates', which is no limit"):
        LimitsFile.from_toml('[DryRun]\nlimits = ["rates"]')
