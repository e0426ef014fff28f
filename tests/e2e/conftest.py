from __future__ import annotations

from collections.abc import Iterator

import pytest

from rcmgr.libp2p import report_remote_addresses
from rcmgr.libp2p.guard.bounded_muxers import bounded_muxers
from rcmgr.libp2p.guard.quic_listeners import single_refusals
from rcmgr.libp2p.guard.quic_retry import quic_retries
from rcmgr.libp2p.guard.quic_shares import quic_shares
from rcmgr.libp2p.guard.remote_addresses import address_hooks
from rcmgr.libp2p.guard.reset_codes import reset_codes


@pytest.fixture(params=["tcp", "ws", "quic"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote_addresses() -> Iterator[None]:
    """Report the remote addresses that stock py-libp2p does not know."""
    reported = report_remote_addresses()
    yield
    reported.undo()


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Remove hooks on the whole process that a test left in place."""
    yield
    for hooks in (
        address_hooks, bounded_muxers, quic_retries, quic_shares, reset_codes, single_refusals
    ):
        hooks._users.clear()
        hooks._remove()
