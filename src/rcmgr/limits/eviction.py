"""Settings of the room that a full node makes for newcomers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rcmgr.limits.checks import check_count, check_number
from rcmgr.limits.names import suggests_arguments

__all__ = ["Eviction"]

_YEAR_S: Final = 31_557_600


@suggests_arguments
@dataclass(frozen=True, slots=True)
class Eviction:
    """How a full node ends the connection that is worth least, so that a newcomer gets its place.

    It applies to inbound connections. A node never evicts connections that it dialled, and peers
    and addresses on the allowlist. It never evicts peers that py-libp2p's `TagStore` protects or
    values above 0. Until 7/8 of a limit are in use, no setting has an effect.

    enabled: False: a full node refuses newcomers. In a file, "off" in place of the section.
    ipv4_prefix, ipv6_prefix: bits of an address that name its network group, 1 to 32 and 1 to 128.
    grace_s: seconds for which a new connection is left alone. A third of it if the newcomer's group
        came less often lately. None of it if the connection's group came six times lately and the
        newcomer is of another group.
    turn_s: seconds after which one connection of a group is forgotten. A group that came often
        lately gives way to one that came less often.
    share_per_second: evictions in a second, as a share of the places. At least 16 are allowed.
    share_leaving: evicted connections whose close may run at once, as a share of the places. At
        least 4 are allowed.
    close_s: seconds after which the close of an evicted connection is cut short.
    pending_grace_s, pending_patience_s: seconds for which a silent handshake, and one that made
        progress, is left alone.
    waiting_s: seconds for which an accepted connection may wait for a pending place. 0: none waits.

    WORDS: values of the fields by the word that a file may have in place of the section.

    Times are above 0 and at most a year, and shares above 0 and at most 1.
    TypeError, ValueError: a field has a wrong value; the message names it.
    """

    WORDS: ClassVar[dict[str, dict[str, Any]]] = {
        "on": {"enabled": True}, "off": {"enabled": False}}

    enabled: bool = True
    ipv4_prefix: int = 16
    ipv6_prefix: int = 32
    grace_s: float = 1.0
    turn_s: float = 20.0
    share_per_second: float = 0.5
    share_leaving: float = 0.125
    close_s: float = 2.0
    pending_grace_s: float = 0.25
    pending_patience_s: float = 2.0
    waiting_s: float = 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise TypeError(f"enabled must be True or False, not {self.enabled!r}")
        check_count("ipv4_prefix", self.ipv4_prefix, 1, 32)
        check_count("ipv6_prefix", self.ipv6_prefix, 1, 128)
        for name in ("grace_s", "turn_s", "close_s", "pending_grace_s", "pending_patience_s"):
            check_number(name, getattr(self, name), 1e-3, _YEAR_S)
        for name in ("share_per_second", "share_leaving"):
            check_number(name, getattr(self, name), 1e-3, 1)
        check_number("waiting_s", self.waiting_s, 0, _YEAR_S)
