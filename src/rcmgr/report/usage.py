"""How full each limit of a node is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from rcmgr.limits.states import ConnectionLimits
from rcmgr.report.node import Node

__all__ = ["Usage", "by_states", "usages"]

_MOST_PEERS = 10
_FIELDS = 8


class Usage(NamedTuple):
    """How much of one limit is in use: bytes for memory, a count for everything else.

    peak: the most since the start; None: not counted.
    """

    name: str
    used: int
    limit: int
    peak: int | None = None

    @property
    def share(self) -> float:
        """The used part of the limit, 1 is full. A limit of 0 is full."""
        return self.used / self.limit if self.limit else 1.0

    @property
    def of_one_peer(self) -> bool:
        """Whether this limits one peer or one network, and not the whole node."""
        name = self.name
        return name.startswith(("peer:", "network ")) or (
            ".peer:" in name or name == "established_per_peer")


def usages(node: Node) -> list[Usage]:
    """All limits by state and of the process, and the fullest scopes and networks.

    The fullest comes first. If two are equally full, a limit on the whole node comes before a limit
    on one peer. O(scopes and networks).
    """
    found = [
        *by_states(node, node.connection_limits), *_by_scope(node), *_of_process(node),
        *_by_network(node)]
    return sorted(found, key=lambda usage: (-usage.share, usage.of_one_peer, usage.name))


def by_states(node: Node, limits: ConnectionLimits) -> Iterator[Usage]:
    """The connections by state, and these limits on them."""
    tracker = node.connection_tracker
    seen = tracker.snapshot()
    for name, limit in limits.to_dict().items():
        kind = name.removeprefix("max_")
        if limit is None:
            continue
        if kind == "established_per_peer":
            used = tracker._most_of_one_peer()
        else:
            used = getattr(seen, kind)
        yield Usage(kind, used, limit, getattr(seen, f"peak_{kind}"))


def _by_scope(node: Node) -> Iterator[Usage]:
    ledger = node.ledger
    peaks = {"system": ledger.peak, "transient": ledger.transient_peak}
    for scope, field, used, limit in ledger.fullest(peers=False):
        yield Usage(f"{scope} {field}", used, limit, peaks.get(scope, {}).get(field))
    # asked for separately: full peers would crowd the node's own scopes out of the list
    of_peers: dict[str, list[Usage]] = {}
    for scope, field, used, limit in ledger.fullest(_MOST_PEERS * _FIELDS):
        usage = Usage(f"{scope} {field}", used, limit)
        if usage.of_one_peer:
            of_peers.setdefault(scope, []).append(usage)
    for fullest in islice(of_peers.values(), _MOST_PEERS):
        # one row for each peer: a limit on both directions before an equally full one on one
        yield max(fullest, key=lambda usage: (usage.share, not usage.name.endswith("bound")))


def _of_process(node: Node) -> Iterator[Usage]:
    limits = node.memory_limits
    most = None if limits is None else limits.max_allowed_bytes
    if limits is not None and most is not None:
        limits.refresh_memory_stats_if_needed()
        yield Usage("process memory", limits.process_memory_bytes, most)


def _by_network(node: Node) -> Iterator[Usage]:
    gate = node.addresses
    if gate is not None and gate.subnets is not None:
        for network, used, limit in gate.subnets.fullest(_MOST_PEERS):
            yield Usage(f"network {network} connections", used, limit)
