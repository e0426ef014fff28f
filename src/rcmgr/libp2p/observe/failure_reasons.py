"""Name the reason why a connection failed, from py-libp2p's error."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

__all__ = ["chain_of", "why_failed"]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes, and the members of error groups."""
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
_WRONG_PEER = {"PeerIDMismatchesPubkey", "PeerMismatchException"}


def why_failed(error: BaseException, otherwise: str) -> str:
    """The reason, as in `DialFailedEvent`. Unknown errors get the reason `otherwise`.

    Types of errors decide where they can: the remote peer may choose parts of the texts.
    """
    found = list(chain_of(error))
    names = {type(each).__name__ for each in found}
    if type(error).__name__ == "Cancelled":
        return "cancelled"
    if "Maximum connections limit reached" in str(error):
        return "refused by the swarm"
    if any(isinstance(each, ConnectionRefusedError) for each in found):
        return "refused"
    if names & _WRONG_PEER or any("Peer ID mismatch" in str(each) for each in found):
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
