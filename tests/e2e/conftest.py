from __future__ import annotations

from collections.abc import Iterator

import pytest

from rcmgr.libp2p import report_remote_addresses
from rcmgr.libp2p.guard.bounded_muxers import bounded_muxers
from rcmgr.libp2p.guard.remote_addresses import address_hooks


@pytest.fixture(params=["tcp", "ws", "quic"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote_addresses() -> Iterator[None]:
    """Where connections come from, also where stock py-libp2p does not know it."""
    reported = report_remote_addresses()
    yield
    reported.undo()


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """What a test hooked for the whole process, and left so, would be there in the next."""
    yield
    for hooks in (address_hooks, bounded_muxers):
        hooks._users.clear()
        hooks._remove()
