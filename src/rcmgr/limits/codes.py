"""The codes of all limits, by which errors, logs and dry runs name them."""

from __future__ import annotations

from typing import Final

from rcmgr.errors import ConnectionLimitKind

__all__ = ["ALL", "OF_NO_SCOPE", "RESOURCES", "SCOPES", "scope_code"]

SCOPES: Final = (
    "system", "transient", "allowlisted_system", "allowlisted_transient", "service", "protocol",
    "peer", "service_peer", "protocol_peer", "conn", "stream",
)
"""The kinds of scopes, in the order of the ledger's."""
RESOURCES: Final = (
    "memory", "streams_inbound", "streams_outbound", "conns_inbound", "conns_outbound", "fd",
    "streams", "conns",
)
"""The fields of a scope's limit, in the order of the ledger's."""
_CATEGORIES: Final = {"memory": "memory", "streams": "stream"}


def scope_code(scope: str, resource: str) -> str:
    """The code of a scope's limit on a resource: "stream.peer.streams_inbound"."""
    category = _CATEGORIES.get(resource.partition("_")[0], "connection")
    return f"{category}.{scope}.{resource}"


OF_NO_SCOPE: Final = frozenset((
    *(f"connection.{kind.value}" for kind in ConnectionLimitKind),
    "connection.address", "connection.banned", "connection.evicted",
    "memory.process",
    *(f"fleet.{limit}" for limit in (
        "rate", "peer_rate", "network_rate", "protocols", "protocol_peers", "peer.connections",
        "peer.streams", "network.connections")),
    "rate.address", "rate.peer", "rate.protocol",
))
ALL: Final = OF_NO_SCOPE | {
    scope_code(scope, resource) for scope in SCOPES for resource in RESOURCES}
