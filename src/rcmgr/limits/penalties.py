"""When an offender is banned, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rcmgr.limits.checks import check_count, check_number
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.networks import LOOPBACK, Network

__all__ = ["PenaltyBox"]

_MOST_POINTS: Final = 1_000_000
_MOST_SECONDS: Final = 10 * 366 * 86_400.0


@suggests_arguments
@dataclass(frozen=True, slots=True)
class PenaltyBox:
    """Offences cost points, and points decay. Too many points are a ban for a time.

    docs/bans.md has the offences and their points. A ban of an address slows it to one handshake
    a second, because honest peers may share the address (carrier NAT). A ban of a peer shuts it
    out. The next ban of the same offender lasts twice as long.

    threshold: points at which an offender is banned, 1 to 1,000,000.
    address_decay, peer_decay: points that an offender loses per second, above 0.
    address_seconds, peer_seconds: how long the first ban lasts.
    address_most_seconds, peer_most_seconds: how long the longest ban lasts.
    forget_seconds: after this time without a ban, the next ban is a first one again.
    ipv4_prefix, ipv6_prefix: addresses with the same leading bits count as one offender.
    exempt: networks that are never charged.
    max_offenders: how many addresses, and how many peers, have points at once. A newcomer then
        replaces one with few points.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    threshold: int = 100
    address_decay: float = 1.0
    peer_decay: float = 0.5
    address_seconds: float = 10.0
    address_most_seconds: float = 600.0
    peer_seconds: float = 60.0
    peer_most_seconds: float = 86_400.0
    forget_seconds: float = 3_600.0
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    exempt: frozenset[str] = frozenset(LOOPBACK)
    max_offenders: int = 100_000

    def __post_init__(self) -> None:
        check_count("threshold", self.threshold, 1, _MOST_POINTS)
        for name in ("address_decay", "peer_decay"):
            check_number(name, getattr(self, name), 1e-3, _MOST_POINTS)
        check_number("forget_seconds", self.forget_seconds, 0, _MOST_SECONDS)
        for kind in ("address", "peer"):
            first, most = f"{kind}_seconds", f"{kind}_most_seconds"
            check_number(most, getattr(self, most), 1e-3, _MOST_SECONDS)
            check_number(first, getattr(self, first), 1e-3, getattr(self, most))
        check_count("ipv4_prefix", self.ipv4_prefix, 1, 32)
        check_count("ipv6_prefix", self.ipv6_prefix, 1, 128)
        if isinstance(self.exempt, str | bytes):
            raise TypeError(f"exempt must be a collection of networks, not {self.exempt!r}")
        for network in self.exempt:
            Network.parse(network)
        object.__setattr__(self, "exempt", frozenset(self.exempt))
        check_count("max_offenders", self.max_offenders, 1, 1 << 32)
