"""A handler that admits one pending connection, and one established connection of each peer."""

from __future__ import annotations

import pytest

from rcmgr import ConnectionLifecycleHandler, ConnectionLimits, ConnectionTracker


@pytest.fixture
def handler() -> ConnectionLifecycleHandler:
    return ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits(
        max_pending_inbound=1, max_established_per_peer=1))
