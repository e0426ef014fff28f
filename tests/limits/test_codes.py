"""The list of codes is that of the errors."""

from __future__ import annotations

from dataclasses import fields

from rcmgr import ConcreteLimits, Ledger, Limit
from rcmgr.limits import codes


def test_each_scope_has_limits_with_each_resource() -> None:
    limits = ConcreteLimits()
    for scope in codes.SCOPES:
        assert hasattr(limits, scope)
    assert set(codes.RESOURCES) == {each.name for each in fields(Limit)}


def test_refusals_of_the_ledger_have_these_codes() -> None:
    ledger = Ledger(ConcreteLimits(
        peer_default=Limit(streams_inbound=0), system=Limit(fd=0), conn=Limit(memory=0)))
    assert ledger.try_open_stream(b"p" * 34).code == codes.scope_code("peer", "streams_inbound")
    assert ledger.try_open_connection().code == codes.scope_code("system", "fd")
    conn = ledger.open_connection(fd=False)
    assert conn.try_reserve_memory(1).code == codes.scope_code("conn", "memory")


def test_a_code_begins_with_the_category_of_its_error() -> None:
    assert codes.scope_code("peer", "streams_inbound") == "stream.peer.streams_inbound"
    assert codes.scope_code("system", "fd") == "connection.system.fd"
    assert codes.scope_code("conn", "memory") == "memory.conn.memory"
    assert {code.partition(".")[0] for code in codes.ALL} == {
        "connection", "stream", "memory", "rate", "fleet"}
