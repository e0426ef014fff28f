"""One line about each section and each key of a limits file.

A file that is written has these lines as comments, and docs/limits-file.md has them in its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["KEYS", "LIMITS", "RATE", "SECTIONS"]

SECTIONS: Final[Mapping[str, str]] = {
    "System": "the whole node",
    "Transient": "connections before their handshake ends, and streams without a protocol",
    "PeerDefault": "each peer without a section of its own",
    "Connections": "connections by state; peers on the allowlist do not count",
    "ProcessMemory": "memory of the whole process; above it, new connections are refused",
    "Subnets": "connections of one network at the same time",
    "Rates": "how often one network may connect",
    "PeerRates": "how often one peer may connect",
    "PenaltyBox": "when offenders are banned, and for how long",
    "Eviction": "how a full node makes room for newcomers",
    "Fleet": "limits on all nodes of a fleet together",
    "DryRun": "limits that report what they would refuse, and refuse nothing",
    "AllowlistedSystem": "the whole node, for peers on the allowlist",
    "AllowlistedTransient": "the same as Transient, for peers on the allowlist",
    "ServiceDefault": "each service without a section of its own",
    "ServicePeerDefault": "the share of one peer in such a service",
    "ProtocolDefault": "each protocol without a section of its own",
    "ProtocolPeerDefault": "the share of one peer in such a protocol",
    "Conn": "one connection",
    "Stream": "one stream",
    "Service": "a service, by its name",
    "ServicePeer": "the share of one peer in a service",
    "Protocol": "a protocol, by its name",
    "ProtocolPeer": "the share of one peer in a protocol",
    "Peer": "a peer, by its id",
}
"""The sections, in the order in which TOML is written."""

LIMITS: Final[Mapping[str, str]] = {
    "Streams": "streams, both directions together",
    "StreamsInbound": "streams that peers opened",
    "StreamsOutbound": "streams that the node opened",
    "Conns": "connections, both directions together",
    "ConnsInbound": "connections that peers opened",
    "ConnsOutbound": "connections that the node opened",
    "FD": "file descriptors",
    "Memory": 'bytes that may be reserved, or a size such as "2GiB"',
}
"""The keys of go-libp2p's sections, which are those of scopes."""

RATE: Final[Mapping[str, str]] = {
    "refill_rate": "connections a second in the long run, above 0",
    "burst": "connections at once, 1 or more",
}
"""The keys of a rate."""

_TABLE: Final = "most buckets of a table, 1 to 4294967296"
_ON_FULL: Final = 'a full table: "evict_fullest" forgets a bucket, "deny_new" refuses'

KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "Connections": {
        "max_pending_inbound": "handshakes that peers began",
        "max_pending_outbound": "handshakes that the node began",
        "max_established_inbound": "connections that peers opened",
        "max_established_outbound": "connections that the node opened",
        "max_established_per_peer": "connections of one peer, both directions together",
        "max_established_total": "connections of all peers, both directions together",
    },
    "ProcessMemory": {
        "max_bytes": 'bytes, or a size such as "2GiB"',
        "max_percentage": "part of the memory of the machine or container, 0.9 is 90 %",
        "deny_new_peers_above": "part of the limit; above it, only connected peers may connect",
        "hysteresis": "part of the limit by which use must fall after a refusal",
        "max_pressure": "percent of time that tasks wait for memory; above it, no new peers",
        "measure": 'what counts: "rss", or "anonymous" (without pages of mapped files)',
    },
    "Subnets": {
        "ipv4": "connections of each IPv4 network, by prefix length",
        "ipv6": "connections of each IPv6 network, by prefix length",
        "overrides": "connections of single networks; the longest match decides",
    },
    "Rates": {
        "ipv4": "rate of each IPv4 network, by prefix length",
        "ipv6": "rate of each IPv6 network, by prefix length",
        "overrides": "rates of single networks; all matches must admit",
        "overall": "rate of all networks together that have no override",
        "max_networks": _TABLE,
        "on_full": _ON_FULL,
    },
    "PeerRates": {
        "rate": "rate of each peer",
        "max_peers": _TABLE,
        "on_full": _ON_FULL,
    },
    "PenaltyBox": {
        "threshold": "points at which an offender is banned, 1 to 1000000",
        "address_decay": "points that an address loses per second",
        "peer_decay": "points that a peer loses per second",
        "address_seconds": "seconds of the first ban of an address",
        "address_most_seconds": "seconds of the longest ban of an address",
        "peer_seconds": "seconds of the first ban of a peer",
        "peer_most_seconds": "seconds of the longest ban of a peer",
        "forget_seconds": "seconds after a ban until the next one is a first one again",
        "ipv4_prefix": "leading bits that make IPv4 addresses one offender",
        "ipv6_prefix": "leading bits that make IPv6 addresses one offender",
        "exempt": "networks that never pay",
        "max_offenders": _TABLE,
    },
    "Eviction": {
        "enabled": 'make room for newcomers; "off" in place of the section: refuse them',
        "ipv4_prefix": "leading bits of an IPv4 address that name its network group",
        "ipv6_prefix": "leading bits of an IPv6 address that name its network group",
        "grace_s": "seconds for which a new connection is left alone",
        "turn_s": "seconds after which one connection of a group is forgotten",
        "share_per_second": "evictions in a second, as a part of the places; 16 are always allowed",
        "share_leaving": "evicted connections that may be closing, as a part of the places",
        "close_s": "seconds after which the close of an evicted connection is cut short",
        "pending_grace_s": "seconds for which a silent handshake is left alone",
        "pending_patience_s": "seconds for which a handshake that made progress is left alone",
        "waiting_s": "seconds for which a connection may wait for a pending place; 0: none",
    },
    "Fleet": {
        "rate": "rate of new connections of the fleet",
        "peer_rate": "rate of each peer",
        "network_rate": "rate of each network",
        "protocols": "rates of requests by protocol, of all peers together",
        "protocol_peers": "rates of requests by protocol, of each peer",
        "Peer": "`Conns` and `Streams` of each peer",
        "Network": "`Conns` of each network",
        "ipv4_prefix": "leading bits of an IPv4 address that name its network",
        "ipv6_prefix": "leading bits of an IPv6 address that name its network",
        "exempt": "networks to which `Network` and `network_rate` do not apply",
        "on_loss": 'without the engine: "local" applies the share of the node, "refuse" refuses',
        "nodes_at_start": "nodes to assume until the engine has answered",
        "most_keys": "most peers, and most networks, of a table, 1 to 10000000",
    },
    "DryRun": {
        "limits": 'codes of limits, or how codes begin: "rate", "stream.peer", "all"',
    },
}
"""The keys of our sections."""
