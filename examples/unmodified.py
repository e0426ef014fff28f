"""A program without a word about rcmgr runs guarded: `rcmgr run`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = '''
import trio
from libp2p import new_host
from multiaddr import Multiaddr

async def main():
    host = new_host()
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        manager = host.get_network()._resource_manager
        print(type(manager).__module__, manager.connection_limits.max_pending_inbound)

trio.run(main)
'''
LIMITS = """
[Connections]
max_pending_inbound = 32
"""

with tempfile.TemporaryDirectory() as folder:
    program, limits = Path(folder, "node.py"), Path(folder, "limits.toml")
    program.write_text(PROGRAM)
    limits.write_text(LIMITS)
    for how in ([], ["-m", "rcmgr", "run", "--harden"]):
        print("$ python", *how, "node.py", flush=True)
        subprocess.run(
            [sys.executable, *how, program], check=True,
            env={**os.environ, "RCMGR_LIMITS": str(limits)})
