from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.scope_values import (
    FIELDS,
    MAPPINGS,
    SCOPES,
    ScopeReader,
    limit_shown,
    peer_from_text,
)
from rcmgr.limits.scopes import Limit, LimitTree, PartialLimit


def test_every_scope_and_limit_has_a_name_in_a_file() -> None:
    assert [*FIELDS.values()] == [each.name for each in fields(Limit)]
    assert [*SCOPES.values()] == [*LimitTree.scopes()]
    assert tuple(MAPPINGS.values()) == LimitTree.MAPPINGS


@pytest.mark.parametrize(("value", "limit"), [
    (7, 7), (0, 0), ("unlimited", None), ("blockAll", 0), (4_611_686_018_427_388_000, None)])
def test_values(value: Any, limit: int | None) -> None:
    assert ScopeReader(lenient=False).value("x", value, is_memory=False) == limit
    assert ScopeReader(lenient=True).value("x", value, is_memory=False) == limit


@pytest.mark.parametrize(("value", "limit"), [(-1, None), (-2, 0), (-3, 0), (None, 0)])
def test_values_that_only_go_reads(value: Any, limit: int | None) -> None:
    assert ScopeReader(lenient=True).value("x", value, is_memory=False) == limit
    with pytest.raises(LimitsFileError, match=r"^x: must be"):
        ScopeReader(lenient=False).value("x", value, is_memory=False)


def test_a_limit_is_shown_as_it_was_written() -> None:
    assert limit_shown(PartialLimit(conns=None, fd=0, streams=5, memory=1024)) == {
        "Conns": "unlimited", "FD": "blockAll", "Streams": 5, "Memory": "1024"}


@pytest.mark.parametrize("text", ["", "alice", "Qm", "1"])
def test_what_is_no_peer(text: str) -> None:
    with pytest.raises(LimitsFileError, match=r"^Peer\.x: not a peer id"):
        peer_from_text("Peer.x", text)
