"""The reasons of closed connections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from rcmgr.libp2p.hooks import place_all
from rcmgr.libp2p.observe.close_reasons import note_resets, note_terminations, why_closed


class Stream:
    """A trio stream whose next calls return or raise the given values."""

    socket = "a socket"

    def __init__(self, received: Any = b"", sent: Any = None) -> None:
        self.received, self.sent = received, sent

    async def receive_some(self, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return self._result(self.received)

    async def send_all(self, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return self._result(self.sent)

    @staticmethod
    def _result(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value


def broken(cause: Exception) -> Exception:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


async def test_a_reset_is_noted_when_reading_raises_it() -> None:
    stream, notes = Stream(broken(ConnectionResetError())), list[str]()
    place_all(note_resets(SimpleNamespace(stream=stream), notes.append))
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert notes == ["reset"]


async def test_a_reset_that_a_writer_gets_is_noted_after_the_buffered_data() -> None:
    stream, notes = Stream(b"data", broken(BrokenPipeError())), list[str]()
    place_all(note_resets(SimpleNamespace(stream=stream), notes.append))
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all()
    assert await stream.receive_some() == b"data"
    assert notes == []
    stream.received = b""
    assert await stream.receive_some() == b""
    assert notes == ["reset"]


async def test_other_errors_and_an_orderly_end_are_no_reset() -> None:
    stream, notes = Stream(b""), list[str]()
    undo = place_all(note_resets(SimpleNamespace(stream=stream), notes.append))
    assert await stream.receive_some() == b""
    stream.received = stream.sent = trio.ClosedResourceError()
    for call in (stream.receive_some, stream.send_all):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    assert notes == []
    undo()
    assert set(vars(stream)) == {"received", "sent"}


def test_a_connection_without_a_socket_has_no_hook() -> None:
    assert list(note_resets(SimpleNamespace(), print)) == []
    assert list(note_terminations(SimpleNamespace(), print)) == []


@pytest.mark.parametrize(("phrase", "code", "noted"), [
    ("Idle timeout", 0, ["timed out"]), ("out of order", 7, ["reset"]), ("", 0, [])])
async def test_how_a_quic_connection_ends(phrase: str, code: int, noted: list[str]) -> None:
    async def terminated(event: Any) -> None:
        await trio.lowlevel.checkpoint()

    connection, notes = SimpleNamespace(_handle_connection_terminated=terminated), list[str]()
    place_all(note_terminations(connection, notes.append))
    await connection._handle_connection_terminated(
        SimpleNamespace(reason_phrase=phrase, error_code=code))
    assert notes == noted


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_muxer_that_ended_by_itself_was_closed_by_the_peer(has_ended: bool) -> None:
    shutting_down = trio.Event()
    if has_ended:
        shutting_down.set()
    expected = "closed by peer" if has_ended else "closed by us"
    yamux = SimpleNamespace(event_shutting_down=shutting_down, is_closed=not has_ended)
    quic = SimpleNamespace(is_closed=has_ended)
    assert why_closed(yamux) == why_closed(quic) == expected
