"""Managers that share a fleet, as several test files ask them."""

from __future__ import annotations

from typing import Any

from engine_server import comes_true

from rcmgr import Fleet, ResourceManager

PEERS = [b"\x12\x20" + bytes([number]) * 32 for number in range(8)]


def fleet_of(manager: ResourceManager) -> Fleet:
    assert manager.fleet is not None
    return manager.fleet


def together(*managers: ResourceManager) -> None:
    """Wait until each knows all others."""
    comes_true(lambda: all(
        not fleet_of(each).is_lost and fleet_of(each).status()["nodes"] == len(managers)
        for each in managers))


def opened(manager: ResourceManager, peer: bytes, times: int) -> list[Any]:
    """The connections that this peer gets if it asks so often."""
    asked = [manager.open_connection(peer, direction="inbound") for _ in range(times)]
    return [each for each in asked if each is not None]
