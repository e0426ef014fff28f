"""Clocks that a test sets, for the limiters on both sides."""

from __future__ import annotations

import libp2p.rcmgr.protocol_rate_limiter as protocol_module
import libp2p.rcmgr.rate_limiter as limiter_module
import libp2p.rcmgr.token_bucket as bucket_module
import pytest
from rate_limiters import Clocks

from rcmgr.libp2p.dropin import _clock


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    for module in (bucket_module, limiter_module, protocol_module, _clock):
        monkeypatch.setattr(module, "time", clocks)
    return clocks
