"""`rcmgr attack`: the demo's attackers against a node of this machine, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rcmgr.cli import main

pytestmark = pytest.mark.libp2p

PEER = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"

NODE = """
import sys
import trio
from libp2p import new_host
from multiaddr import Multiaddr
import rcmgr
from rcmgr.libp2p import harden

manager = rcmgr.ResourceManager(rcmgr.NodeLimits.default())
manager.serve_status(sys.argv[1])
host = new_host(resource_manager=manager)
harden(host)

async def run():
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)

trio.run(run)
"""


@pytest.mark.parametrize(("address", "text"), [
    (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}", "only loopback may be attacked, not 192.0.2.1"),
    (f"/ip4/0.0.0.0/tcp/4001/p2p/{PEER}", "only loopback may be attacked, not 0.0.0.0"),
    (f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{PEER}", "ADDRESS must be TCP over IPv4, such as"),
    (f"/dns4/localhost/tcp/4001/p2p/{PEER}", "ADDRESS must be TCP over IPv4, such as"),
    ("/ip4/127.0.0.1/tcp/4001", "ADDRESS must be TCP over IPv4, such as"),
    ("/ip4/127.0.0.1/tcp/4001/p2p/me", "ADDRESS must be TCP over IPv4, such as"),
    ("localhost:4001", "ADDRESS must be TCP over IPv4, such as"),
    ("\x1b[2J", "ADDRESS must be TCP over IPv4, such as"),
])
def test_another_address_is_refused(address: str, text: str) -> None:
    done = CliRunner().invoke(main, ["attack", address])
    assert done.exit_code == 2
    assert text in done.output
    assert "\x1b" not in done.output


def attack(address: str, status: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rcmgr", "attack", address, "--seconds", "1", "--attackers", "2",
         "--socket", str(status), "--json"],
        check=False, text=True, capture_output=True, timeout=240)


@pytest.mark.skipif(sys.platform == "win32", reason="the node listens on a Unix socket")
def test_a_hardened_node_passes(tmp_path: Path) -> None:
    status = tmp_path / "s"
    with subprocess.Popen(
        [sys.executable, "-c", NODE, str(status)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        address = node.stdout.readline().strip()
        done = attack(address, status)
        node.kill()
    verdict = json.loads(done.stdout)
    checks = {each["what"]: each for each in verdict["checks"]}
    assert checks["Every attacker attacked to the end"]["held"]
    assert checks["No use passed its limit"]["detail"].startswith("of ")
    assert (done.returncode, verdict["exit_status"]) == (0, 0), verdict
