"""`rcmgr fleet` and `rcmgr bans --fleet` on a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from engine_server import comes_true, free_port, needs_server, running

from rcmgr import Fleet, FleetLimits, NodeLimits, Rate, ResourceManager

pytestmark = needs_server()


def run(*arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    environment.pop("RCMGR_FLEET", None)
    if url is not None:
        environment["RCMGR_FLEET"] = url
    return subprocess.run(
        [sys.executable, "-m", "rcmgr", *arguments], capture_output=True, text=True, check=False,
        timeout=60, env=environment, stdin=subprocess.DEVNULL)


def test_the_nodes_and_the_bans_of_a_fleet() -> None:
    with running() as server:
        url = f"{server.url}#edge"
        assert run("fleet", "status", url=url).stdout == (
            "0 nodes: connections 0, peers 0, streams 0, denied 0\n")
        assert run("bans", "--fleet", url=url).stdout == "No bans.\n"
        fleet = Fleet(url, node="node-0")
        node = ResourceManager(NodeLimits(fleet=FleetLimits(rate=Rate(1e-3, 1))), fleet=fleet)
        comes_true(lambda: not fleet.status()["lost"])  # until then, the node decides alone
        node.ban("192.0.2.0/24", None, "scans\x1b")
        held = [node.open_connection(b"peer") for _ in range(3)]
        client = server.client()
        comes_true(lambda: b'"fleet rate": 2' in b"".join(client.hvals("rcmgr:{edge}:use")))
        shown = run("fleet", "status", url=url).stdout.splitlines()
        assert shown[0] == "1 nodes: connections 1, peers 1, streams 0, denied 2"
        assert shown[1] == "denied by fleet rate 2"
        assert shown[3].split()[:5] == ["node-0", "1", "1", "0", "2"]
        [said] = json.loads(run("fleet", "status", "--json", "--url", url).stdout)
        assert said["denied_by"] == {"fleet rate": 2}
        listed = run("bans", "--fleet", url=url).stdout
        assert "192.0.2.0/24 no end, by operator on node-0: scans\\x1b" in listed
        [ban] = json.loads(run("bans", "--fleet", "--json", url=url).stdout)
        assert ban["node"] == "node-0"
        assert len(held) == 3
        node.close()


def test_no_fleet_and_no_engine_are_one_line() -> None:
    assert "Give --url, or set RCMGR_FLEET" in run("fleet", "status").stderr
    wrong = run("fleet", "status", url="http://u:s3cret@h")
    assert "scheme must be one of" in wrong.stderr
    gone = run("bans", "--fleet", url=f"valkey://u:s3cret@127.0.0.1:{free_port()}")
    assert gone.returncode == 1
    assert len(gone.stderr.splitlines()) == 1
    assert "s3cret" not in wrong.stderr + gone.stderr


@pytest.mark.parametrize("url", [
    "valkey://u:12/s3cret@h", "valkey://u:s3cret/x@h", "valkey://u:s3cret\u2100@h",
    "valkey://h?Password=s3cret"])
def test_a_wrong_url_is_one_line_without_its_secret(url: str) -> None:
    for asked in (
            run("fleet", "status", "--url", url), run("fleet", "status", url=url),
            run("run", "-m", "this", url=url)):
        assert asked.returncode != 0
        [line] = asked.stderr.splitlines()
        assert "url" in line
        assert "s3cret" not in line + asked.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal")
def test_top_needs_a_terminal() -> None:
    assert "use `rcmgr fleet status`" in run("fleet", "top", url="valkey://h").stderr
