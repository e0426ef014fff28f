"""Accepted sockets that wait, unread, for the place of a handshake that ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcmgr.admission.eviction import PendingShares
from rcmgr.admission.room import Room
from rcmgr.libp2p.guard.pending_handshakes import peek
from rcmgr.limits.networks import packed_ip

__all__ = ["Accepted", "WaitingSockets"]

Accepted = tuple[Any, Any]
"""An AcceptedSocket or a socket of trio, and the address of its other side."""


class _Waiting:
    ticket: int

    def __init__(self, accepted: Accepted, until: float) -> None:
        self.accepted = accepted
        self.until = until
        self.has_spoken = False


class WaitingSockets:
    """The sockets of one listener that wait. A socket costs a descriptor, and no task.

    The first one is of the network group with the fewest waiting sockets. A socket that has
    sent bytes goes before a silent one. Then the oldest goes.

    room_of: returns the Room of the listener's manager. None: it makes no room.
    """

    MOST = 64
    LOOK_EVERY_S = 0.02

    def __init__(self, room_of: Callable[[], Room | None]) -> None:
        self._room_of = room_of
        self._shares = PendingShares()
        self._in_order: dict[int, _Waiting] = {}  # by ticket, the oldest first
        self._next_look = 0.0
        self.displaced: list[Accepted] = []
        """Sockets that cannot wait any more, until the listener decides about them."""

    def __len__(self) -> int:
        return len(self._shares)

    def add(self, socket: Any, address: Any) -> Accepted | None:
        """Let a socket wait. The result is one that cannot wait any more, perhaps this one."""
        import trio

        room = self._room_of()
        if room is None:
            return socket, address
        ip = str(address[0])
        group = room.group(ip)
        out: _Waiting | None = None
        if len(self) >= self.MOST:
            out = self._shares.choose(group)
            if out is None:
                return socket, address
            self._remove(out)
        new = _Waiting((socket, address), trio.current_time() + room.settings.waiting_s)
        new.ticket = self._shares.add(new, packed_ip(ip), group)
        self._in_order[new.ticket] = new
        return None if out is None else out.accepted

    def look_again(self) -> int:
        """`look`, unless it was called in the last 20 ms: it asks the system about each socket."""
        import trio

        now = trio.current_time()
        if now < self._next_look:
            return 0
        self._next_look = now + self.LOOK_EVERY_S
        return self.look()

    def look(self) -> int:
        """Drop the sockets that hung up, and note those that have sent bytes.

        Returns how many it dropped.
        """
        dropped = 0
        for each in list(self._in_order.values()):
            first_byte = peek(each.accepted[0])
            if first_byte == b"":
                self._remove(each)
                each.accepted[0].close()
                dropped += 1
            elif first_byte is not None and not each.has_spoken:
                each.has_spoken = True
                self._shares.advance(each.ticket)
        return dropped

    def overdue(self) -> Accepted | None:
        """Remove a socket that has waited too long. None: there is no such socket."""
        import trio

        oldest = next(iter(self._in_order.values()), None)
        if oldest is None or oldest.until > trio.current_time():
            return None
        self._remove(oldest)
        return oldest.accepted

    @property
    def first(self) -> Accepted | None:
        """The socket to serve first. None: no socket waits."""
        found: _Waiting | None = self._shares.next()
        return None if found is None else found.accepted

    def remove_first(self) -> None:
        self._remove(self._shares.next())

    def close(self) -> None:
        """Hang up on all of them."""
        for each in list(self._in_order.values()):
            self._remove(each)
            each.accepted[0].close()
        while self.displaced:
            self.displaced.pop()[0].close()

    def _remove(self, waiting: Any) -> None:
        self._shares.remove(waiting.ticket)
        del self._in_order[waiting.ticket]
