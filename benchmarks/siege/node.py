"""The besieged node, in a separate process: python -m benchmarks.siege.node KIND PLACES [ws]

KIND: "plain" (new_host with a manager), "install", "harden", "off" (harden without eviction), or
"stock" (libp2p's own manager). It writes its address as a line of JSON. For each line that it
reads, it writes its figures. It ends when stdin ends.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from typing import Any

import trio

PENDING = 64


def limits(kind: str, places: int) -> Any:
    """The defaults, with so many inbound places. Loopback is exempt from limits on addresses."""
    from rcmgr import ConnectionLimits, Eviction, NodeLimits

    return replace(
        NodeLimits.default(), eviction=Eviction(enabled=kind != "off"),
        connections=ConnectionLimits(
            max_pending_inbound=PENDING, max_established_inbound=places))


def host_of(kind: str, places: int, *, websocket: bool) -> tuple[Any, Any]:
    """A host of this kind, and its manager."""
    import rcmgr
    from rcmgr.libp2p import harden

    if kind == "install":
        rcmgr.install()
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.rcmgr.connection_limits import ConnectionLimits
    from libp2p.rcmgr.manager import ResourceManager

    if kind in ("stock", "install"):
        manager: Any = ResourceManager(connection_limits=ConnectionLimits(
            max_pending_inbound=PENDING if kind == "install" else None,
            max_established_inbound=places))
    else:
        manager = rcmgr.ResourceManager(limits(kind, places))
    host = new_host(
        key_pair=create_new_key_pair(), resource_manager=manager, enable_websocket=websocket)
    if kind in ("harden", "off"):
        harden(host)
    return host, manager


def figures(manager: Any) -> dict[str, Any]:
    """Things that the process holds now, and counts of its manager."""
    found: dict[str, Any] = {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "cpu_s": sum(os.times()[:2]),
    }
    counted = getattr(manager, "denied_by_limit", None)
    if counted is not None:
        found["denied"] = counted()
    stats = manager.get_stats()
    if "connection_states" in stats:
        found["connection_states"] = stats["connection_states"]
    if hasattr(manager, "evictions"):
        found["evictions"] = manager.evictions()
        found["evicted"] = sum(found["evictions"]["evicted"].values())
    return found


async def serve(kind: str, places: int, *, websocket: bool) -> None:
    from multiaddr import Multiaddr

    host, manager = host_of(kind, places, websocket=websocket)
    listen = f"/ip4/127.0.0.1/tcp/0{'/ws' * websocket}"
    async with host.run(listen_addrs=[Multiaddr(listen)]):
        say({"address": str(host.get_addrs()[0])})
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            say(figures(manager))


def say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(lambda: serve(
        sys.argv[1], int(sys.argv[2]), websocket="ws" in sys.argv[3:]))
