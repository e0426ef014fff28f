from __future__ import annotations

from demo_run import PEER

from rcmgr.cli.demo.limit_rows import Row
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.measured_rcmgr import MeasuredRcmgr


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
