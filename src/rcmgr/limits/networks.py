"""Addresses, networks, and the limits on them.

The defaults are those of go-libp2p (conn_limiter.go, conn_rate_limiter.go).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rcmgr.limits.checks import check_count, check_limit, check_table
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.rates import Rate, check_rate
from rcmgr.limits.sections import ADDED_TO_DEFAULT

__all__ = ["AddressRates", "Network", "SubnetLimits", "packed_ip", "prefix_of", "unmapped"]

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"
_MAPPED_BITS = 96


def packed_ip(text: str) -> bytes | None:
    """An IP address as 4 or 16 bytes. None: the text is no IP address. About 0.3 us.

    An IPv4 address mapped into IPv6 becomes that IPv4 address. A zone ("%eth0") is ignored.
    """
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):  # ValueError: a NUL, or not ASCII
        return None
    return unmapped(packed)


def unmapped(ip: bytes) -> bytes:
    """An address of 4 or 16 bytes. An IPv4 address mapped into IPv6 becomes that IPv4 address."""
    return ip[12:] if ip.startswith(_MAPPED_IPV4) else ip


class Network(NamedTuple):
    """The addresses that begin with these bits."""

    prefix: bytes
    """As many bytes as the bits need. The bits after them are 0."""
    bits: int
    is_ipv4: bool

    @classmethod
    def parse(cls, text: str) -> Network:
        """From "10.0.0.0/8" or "::1" (a network of one). Bits after the prefix are ignored.

        ValueError: the text is no network. TypeError: it is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"a network must be text like '10.0.0.0/8', not {text!r}")
        address, slash, length = text.partition("/")
        ip = packed_ip(address)
        if ip is None:
            raise ValueError(f"not an IP address or network: {text!r}")
        bits = 8 * len(ip)
        mapped = _MAPPED_BITS if ":" in address and len(ip) == 4 else 0
        if slash:
            if not (length.isascii() and length.isdigit()) or int(length) > bits + mapped:
                raise ValueError(f"not a prefix length of 0 to {bits + mapped}: {text!r}")
            if int(length) < mapped:
                raise ValueError(f"wider than all mapped IPv4 addresses: {text!r}")
            bits = int(length) - mapped
        return cls.of(ip, bits)

    @classmethod
    def of(cls, ip: bytes, bits: int) -> Network:
        """The network of this size that contains an address of 4 or 16 bytes."""
        return cls(prefix_of(ip, bits), bits, len(ip) == 4)

    def __str__(self) -> str:
        size = 4 if self.is_ipv4 else 16
        padded = self.prefix.ljust(size, b"\0")
        return f"{inet_ntop(AF_INET if self.is_ipv4 else AF_INET6, padded)}/{self.bits}"


def prefix_of(ip: bytes, bits: int) -> bytes:
    rest = bits & 7
    if rest == 0:
        return ip[: bits >> 3]
    whole = bits >> 3
    return ip[:whole] + bytes([ip[whole] & (0xFF00 >> rest & 0xFF)])


def _overrides() -> Any:
    """A field of networks. By default loopback has no limit, also in a file with other networks."""
    return field(
        default_factory=lambda: dict.fromkeys(LOOPBACK, None),
        metadata={ADDED_TO_DEFAULT: Network.parse})


@suggests_arguments
@dataclass(frozen=True)
class SubnetLimits:
    """How many connections one network may have at once.

    ipv4, ipv6: (prefix length, limit) for every network of that length. All of them must admit.
    overrides: limits of single networks. Only the longest match applies. None: no limit. The
        default exempts loopback. A file adds to it, and other values replace it.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    ipv4: tuple[tuple[int, int | None], ...] = ((32, 8),)
    ipv6: tuple[tuple[int, int | None], ...] = ((56, 8), (48, 64))
    overrides: Mapping[str, int | None] = _overrides()

    def __post_init__(self) -> None:
        for family in ("ipv4", "ipv6"):
            pairs = _by_length(family, getattr(self, family))
            for bits, limit in pairs:
                check_limit(f"{family}[/{bits}]", limit)
            object.__setattr__(self, family, pairs)
        _freeze(self, "overrides", check_limit)


@suggests_arguments
@dataclass(frozen=True)
class AddressRates:
    """How often one network may connect.

    ipv4, ipv6: (prefix length, rate) for every network of that length. All of them must admit.
    overrides: rates of single networks, which replace the rates above and `overall`. All matches
        must admit. None: no limit. The default exempts loopback, as in `SubnetLimits`.
    overall: one rate for all networks without an override; None: no limit.
    max_networks, on_full: the size of the table of each prefix length; see `BucketTable`.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    ipv4: tuple[tuple[int, Rate], ...] = ((32, Rate(0.2, 16)),)
    ipv6: tuple[tuple[int, Rate], ...] = ((56, Rate(0.2, 16)), (48, Rate(0.5, 80)))
    overrides: Mapping[str, Rate | None] = _overrides()
    overall: Rate | None = None
    max_networks: int = 100_000
    on_full: str = "evict_fullest"

    @classmethod
    def for_streams(cls, rate: Rate) -> AddressRates:
        """The same rate for each IPv4 /24 and IPv6 /56, for the streams of a protocol.

        One owner often has a whole network of this size, and as many peer ids as it wants. The
        lengths are those of go-libp2p's limiter for identify. Loopback has no limit.
        """
        return cls(ipv4=((24, rate),), ipv6=((56, rate),))

    def __post_init__(self) -> None:
        for family in ("ipv4", "ipv6"):
            pairs = _by_length(family, getattr(self, family))
            for bits, rate in pairs:
                if not isinstance(rate, Rate):
                    raise TypeError(f"{family}[/{bits}] must be a Rate, not {rate!r}")
            object.__setattr__(self, family, pairs)
        _freeze(self, "overrides", check_rate)
        check_rate("overall", self.overall)
        check_table("max_networks", self.max_networks, self.on_full)


def _by_length(family: str, pairs: Any) -> tuple[tuple[int, Any], ...]:
    most = 32 if family == "ipv4" else 128
    found = {}
    for pair in pairs:
        try:
            bits, value = pair
        except (TypeError, ValueError):
            raise TypeError(
                f"{family} must be pairs of prefix length and limit, not {pair!r}"
            ) from None
        check_count(f"{family}: a prefix length", bits, 0, most)
        if bits in found:
            raise ValueError(f"{family}: /{bits} is there twice")
        found[bits] = value
    return tuple(sorted(found.items(), key=lambda each: -each[0]))


def _freeze(owner: Any, name: str, check: Callable[[str, object], None]) -> None:
    values = dict(getattr(owner, name))
    named: dict[Network, str] = {}
    for network, value in values.items():
        first = named.setdefault(Network.parse(network), network)
        if first != network:
            raise ValueError(f"{name}: {first!r} and {network!r} are one network")
        check(f"{name}[{network!r}]", value)
    object.__setattr__(owner, name, MappingProxyType(values))
