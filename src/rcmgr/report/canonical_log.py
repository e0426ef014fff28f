"""Log lines about strangers in the fixed form of go-libp2p's canonical log, for fail2ban.

The logger is "canonical-log". docs/bans.md has a filter for fail2ban, and one for nftables sets.
Source: go-libp2p, p2p/canonicallog, in the printf form that libp2p's own fail2ban filter reads.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Final

from rcmgr.gates.addresses import endpoint_of
from rcmgr.gates.penalties import Offence
from rcmgr.peers import peer_key, peer_text

__all__ = ["CanonicalLog"]

logger = logging.getLogger("canonical-log")

_SAMPLE_RATE: Final = 100
_MOST_CHARACTERS: Final = 200


class CanonicalLog:
    """Writes a line for each ban by the penalty box, and for one in 100 refused connections.

    Strangers choose peers and addresses: text is cut at 200 characters and escaped as Go's %q does.
    """

    def __init__(self) -> None:
        self._seen = 0

    def banned(self, peer: Hashable | None, address: str | None, offence: Offence) -> None:
        """WARNING, once for each ban."""
        logger.warning(
            "CANONICAL_MISBEHAVING_PEER: peer=%s addr=%s component=%s err=%s msg=%s",
            _peer(peer), _multiaddr(address), "rcmgr", _quoted(offence.text), _quoted("banned"))

    def offended(self, peer: Hashable | None, address: str | None, offence: Offence) -> None:
        """INFO, for one in 100 offences of strangers whose address is known."""
        self._seen += 1
        if self._seen % _SAMPLE_RATE or address is None or not logger.isEnabledFor(logging.INFO):
            return
        what = "handshake_failure" if offence is Offence.HANDSHAKE else "connection_status"
        status = "failed" if offence is Offence.HANDSHAKE else "denied"
        logger.info(
            "CANONICAL_PEER_STATUS: peer=%s addr=%s sample_rate=%d %s=%s dir=%s err=%s",
            _peer(peer), _multiaddr(address), _SAMPLE_RATE, what, _quoted(status),
            _quoted("inbound"), _quoted(offence.text))


def _peer(peer: Hashable | None) -> str:
    return "" if peer is None else _bare(peer_text(peer_key(peer)))


def _multiaddr(address: str | None) -> str:
    """The address as a multiaddr; an IP address becomes one."""
    if address is None:
        return ""
    if not address.startswith("/") and endpoint_of(address).ip is not None:
        return _bare(f"/ip{6 if ':' in address else 4}/{address}")
    return _bare(address)


def _bare(text: str) -> str:
    """Text without quotes: spaces and line ends must not look like another field or line."""
    return "".join(
        each if each.isprintable() and each not in ' "=' else "?"
        for each in text[:_MOST_CHARACTERS])


_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
    "\t": "\\t", "\v": "\\v",
}


def _quoted(text: str) -> str:
    """Text as Go's %q writes it."""
    return '"' + "".join(
        _ESCAPES.get(each) or (each if each.isprintable() else _escaped(ord(each)))
        for each in text[:_MOST_CHARACTERS]) + '"'


def _escaped(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
