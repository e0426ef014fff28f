"""The thread of a node that talks to the engine.

It asks when keys wait, and at least once a second. A call that fails means that the engine is lost:
the tables decide without it from that moment. The thread tries again, and says once that the engine
is lost, and once that it is back.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from rcmgr.errors import printable
from rcmgr.fleet.ban_mirror import BanMirror
from rcmgr.fleet.engine import Engine, EngineError
from rcmgr.fleet.exchange import LIFE_S, Answer, Question
from rcmgr.fleet.scripts import BEAT, EXCHANGE
from rcmgr.fleet.shares import Shares
from rcmgr.gates.bans import Bans

__all__ = ["Member", "Node"]

logger = logging.getLogger("rcmgr.fleet")

_BEAT_S: Final = 1.0
"""Seconds between two calls of an idle node."""
_PAUSE_S: Final = 0.05
"""Seconds between two calls of a busy node."""
_LISTEN_S: Final = 0.5
_FORGET_NODES_S: Final = 10.0
"""Fewer nodes are believed after this time, because the engine's clock may have jumped."""


class Node(Protocol):
    """The part of a `ResourceManager` that the fleet reads."""

    @property
    def _bans(self) -> Bans: ...
    def fleet_use(self) -> dict[str, Any]: ...


class Member:
    """This node in its fleet.

    engine, ears: two connections, for calls and for messages. prefix: all keys begin with it.
    name: the name of the node for people. place: the address of the engine for the log.
    """

    def __init__(
        self, engine: Engine, ears: Engine, prefix: str, name: str, place: str,
        *, now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._ears, self._prefix, self._place = engine, ears, prefix, place
        self._name, self._now = name, now
        self._id = f"{name}-{uuid.uuid4().hex[:12]}"
        self._node: weakref.ref[Node] | None = None
        self._bans = BanMirror(prefix, name, self._id, self.wake)
        self._awake = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._first_table = 0
        self._next_beat = 0.0
        self._next_call = 0.0
        self._lost_since: float | None = None
        self._believed = (1, 0.0)  # nodes, and until when fewer are not believed
        self.shares: Shares | None = None
        self.is_lost = True
        self.nodes_seen: int | None = None
        """Nodes that the engine saw last; None: it has not answered yet."""
        self.calls = 0
        self.losses = 0

    @property
    def nodes(self) -> int:
        return self._believed[0] if self.nodes_seen is None else self.nodes_seen

    def wake(self) -> None:
        """Keys wait for the engine. Any thread."""
        self._awake.set()

    def start(self, node: Node) -> None:
        self._node = weakref.ref(node)
        self._bans.watch(node._bans)
        for work, what in ((self._talk, "talks"), (self._listen, "listens")):
            thread = threading.Thread(target=work, name=f"rcmgr fleet {what}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Leave the fleet. It waits for a call that runs, at most for the timeout."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._awake.set()
        self._bans.unwatch()
        for thread in self._threads[:1]:  # the one that listens ends soon, and changes nothing
            if thread is not threading.current_thread():
                thread.join()
        if self.shares is not None:
            self.shares.lose()

    # -- the thread that asks ------------------------------------------------------------------

    def _talk(self) -> None:
        while not self._stopped.is_set():
            now = self._now()
            self._awake.wait(max(0.0, self._next_beat - now))
            self._awake.clear()
            if self._stopped.wait(max(0.0, self._next_call - self._now())):
                break
            if self._node is None or self._node() is None:
                break  # the manager is garbage
            self.call()
        self._leave()
        self._engine.close()

    def call(self) -> None:
        """Ask the engine once, and give the answers to the tables."""
        now = self._now()
        shares = self.shares
        try:
            if now >= self._next_beat:
                reply = self._run(BEAT, [
                    f"{self._prefix}{name}" for name in ("nodes", "use", "bans", "reasons")],
                    [self._id, round(LIFE_S * 1e6), self._use()])
                self._answered(Answer.of(reply), shares)
                self._next_beat = now + _BEAT_S
            if shares is not None and not self.is_lost:
                self._ask(shares)
            self._bans.send(self._engine)
        except EngineError as error:
            self._lose(error)
            return
        self._next_call = now + _PAUSE_S
        if self._bans.waiting or (shares is not None and shares.waiting):
            self._awake.set()

    def _ask(self, shares: Shares) -> None:
        """Tell the engine about the keys that wait, and lease tokens for them."""
        question = Question(shares.rates, shares.places, self._first_table)
        self._first_table += 1
        if not question:
            return
        try:
            reply = self._run(
                EXCHANGE, question.keys(self._prefix), question.arguments(self._id))
        except EngineError:
            question.abandon()
            raise
        question.settle(reply)

    def _run(self, script: str, keys: list[Any], arguments: list[Any]) -> Any:
        self.calls += 1
        return self._engine.run(script, keys, arguments)

    def _answered(self, answer: Answer, shares: Shares | None) -> None:
        if answer.is_new and shares is not None:
            shares.forget_told()
        self._count_nodes(answer.nodes)
        self._bans.compare(self._engine, answer.bans)
        if shares is None:
            return
        if self.is_lost:
            shares.set_nodes(self.nodes)
            shares.find_again()
            if self._lost_since is not None:
                logger.warning(
                    "fleet: the engine at %s answers again after %.1f s",
                    printable(self._place), self._now() - self._lost_since)
                self._lost_since = None
        self.is_lost = False

    def _count_nodes(self, nodes: int) -> None:
        most, until = self._believed
        now = self._now()
        if nodes >= most or now >= until:
            self._believed = (nodes, now + _FORGET_NODES_S)
            if nodes != self.nodes_seen and self.shares is not None:
                self.shares.set_nodes(nodes)
            self.nodes_seen = nodes

    def _lose(self, error: EngineError) -> None:
        shares = self.shares
        if shares is not None:
            shares.lose()
        if not self.is_lost or (self._lost_since is None and self.losses == 0):
            self.losses += 1
            self._lost_since = self._now()
            does = "refuses what the fleet limits" if (
                shares is not None and shares.limits.on_loss == "refuse") else (
                f"applies 1/{self.nodes} of the limits of the fleet")
            logger.warning(
                "fleet: the engine at %s is lost (%s); this node %s",
                printable(self._place), printable(str(error)), does)
        self.is_lost = True
        self._engine.close()
        self._next_beat = self._next_call = self._now() + _BEAT_S * random.uniform(0.5, 1.0)

    def _use(self) -> str:
        node = None if self._node is None else self._node()
        use = {} if node is None else node.fleet_use()
        return json.dumps({"node": self._name, "calls": self.calls, **use})

    def _leave(self) -> None:
        """Tell the engine that the node ends, so that its places are free at once."""
        if self.is_lost:
            return
        try:
            self._engine.call("zrem", f"{self._prefix}nodes", self._id)
            self._engine.call("hdel", f"{self._prefix}use", self._id)
        except EngineError as error:
            logger.debug("fleet: could not leave: %s", printable(str(error)))

    # -- the thread that listens ---------------------------------------------------------------

    def _listen(self) -> None:
        subscription = None
        while not self._stopped.is_set():
            if self._node is None or self._node() is None:
                break
            try:
                if subscription is None:
                    subscription = self._ears.listen(self._bans.channel)
                    self._bans.forget_read()  # messages may have been missed
                message = self._ears.next_message(subscription, _LISTEN_S)
                if message is not None:
                    self._bans.hear(message)
            except EngineError:
                # the other thread says so, and why
                subscription = None
                self._ears.close()
                self._stopped.wait(_BEAT_S * random.uniform(0.5, 1.0))
        self._ears.close()
