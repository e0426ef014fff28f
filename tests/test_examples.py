"""Each program in examples/ runs to its end, and shows what its first line says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs/examples.md"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))

# a pattern that the program prints if it has shown its point
SHOWS = {
    "bitswap": r"^[1-9]\d* blocks came\nserver: rate limit exceeded: stream of /ipfs/bitswap",
    "costs": r"^search: again in [\d.]+ s$",
    "echo": r"^client three: refused .*\nserver: Connection limit exceeded: established_inbound",
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
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONWARNINGS": "error::Warning:rcmgr"})
    assert ended.returncode == 0, ended.stderr
    assert re.search(SHOWS[program.stem], ended.stdout, re.M), ended.stdout + ended.stderr


def test_the_page_has_every_example() -> None:
    page = PAGE.read_text()
    assert [each.name for each in PROGRAMS if f"../examples/{each.name}" not in page] == []
    assert set(SHOWS) == {each.stem for each in PROGRAMS}
