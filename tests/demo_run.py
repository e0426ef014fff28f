"""A run of `rcmgr demo` with fixed numbers, for tests of its verdict and its output."""

from __future__ import annotations

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from rcmgr.cli.demo.limit_rows import Row
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.processes import Visitor
from rcmgr.cli.demo.run_state import DemoOptions, Run
from rcmgr.cli.demo.swarm_view import SwarmView

PEER = ID.from_pubkey(create_new_key_pair().public_key)


class FixedManager:
    """A manager that reports the rows that a test gives it."""

    title = "a test"
    manager = None
    memory_peak = 100

    def __init__(self, *rows: Row) -> None:
        self._rows = list(rows)

    def rows(self) -> list[Row]:
        return self._rows

    def limit_memory(self) -> None: ...

    def memory(self) -> Row:
        return Row("memory", 90, self.memory_peak, 100, 7, 3, slack=16)

    def last_denial(self) -> str | None:
        return None

    def remarks(self) -> list[str]:
        return []

    def hint(self) -> str:
        return "A hint."


class FixedView(SwarmView):
    def __init__(self, *, connected: bool = True) -> None:
        super().__init__()
        self._connected = connected

    def has(self, peer_id: ID) -> bool:
        assert peer_id == PEER
        return self._connected


def a_run(*rows: Row, view: SwarmView | None = None) -> Run:
    options = DemoOptions(20, 4, DEMO_LIMITS, stock=False)
    run = Run(options, FixedManager(*rows), view or FixedView())
    run.honest.peer_id = PEER.to_base58()
    run.attackers = [Visitor("half-open", tried=3), Visitor("streams", tried=1)]
    return run


def row(name: str = "streams", now: int = 0, peak: int = 0, limit: int | None = 5) -> Row:
    return Row(name, now, peak, limit, admitted=peak, denied=0)
