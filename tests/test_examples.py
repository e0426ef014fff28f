"""Each program in examples/ runs to its end, and shows what its first line says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from engine_server import comes_true, needs_server, running
from programs import run_fork

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs/examples.md"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))

# a pattern that the program prints if it has shown its point
SHOWS = {
    "bitswap": r"^[1-9]\d* blocks came\nserver: rate limit exceeded: stream of /ipfs/bitswap",
    "costs": r"^search: again in [\d.]+ s$",
    "echo": r"^client three: refused .*\n(.*\n)*"
            r"server: Connection limit exceeded: established_inbound",
    "gossipsub": r"^[5-9] of 20 messages passed\nreader: rate limit exceeded: news of",
    "kad_dht": r"^services that were used: .*libp2p\.kad-dht",
    "metrics": r'^rcmgr_connections{dir="inbound",state="established"} 1\.0',
    "parts": r"^bytes that are still reserved: 0\n6 tokens .*\n6 tokens ",
    "ping": r"^ping 3: [\d.]+ ms\n(.*\n)*ping 4: StreamFailure\n(.*\n)*server: rate limit exceeded",
    "record": r"^Nothing would have changed\.\n(.*\n)*applied: 1\d\d connections",
    "relay": r"^connections of the node: 2 in through the relay, 1 out .*\nrefused .*: {}",
    "unmodified": r"^libp2p\.rcmgr\.manager 64\n.* --harden node.py\nrcmgr\.\S* 32",
}

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="only in a checkout")


@pytest.mark.libp2p
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_shows_its_point(program: Path) -> None:
    ended = run_fork(
        "-c",
        "import runpy, warnings\n"
        "warnings.filterwarnings('error', module=r'rcmgr\\Z')\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')",
        PYTHONWARNINGS="error::Warning:rcmgr")  # for the processes that it starts
    assert ended.returncode == 0, ended.stderr
    assert re.search(SHOWS[program.stem], ended.stdout, re.M), ended.stdout + ended.stderr


def test_the_page_has_every_example() -> None:
    page = PAGE.read_text()
    assert [each.name for each in PROGRAMS if f"../examples/{each.name}" not in page] == []
    assert set(SHOWS) == {each.stem for each in PROGRAMS}


@pytest.mark.libp2p
@needs_server()
def test_the_commands_of_the_compose_file_make_a_fleet_of_three(tmp_path: Path) -> None:
    """The same commands, as processes of this machine and without containers."""
    yaml = pytest.importorskip("yaml")
    folder = EXAMPLES / "fleet"
    text = (folder / "compose.yaml").read_text().replace("${FLEET_PASSWORD:?}", "s3cret")
    services = yaml.safe_load(text)["services"]
    node, engine = services["node"], shlex.split(services["engine"]["command"])
    assert engine[0] == "valkey-server"
    image = folder / node["build"]["context"] / node["build"]["dockerfile"]
    assert image.samefile(folder / "Dockerfile")
    with running(*engine[1:]) as server, ExitStack() as stack:
        environment = {
            **os.environ, "PORT": "0", "PYTHONWARNINGS": "error::Warning:rcmgr",
            **{name: value.replace("engine:6379", f"127.0.0.1:{server.port}")
               .replace("/app", str(folder)) for name, value in node["environment"].items()}}
        command = shlex.split(node["command"].replace("/app", str(folder)))
        for number in range(node["deploy"]["replicas"]):
            started = stack.enter_context(subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**environment, "RCMGR_STATUS": str(tmp_path / f"{number}.sock")}))
            stack.callback(started.kill)

        def nodes() -> list[Any]:
            shown = subprocess.run(
                [sys.executable, "-m", "rcmgr", "fleet", "status", "--json"],
                env=environment, capture_output=True, text=True, check=True)
            found: list[Any] = json.loads(shown.stdout)
            return found

        comes_true(lambda: len(nodes()) == 3, seconds=120)
