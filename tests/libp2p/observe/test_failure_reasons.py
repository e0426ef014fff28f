"""The reasons of failed connections, from py-libp2p's errors."""

from __future__ import annotations

import ssl

import pytest
import trio
from libp2p.network.exceptions import SwarmException
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.transport.exceptions import SecurityUpgradeFailure

from rcmgr.libp2p.observe.failure_reasons import chain_of, why_failed


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_a_chain_has_causes_contexts_and_members_of_groups_once() -> None:
    first, second, member = KeyError("first"), KeyError("second"), KeyError("member")
    first.__cause__, first.__context__ = second, second
    second.__context__ = first
    second.exceptions = (member,)  # type: ignore[attr-defined]  # as a group, also on 3.10
    assert sorted(map(str, chain_of(first))) == sorted(map(str, (first, second, member)))


@pytest.mark.parametrize(("error", "reason"), [
    (ConnectionRefusedError(), "refused"),
    (caused(SwarmException("no dial"), ConnectionRefusedError()), "refused"),
    (TimeoutError(), "timed out"),
    (trio.TooSlowError(), "timed out"),
    (MultiselectClientError("response timed out after 5s"), "timed out"),
    (MultiselectClientError("handshake read timeout"), "timed out"),
    (MultiselectClientError("the other side says: timed out"), "otherwise"),
    (caused(SwarmException(), ValueError("Peer ID mismatch")), "wrong peer id"),
    (SecurityUpgradeFailure(), "handshake failed"),
    (caused(SwarmException(), HandshakeFailure()), "handshake failed"),
    (ssl.SSLError(), "handshake failed"),
    (SwarmException("Maximum connections limit reached"), "refused by the swarm"),
    (KeyError("something else"), "otherwise"),
], ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_the_reason_of_an_error(error: Exception, reason: str) -> None:
    assert why_failed(error, "otherwise") == reason


async def test_a_cancelled_dial() -> None:
    reasons = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            reasons.append(why_failed(error, "otherwise"))
            raise
    assert reasons == ["cancelled"]
