"""Our limits on networks behind the names of `libp2p.rcmgr.cidr_limits` 0.8.1."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from rcmgr.gates.addresses import endpoint_of
from rcmgr.gates.networks import SubnetLimiter
from rcmgr.limits.networks import Network, SubnetLimits, prefix_of

__all__ = ["CIDRLimiter"]


class CIDRLimiter(SubnetLimiter):
    """Limits the connections from each network: `rcmgr.SubnetLimiter` with py-libp2p's methods.

    rules: pairs of network and limit. Every rule that matches an address must admit it. An IPv4
        address mapped into IPv6 is that IPv4 address. The lower limit of two rules for one network
        applies. A limit below 0 is 0. ValueError: one of them is not a rule.

    A host name, or another text that is not an IP address, is admitted and not counted. A call
    makes one look-up for each prefix length in use, not for each rule. Thread safe.
    """

    def __init__(self, rules: Iterable[tuple[str, int]] | None = None) -> None:
        limits: dict[str, int] = {}
        for rule in rules or ():
            network, most = _parsed(rule)
            limits[network] = min(most, limits.get(network, most))
        super().__init__(SubnetLimits(ipv4=(), ipv6=(), overrides=limits))

    def _counted_as(self, ip: bytes) -> list[tuple[bytes, int | None, str]]:
        return [
            (b"%c%c!%b" % (len(ip), bits, prefix_of(ip, bits)), limit, text)
            for bits, (limit, text) in self._overrides.matching(ip)
        ]

    def allow(self, endpoint_ip: str | None) -> bool:
        """Whether `acquire` would admit this address now."""
        ip = _packed(endpoint_ip)
        return ip is None or self.full(ip) is None

    def acquire(self, endpoint_ip: str | None) -> bool:
        """Count a connection of this address. False: a network is full; nothing is counted."""
        ip = _packed(endpoint_ip)
        return ip is None or self.try_add(ip) is None

    def release(self, endpoint_ip: str | None) -> None:
        """Give a connection back. An address without connections changes nothing."""
        ip = _packed(endpoint_ip)
        if ip is not None:
            self.remove(ip)


def _packed(address: str | None) -> bytes | None:
    return None if address is None else endpoint_of(address).ip


def _parsed(rule: tuple[str, int]) -> tuple[str, int]:
    try:
        network, most = rule
        # this also takes netmasks; our Network does not
        plain = str(ipaddress.ip_network(network, strict=False))
        return str(Network.parse(plain)), max(0, int(most))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a rule of (network, limit): {rule!r}: {error}") from error
