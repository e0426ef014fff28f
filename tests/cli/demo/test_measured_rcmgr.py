from __future__ import annotations

from dataclasses import replace

from demo_run import PEER
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from rcmgr import Limit
from rcmgr.cli.demo.limit_rows import Row
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.measured_rcmgr import MeasuredRcmgr

OTHER = ID.from_pubkey(create_new_key_pair().public_key)


def test_rows_are_the_managers_counts() -> None:
    measured = MeasuredRcmgr(DEMO_LIMITS)
    limit = DEMO_LIMITS.connections.max_pending_outbound
    assert limit is not None
    scopes = [measured.manager.open_connection(direction="outbound") for _ in range(limit + 2)]
    rows = {row.name: row for row in measured.rows()}
    assert rows["pending_outbound"] == Row("pending_outbound", limit, limit, limit, limit, 2)
    assert rows["connections"].now == limit
    assert measured.last_denial() is not None
    for scope in scopes[:limit]:
        scope.close()
    rows = {row.name: row for row in measured.rows()}
    assert rows["pending_outbound"] == Row("pending_outbound", 0, limit, limit, limit, 2)
    assert measured.manager.acquire_stream(PEER, "inbound")
    streams = {row.name: row for row in measured.rows()}["streams"]
    assert (streams.now, streams.peak, streams.admitted, streams.denied) == (1, 1, 1, 0)


def test_one_peer_reaches_the_limit_on_its_streams() -> None:
    measured = MeasuredRcmgr(replace(DEMO_LIMITS, scopes=replace(
        DEMO_LIMITS.scopes, peer_default=Limit(streams_inbound=2))))
    assert [measured.manager.acquire_stream(PEER, "inbound") for _ in range(4)] == [
        True, True, False, False]
    assert measured.manager.acquire_stream(OTHER, "inbound")
    rows = {row.name: row for row in measured.rows()}
    assert rows["streams_per_peer"] == Row("streams_per_peer", 2, 2, 2, 3, 2)
    measured.manager.release_stream(PEER, "inbound")
    assert {row.name: row for row in measured.rows()}["streams_per_peer"].now == 1


def test_the_limits_row_has_the_shares_of_a_hardened_host() -> None:
    measured = MeasuredRcmgr(DEMO_LIMITS)
    host = new_host(resource_manager=measured.manager)
    measured.attach(host)
    rows = {row.name: row for row in measured.rows()}
    assert rows["streams_per_peer"].limit == 21
    measured.close()
