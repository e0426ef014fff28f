"""A denial of a real connection names the address that it came from, in the log line too."""

from __future__ import annotations

import logging

import pytest
from nodes import eventually, running_node

from rcmgr import ConnectionLimits
from rcmgr.libp2p import harden

BEFORE, AFTER = ConnectionLimits(max_pending_inbound=0), ConnectionLimits(max_established_inbound=0)


@pytest.mark.parametrize(("transport", "limits", "hardened"), [
    ("tcp", BEFORE, False), ("tcp", AFTER, False), ("tcp", BEFORE, True), ("tcp", AFTER, True),
    ("ws", BEFORE, True), ("ws", AFTER, True),  # stock py-libp2p does not know the address
    ("quic", AFTER, False), ("quic", AFTER, True),  # it does not ask before the handshake
])
async def test_a_refused_dial(
    transport: str, limits: ConnectionLimits, hardened: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rcmgr")
    async with running_node(transport, limits=limits) as node, running_node(transport) as peer:
        if hardened:
            harden(node.host)
        await peer.dial(node)
        await eventually(lambda: node.manager.last_denial is not None)
        address = getattr(node.manager.last_denial, "address", None)
        assert "127.0.0.1" in str(address)
        assert f"address {address}" in str(node.manager.last_denial)
        assert node.manager.denials.most_denied_addresses(1)[0][0] == "127.0.0.1"
        assert any("most from 127.0.0.1" in each.getMessage() for each in caplog.records)


async def test_an_address_that_stock_py_libp2p_does_not_know() -> None:
    async with running_node("ws", limits=BEFORE) as node, running_node("ws") as peer:
        await peer.dial(node)
        await eventually(lambda: node.manager.last_denial is not None)
        assert "0.0.0.0" not in str(node.manager.last_denial)
        assert node.manager.denials.most_denied_addresses() == []
