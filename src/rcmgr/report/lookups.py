"""Answers about parts of a node: the largest of a kind, one peer, one scope. Ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from heapq import nlargest
from typing import Any, Final

from rcmgr.counting.connection_tracker import ConnectionRecord
from rcmgr.counting.scope import ScopeView
from rcmgr.errors import shortened
from rcmgr.gates.addresses import endpoint_of
from rcmgr.limits.names import suggestion
from rcmgr.limits.networks import Network
from rcmgr.peers import peer_key, peer_text
from rcmgr.report.node import Node
from rcmgr.report.stats import all_denied
from rcmgr.report.usage import usages

__all__ = ["TOP", "peer_view", "scope_view", "top_rows"]

_MOST_CONNECTIONS = 100
_MOST_DENIALS = 20
_MOST_COUNTED = 1024
_IPV4_BITS, _IPV6_BITS = 24, 48


def top_rows(node: Node, by: str, most: int) -> list[dict[str, Any]]:
    """The `most` largest of a kind, the largest first. ValueError: an unknown kind.

    O(connections) for addresses and networks, O(scopes) for the others. A lock is held for some
    nanoseconds for each of them, and never while a row is made.
    """
    if by not in TOP:
        hint = suggestion(by, TOP)
        raise ValueError(
            f"by must be one of {', '.join(TOP)}, not {by!r}" + (f"; {hint}" if hint else ""))
    return TOP[by](node, most)


def _by_peer(node: Node, most: int) -> list[dict[str, Any]]:
    denied = dict(node.denials.most_denied(_MOST_COUNTED))
    return [
        {
            "peer": shortened(peer_text(peer)),
            "connections": held.conns_inbound + held.conns_outbound,
            "streams": held.streams_inbound + held.streams_outbound,
            "memory": held.memory,
            "denied": denied.get(peer, 0),
        }
        for peer, held in node.ledger.largest_peers(most)
    ]


def _by_address(node: Node, most: int) -> list[dict[str, Any]]:
    return _by_place(node, most, "address", _address_of)


def _by_network(node: Node, most: int) -> list[dict[str, Any]]:
    return _by_place(node, most, "network", _network_of)


def _by_place(
    node: Node, most: int, name: str, place_of: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    """Inbound connections and denials by the place of their addresses."""
    established: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    denied: Counter[str] = Counter()
    for record in node.connection_tracker.records():
        place = None if record.address is None else place_of(str(record.address))
        if place is not None:
            (pending if record.is_pending else established)[place] += 1
    for address, times in node.denials.most_denied_addresses(_MOST_COUNTED):
        place = place_of(address.partition("/64")[0])
        if place is not None:
            denied[place] += times
    places = nlargest(
        most, {*established, *pending, *denied},
        key=lambda each: (established[each] + pending[each], denied[each], each))
    return [
        {
            name: shortened(each), "connections": established[each], "handshakes": pending[each],
            "denied": denied[each],
        }
        for each in places
    ]


def _address_of(text: str) -> str | None:
    ip = endpoint_of(text).ip
    if ip is None:
        return None
    if len(ip) == 4:
        return str(Network.of(ip, 32)).partition("/")[0]
    return str(Network.of(ip, 64))  # as the log of denials counts


def _network_of(text: str) -> str | None:
    ip = endpoint_of(text).ip
    if ip is None:
        return None
    return str(Network.of(ip, _IPV4_BITS if len(ip) == 4 else _IPV6_BITS))


def _by_protocol(node: Node, most: int) -> list[dict[str, Any]]:
    snapshot = node.ledger.snapshot(peers=False)["protocols"]
    limiters = node.protocol_rate_limiters.copy()  # another thread may add one meanwhile
    rows = []
    for protocol in {*snapshot, *limiters}:
        held = snapshot.get(protocol, {})
        counts = limiters[protocol].counts() if protocol in limiters else {}
        rows.append({
            "protocol": shortened(protocol),
            "streams": held.get("streams_inbound", 0) + held.get("streams_outbound", 0),
            "memory": held.get("memory", 0),
            "requests": counts.get("allowed", 0),
            "denied": all_denied(counts),
        })
    return nlargest(
        most, rows, key=lambda row: (row["streams"], row["denied"], row["protocol"]))


def _by_limit(node: Node, most: int) -> list[dict[str, Any]]:
    return [
        {
            "limit": shortened(each.name), "used": each.used, "of": each.limit,
            "share": each.share, "peak": each.peak,
        }
        for each in usages(node)[:most]
    ]


TOP: Final[Mapping[str, Callable[[Node, int], list[dict[str, Any]]]]] = {
    "peer": _by_peer, "address": _by_address, "network": _by_network, "protocol": _by_protocol,
    "limit": _by_limit,
}


# -- one peer --------------------------------------------------------------------------------------


def peer_view(node: Node, text: str) -> dict[str, Any]:
    """Everything about one peer. ValueError: the text is no peer id. O(connections)."""
    peer = peer_key(text)
    if not isinstance(peer, bytes):
        raise ValueError(f"peer must be a peer id such as 12D3KooW..., not {shortened(text)!r}")
    mine = _connections_of(node, peer)
    return {
        "peer": peer_text(peer),
        "allowed": node.allowlist.allows(peer),
        "ban": next((ban.reason for ban in node.bans() if ban.what == peer_text(peer)), None),
        "connections": [_connection(node, record) for record in mine[:_MOST_CONNECTIONS]],
        "scope": _scope(node.ledger.peer(peer)),
        "protocols": _shares(node, peer),
        "denied": dict(node.denials.most_denied(_MOST_COUNTED)).get(peer, 0),
        "would_deny": dict(node.would_deny.most_denied(_MOST_COUNTED)).get(peer, 0),
        "latest_denials": _denials_of(node, peer),
    }


def _connections_of(node: Node, peer: Hashable) -> list[ConnectionRecord]:
    return [
        record for record in node.connection_tracker.records()
        if record.peer_id is not None and peer_key(record.peer_id) == peer]


def _connection(node: Node, record: ConnectionRecord) -> dict[str, Any]:
    seconds = (node.connection_tracker.now_ns - record.since_ns) / 1e9
    return {
        "id": shortened(record.connection_id), "state": record.state,
        "address": None if record.address is None else shortened(record.address),
        "seconds": max(0.0, seconds),
    }


def _shares(node: Node, peer: Hashable) -> list[dict[str, Any]]:
    """The peer's streams by protocol."""
    shares = []
    for protocol in node.ledger.protocols():
        with node.ledger.protocol_peer(protocol, peer) as view:
            held = view.stat()
        if any(held):
            shares.append({
                "protocol": shortened(protocol),
                "streams": held.streams_inbound + held.streams_outbound, "memory": held.memory})
    return shares


def _denials_of(node: Node, peer: Hashable) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "seconds_ago": each.seconds_ago, "code": each.error.code,
            "message": each.error.explanation,
        }
        for log in (node.denials, node.would_deny) for each in log.entries()
        if each.error.peer == peer_text(peer)
    ]
    return sorted(found, key=lambda each: -each["seconds_ago"])[-_MOST_DENIALS:]


# -- one scope -------------------------------------------------------------------------------------

_FIXED: Final = {
    "system": "system", "transient": "transient", "allowlistedSystem": "allowlisted_system",
    "allowlistedTransient": "allowlisted_transient",
}
_NAMED: Final = {  # kubo's short names too
    "peer": "peer", "protocol": "protocol", "proto": "protocol", "service": "service",
    "svc": "service",
}


def scope_view(node: Node, name: str) -> dict[str, Any]:
    """The use and the limits of a scope. ValueError: no such scope is in use.

    name: as in errors and in kubo's `swarm stats`: "system", "transient", "peer:ID",
        "protocol:/x/1.0.0" or "proto:/x/1.0.0", "service:x" or "svc:x",
        "protocol:/x/1.0.0.peer:ID".
    """
    if name in _FIXED:
        return _scope(getattr(node.ledger, _FIXED[name])())
    kind, colon, rest = name.partition(":")
    if not colon or kind not in _NAMED or not rest:
        hint = suggestion(name, _FIXED) or (
            f"known are {', '.join(_FIXED)}, peer:ID, protocol:NAME and service:NAME")
        raise ValueError(f"unknown scope {shortened(name)!r}; {hint}")
    of, ledger = _NAMED[kind], node.ledger
    rest, _, peer = rest.partition(".peer:")
    if of == "peer":
        found = _scope(ledger.peer(peer_key(rest)))
    elif rest not in getattr(ledger, f"{of}s")():  # a view would make a service that stays
        found = None
    elif peer:
        found = _scope(getattr(ledger, f"{of}_peer")(rest, peer_key(peer)))
    else:
        found = _scope(getattr(ledger, of)(rest))
    if found is None or not any(found["used"].values()):
        raise ValueError(f"nothing uses the scope {shortened(name)!r} now")
    return found


def _scope(view: ScopeView) -> dict[str, Any]:
    with view:
        held = view.stat()
        limits = view.limit
        name = view.name
    used = {
        **held._asdict(),
        "streams": held.streams_inbound + held.streams_outbound,
        "conns": held.conns_inbound + held.conns_outbound,
    }
    return {"scope": shortened(name), "used": used, "limits": limits}
