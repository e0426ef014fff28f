"""The demo's visitors as processes: started, heard, and gone whatever happens to us.

A visitor lives as long as its standard input is open. Nobody but us holds the other end, so it ends
when we close it, when we crash, and when we are killed with SIGKILL.
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

ENDS_WITHIN = 2.0
"""Seconds that a visitor gets to end by itself before it is killed."""


# Ctrl-C at the terminal is for the demo alone
OWN_SESSION: dict[str, Any]
if sys.platform == "win32":
    OWN_SESSION = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    OWN_SESSION = {"start_new_session": True}


@dataclass(frozen=True)
class Target:
    """Where the host is."""

    host: str
    port: int
    peer_id: str


@dataclass
class Visitor:
    """One process, and what it has said so far."""

    role: str
    ready: bool = False
    leaving: bool = False
    died: str | None = None
    """Why it is gone although nobody asked it to go."""
    tried: int = 0
    holding: int = 0
    refused: int = 0
    peer_id: str | None = None
    lost: str | None = None
    pings_ms: list[float] = field(default_factory=list)
    advertised: list[dict[str, Any]] = field(default_factory=list)
    _stdin: trio.abc.SendStream = field(init=False, repr=False)

    async def visit(
        self, target: Target, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the process until `leave`, or until it ends by itself."""
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
            last_words: deque[str] = deque(maxlen=12)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear_errors, process, last_words)
                await self._say(json.dumps(asdict(target)))
                await self._hear(process)
            if not self.leaving:
                status = await process.wait()
                self.died = "\n".join([f"exit status {status}", *last_words])
        finally:
            with trio.CancelScope(shield=True):
                await end(process)
            self.holding = 0

    async def go(self) -> None:
        await self._say("go")

    async def leave(self) -> None:
        self.leaving = True
        await self._stdin.aclose()

    async def _say(self, line: str) -> None:
        # broken: it has died; `visit` sees that, and why
        with suppress(trio.BrokenResourceError):
            await self._stdin.send_all(line.encode() + b"\n")

    async def _hear(self, process: trio.Process) -> None:
        async for line in lines_of(process.stdout):
            if line.endswith(b"\n"):
                self._note(**json.loads(line))

    def _note(self, event: str, **what: Any) -> None:
        if event == "ready":
            self.ready = True
        elif event == "advertise":
            self.advertised.append(what)
        elif event == "counts":
            self.tried, self.holding, self.refused = what["tried"], what["holding"], what["refused"]
        elif event == "connected":
            self.peer_id = what["peer_id"]
        elif event == "ping":
            self.pings_ms.append(what["ms"])
        elif event == "lost":
            self.lost = what["why"]


async def hear_errors(process: trio.Process, last_words: deque[str]) -> None:
    async for line in lines_of(process.stderr):
        last_words.append(line.decode(errors="replace").rstrip())


async def lines_of(pipe: trio.abc.ReceiveStream | None) -> AsyncIterator[bytes]:
    """Whole lines, however the chunks fall; one cut off at the end comes without its newline."""
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
    with trio.move_on_after(ENDS_WITHIN):
        await process.wait()
    process.kill()
    await process.wait()
