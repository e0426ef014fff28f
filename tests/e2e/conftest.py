from __future__ import annotations

from collections.abc import Iterator

import pytest

from rcmgr.libp2p import report_remote_addresses


@pytest.fixture(params=["tcp", "ws", "quic"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote_addresses() -> Iterator[None]:
    """Where connections come from, also where stock py-libp2p does not know it."""
    reported = report_remote_addresses()
    yield
    reported.undo()
