"""A node's past sets its limits: record, suggest, replay, apply."""

import subprocess
import sys
import tempfile
from pathlib import Path

from rcmgr import LimitsFile, NodeLimits, ResourceManager


def visit(manager, number):
    """A peer connects, opens three streams, and stays."""
    peer = b"\x12\x20" + number.to_bytes(32, "big")
    address = f"198.51.{number // 250}.{number % 250}"
    pending = manager.open_connection(None, address, "inbound")
    connection = manager.open_connection(peer, address, "inbound")
    pending.close()
    for _ in range(3):
        manager.acquire_stream(peer, "inbound")
    return connection


def rcmgr(*arguments):
    """Run the command, and return its output."""
    print("$ rcmgr", *(Path(each).name for each in arguments))
    ended = subprocess.run(
        [sys.executable, "-m", "rcmgr", *arguments], capture_output=True, text=True, check=True)
    return ended.stdout


with tempfile.TemporaryDirectory() as folder:
    record, limits = Path(folder, "node.rec"), Path(folder, "new.toml")

    manager = ResourceManager()
    manager.record(record)
    connections = [visit(manager, number) for number in range(100)]  # a real node: a day or more
    manager.close()

    limits.write_text(rcmgr("suggest", str(record)))
    print(*[line for line in limits.read_text().splitlines() if line.startswith("Conns")], sep="\n")
    print(rcmgr("replay", str(record), "--limits", str(limits)))

    manager = ResourceManager(LimitsFile.read(limits).build(NodeLimits.default()))
    print("applied:", manager.limits.max_connections, "connections")
