"""The limits and lists of a node in its record, which names peers and networks by hashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rcmgr.counting.event_ring import EventRing
from rcmgr.errors import printable
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.requests import ProtocolRateLimiter
from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.networks import AddressRates, Network
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.rates import RateLimits
from rcmgr.limits.scopes import ConcreteLimits, Limit

__all__ = [
    "ProtocolRates",
    "Settings",
    "SettingsError",
    "allowed",
    "document_of",
    "read_settings",
]


class SettingsError(ValueError):
    """Settings in a record make no sense. The message is one line."""


class Configured(Protocol):
    """The parts of a manager that decide about limits."""

    @property
    def node_limits(self) -> NodeLimits: ...
    @property
    def allowlist(self) -> Allowlist: ...
    @property
    def protocol_rate_limiters(self) -> Mapping[str, ProtocolRateLimiter]: ...
    def _adjusted(self, limits: ConcreteLimits) -> ConcreteLimits: ...


@dataclass(frozen=True, slots=True)
class ProtocolRates:
    """The arguments of `ResourceManager.add_protocol_rate_limiter`."""

    limits: RateLimits
    networks: AddressRates | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and lists that decide. A record has them at its begin, and after each change."""

    limits: NodeLimits = field(default_factory=NodeLimits)
    rates: dict[str, ProtocolRates] = field(default_factory=dict)
    peers: list[bytes] = field(default_factory=list)
    """The exempt peers, as the record names them."""
    networks: list[tuple[Network, list[bytes | None]]] = field(default_factory=list)
    """The networks with exempt peers. None: all peers of the network."""


def allowed(allowlist: Allowlist, ring: EventRing) -> dict[str, Any]:
    """The allowlist for a record."""
    return {
        "peers": [_peer(peer, ring) for peer in list(allowlist.allowed_peers)],
        "networks": [
            [
                _network(network, ring),
                [None if peer is None else _peer(peer, ring) for peer in peers],
            ]
            for network, peers in list(allowlist.networks.items())],
    }


def document_of(node: Configured, ring: EventRing) -> dict[str, Any]:
    """The settings of a node for a record."""
    limits = node.node_limits
    # a hardened host shares the limits between its peers
    limits = replace(limits, scopes=node._adjusted(limits.scopes))
    peers = limits.scopes.peer
    hidden = _with_networks(limits, lambda text: _network(Network.parse(text), ring))
    return {
        "limits": _text_of(replace(hidden, scopes=replace(limits.scopes, peer={}))),
        "peer_limits": [[_peer(peer, ring), limit.to_dict()] for peer, limit in peers.items()],
        "rates": {
            protocol: [
                limiter.limits.to_dict(),
                None if limiter.networks is None else _text_of(
                    _with_networks(
                        NodeLimits(rates=limiter.networks.rates),
                        lambda text: _network(Network.parse(text), ring))),
            ]
            for protocol, limiter in list(node.protocol_rate_limiters.items())},
        "allow": allowed(node.allowlist, ring),
    }


def read_settings(document: dict[str, Any]) -> Settings:
    """The settings of a document. SettingsError: it is not from `document_of`."""
    try:
        limits = _limits_of(document["limits"])
        peer: dict[Any, Any] = {
            bytes(name): Limit(**limit) for name, limit in document["peer_limits"]}
        rates = {
            str(protocol): ProtocolRates(
                RateLimits.from_dict(values),
                None if networks is None else _limits_of(networks).rates)
            for protocol, (values, networks) in document["rates"].items()}
        allow = document["allow"]
        networks = [
            (Network.parse(text), [None if name is None else bytes(name) for name in names])
            for text, names in allow["networks"]]
        return Settings(
            replace(limits, scopes=replace(limits.scopes, peer=peer)), rates,
            [bytes(name) for name in allow["peers"]], networks)
    except (
        AttributeError, KeyError, TypeError, ValueError, OverflowError, LimitsFileError,
        RecursionError,
    ) as error:
        reason = printable(str(error))[:200]
        raise SettingsError(f"settings that make no sense: {reason}") from None


def _text_of(limits: NodeLimits) -> str:
    return LimitsFile.of(limits).to_json()


def _limits_of(text: str) -> NodeLimits:
    json.loads(text)
    return LimitsFile.from_json(text.encode()).build(NodeLimits())


def _peer(peer: Hashable, ring: EventRing) -> Any:
    made = ring.hash_of_peer(peer)
    return made if isinstance(made, bytes) else str(made).encode(errors="backslashreplace")


def _network(network: Network, ring: EventRing) -> str:
    ip = ring.hash_of_ip(network.prefix.ljust(4 if network.is_ipv4 else 16, b"\0"))
    return str(Network.of(ip, network.bits))


def _with_networks(limits: NodeLimits, named: Callable[[str], str]) -> NodeLimits:
    """The limits, with other names of networks."""
    subnets, rates, penalties = limits.subnets, limits.rates, limits.penalties
    return replace(
        limits,
        subnets=subnets and replace(subnets, overrides=_renamed(subnets.overrides, named)),
        rates=rates and replace(rates, overrides=_renamed(rates.overrides, named)),
        penalties=penalties and replace(
            penalties, exempt=frozenset(map(named, penalties.exempt))),
    )


def _renamed(overrides: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    return {named(text): value for text, value in overrides.items()}
