"""The demo's visitors as processes: how they start, what they report, and how they end.

A visitor lives as long as its standard input is open, and only this process can write to that pipe.
The visitor ends when the demo closes the pipe, when the demo crashes, and after SIGKILL.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_typing import TaskStatus

__all__ = ["Target", "Visitor"]

END_TIMEOUT_S = 2.0
"""Seconds that a visitor has to end before it is killed."""
ERROR_LINES = 12
"""Lines of standard error that `Visitor.died` quotes."""

# only the demo gets Ctrl-C from the terminal
OWN_SESSION: dict[str, Any]
if sys.platform == "win32":
    OWN_SESSION = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    OWN_SESSION = {"start_new_session": True}


@dataclass(frozen=True)
class Target:
    """The address and the peer id of the host."""

    host: str
    port: int
    peer_id: str


@dataclass
class Visitor:
    """One process, and its reports so far."""

    role: str
    ready: bool = False
    stopping: bool = False
    died: str | None = None
    """The exit status and the last errors of a process that ended too early."""
    tried: int = 0
    holding: int = 0
    refused: int = 0
    peer_id: str | None = None
    lost: str | None = None
    """The reason why the honest peer has no connection."""
    came: int = 0
    """Newcomers that were served or gave up."""
    unmeasured: str | None = None
    """The reason why the newcomers stay away."""
    pings_ms: list[float] = field(default_factory=list)
    """For newcomers: how long each took from its first dial to its pong."""
    advertised: list[dict[str, Any]] = field(default_factory=list)
    _stdin: trio.abc.SendStream = field(init=False, repr=False)

    async def run(
        self, target: Target, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the process until `stop`, or until it ends without `stop`."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "rcmgr.cli.demo.visitors", self.role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **OWN_SESSION,
        )
        assert process.stdin is not None
        self._stdin = process.stdin
        try:
            task_status.started()
            errors: deque[str] = deque(maxlen=ERROR_LINES)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_errors, process, errors)
                await self._send(json.dumps(asdict(target)))
                await self._receive(process)
            if not self.stopping:
                status = await process.wait()
                self.died = "\n".join([f"exit status {status}", *errors])
        finally:
            with trio.CancelScope(shield=True):
                await end(process)
            self.holding = 0

    async def start(self) -> None:
        """Tell the process to begin."""
        await self._send("go")

    async def stop(self) -> None:
        """Close the pipe, which ends the process."""
        self.stopping = True
        await self._stdin.aclose()

    async def _send(self, line: str) -> None:
        # a broken pipe means that the process has died, which `run` reports
        with suppress(trio.BrokenResourceError):
            await self._stdin.send_all(line.encode() + b"\n")

    async def _receive(self, process: trio.Process) -> None:
        async for line in lines_of(process.stdout):
            if line.endswith(b"\n"):
                self._note(**json.loads(line))

    def _note(self, event: str, **values: Any) -> None:
        if event == "ready":
            self.ready = True
        elif event == "advertise":
            self.advertised.append(values)
        elif event == "counts":
            self.tried = values["tried"]
            self.holding = values["holding"]
            self.refused = values["refused"]
        elif event == "connected":
            self.peer_id = values["peer_id"]
        elif event == "ping":
            self.pings_ms.append(values["ms"])
        elif event == "newcomer":
            self.came += 1
            if values["ms"] is not None:
                self.pings_ms.append(values["ms"])
        elif event == "unmeasured":
            self.unmeasured = values["why"]
        elif event == "lost":
            self.lost = values["why"]


async def read_errors(process: trio.Process, errors: deque[str]) -> None:
    async for line in lines_of(process.stderr):
        errors.append(line.decode(errors="replace").rstrip())


async def lines_of(pipe: trio.abc.ReceiveStream | None) -> AsyncIterator[bytes]:
    """Whole lines, however the chunks divide them. The last one may lack its newline."""
    assert pipe is not None
    rest = b""
    async for chunk in pipe:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


async def end(process: trio.Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with trio.move_on_after(END_TIMEOUT_S):
        await process.wait()
    process.kill()
    await process.wait()
