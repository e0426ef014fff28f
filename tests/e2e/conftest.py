from __future__ import annotations

import pytest


@pytest.fixture(params=["tcp", "ws", "quic"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)
