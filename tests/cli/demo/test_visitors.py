from __future__ import annotations

import subprocess
import sys

from rcmgr.cli.demo.visit import ATTACKS, HONEST, NEWCOMERS
from rcmgr.cli.demo.visitors import ROLES


def test_every_role_has_a_function() -> None:
    assert set(ROLES) == {*ATTACKS, HONEST, NEWCOMERS}


def test_a_visitor_ends_with_its_standard_input() -> None:
    visitor = subprocess.Popen(
        [sys.executable, "-m", "rcmgr.cli.demo.visitors", "half-open"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    assert visitor.stdin is not None
    assert visitor.stdout is not None
    visitor.stdin.write(b'{"host": "127.0.0.1", "port": 1, "peer_id": "peer"}\n')
    visitor.stdin.flush()
    assert b"advertise" in visitor.stdout.readline()
    assert visitor.stdout.readline() == b'{"event": "ready"}\n'
    visitor.stdin.close()
    assert visitor.wait(timeout=10) == 0
    visitor.stdout.close()
