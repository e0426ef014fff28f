"""Why connections of py-libp2p fail, and why they end: it says neither in one place."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Hook
from rcmgr.libp2p.observe.endpoints import socket_stream

__all__ = ["chain_of", "has_ended", "note_resets", "note_terminations", "why_failed"]

Note = Callable[[str], None]
Transfer = Callable[..., Awaitable[Any]]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what a group of errors holds."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


_HANDSHAKE = {"SecurityUpgradeFailure", "MuxerUpgradeFailure", "HandshakeFailure", "QUICDialError"}
_TIMED_OUT = {"TooSlowError", "QUICConnectionTimeoutError"}
_NEGOTIATION = {"MultiselectError", "MultiselectClientError"}
_NO_ANSWER = re.compile(r"timed out after \d|read timeout$")
_SOMEBODY_ELSE = {"PeerIDMismatchesPubkey", "PeerMismatchException"}


def why_failed(error: BaseException, otherwise: str) -> str:
    """py-libp2p has a dozen kinds of error for these, and tells some in the text only.

    By kind as far as it goes: parts of the texts are the other side's.
    """
    found = list(chain_of(error))
    names = {type(each).__name__ for each in found}
    if type(error).__name__ == "Cancelled":
        return "cancelled"
    if "Maximum connections limit reached" in str(error):
        return "refused by the swarm"
    if any(isinstance(each, ConnectionRefusedError) for each in found):
        return "refused"
    if names & _SOMEBODY_ELSE or any("Peer ID mismatch" in str(each) for each in found):
        return "wrong peer id"
    if names & _TIMED_OUT or any(_has_timed_out(each) for each in found):
        return "timed out"
    if names & _HANDSHAKE or any(isinstance(each, ssl.SSLError) for each in found):
        return "handshake failed"
    return otherwise


def _has_timed_out(error: BaseException) -> bool:
    if type(error).__name__ in _NEGOTIATION:
        return _NO_ANSWER.search(str(error)) is not None
    return isinstance(error, TimeoutError)


def has_ended(muxed_conn: Any) -> bool:
    """Whether a muxer is ending by itself, that is, for what came or did not come over the net."""
    ending = getattr(muxed_conn, "event_shutting_down", None)
    return bool(muxed_conn.is_closed if ending is None else ending.is_set())


def note_resets(raw_conn: Any, note: Note) -> list[Hook]:
    """trio: `SocketStream.receive_some` and `send_all`; what is above them hides what they raise.

    What was received before a reset is read first, and may say that the other side closed. So it
    is one when reading gets there. But the system tells it once, perhaps to whoever writes; then
    reading comes to an end.
    """
    stream = socket_stream(raw_conn)
    if stream is None:
        return []
    was_told_to_writer = False

    def receiving(original: Transfer) -> Transfer:
        async def receive_some(*args: Any) -> Any:
            try:
                data = await original(*args)
            except Exception as error:
                if _is_reset(error):
                    note("reset")
                raise
            if was_told_to_writer and not data:
                note("reset")
            return data

        return receive_some

    def sending(original: Transfer) -> Transfer:
        async def send_all(*args: Any) -> Any:
            nonlocal was_told_to_writer
            try:
                return await original(*args)
            except Exception as error:
                was_told_to_writer = was_told_to_writer or _is_reset(error)
                raise

        return send_all

    return [Hook(stream, "receive_some", receiving), Hook(stream, "send_all", sending)]


def _is_reset(error: BaseException) -> bool:
    return any(
        isinstance(each, ConnectionResetError | BrokenPipeError) for each in chain_of(error))


def note_terminations(muxed_conn: Any, note: Note) -> list[Hook]:
    """libp2p 0.8.1: transport/quic/connection.py line 1430, `_handle_connection_terminated`."""
    if not hasattr(muxed_conn, "_handle_connection_terminated"):
        return []

    def noting(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def terminated(event: Any) -> None:
            if event.reason_phrase == "Idle timeout":
                note("timed out")
            elif event.error_code:
                note("reset")
            await original(event)

        return terminated

    return [Hook(muxed_conn, "_handle_connection_terminated", noting)]
