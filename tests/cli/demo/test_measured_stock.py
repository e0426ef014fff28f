from __future__ import annotations

from demo_run import PEER, FixedView
from libp2p.rcmgr import Direction

from rcmgr.cli.demo.limit_rows import Row
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.measured_stock import MeasuredStock
from rcmgr.limits.parts import ResourceLimits


def test_the_stock_manager_is_only_observed() -> None:
    """The subclass counts, and py-libp2p's manager decides."""
    view = FixedView()
    view.swarm = type("Swarm", (), {"get_connections_map": lambda self: {}})()
    limits = ResourceLimits(max_connections=2, max_streams=1).applied_to(DEMO_LIMITS)
    stock = MeasuredStock(limits, view)
    first = stock.manager.open_connection(direction="inbound")
    second = stock.manager.open_connection(PEER, direction="inbound")
    assert stock.manager.open_connection(direction="inbound") is None
    assert stock.manager.acquire_stream(str(PEER), Direction.INBOUND)
    assert not stock.manager.acquire_stream(str(PEER), Direction.INBOUND)
    rows = {row.name: row for row in stock.rows()}
    assert rows["connections"] == Row("connections", 2, 2, 2, 2, 1)
    assert rows["streams"] == Row("streams", 1, 1, 1, 1, 1)
    assert rows["pending_inbound"].now == 1
    first.close()
    first.close()
    second.close()
    rows = {row.name: row for row in stock.rows()}
    assert rows["connections"].now == 0
    assert rows["pending_inbound"].now == 0
