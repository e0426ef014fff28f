"""The uses of a node that are above some limits already."""

from __future__ import annotations

from collections.abc import Iterator

from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.node import NodeLimits
from rcmgr.report.node import Node
from rcmgr.report.usage import Usage, by_states

__all__ = ["usages_above"]

_MOST = 100


def usages_above(node: Node, limits: NodeLimits) -> list[Usage]:
    """The uses that are above these limits now, the largest share first, at most 100 a kind.

    limits: may be others than those of the node. Nothing changes. O(scopes and addresses).
    """
    found = [*by_states(node, limits.connections), *_scopes(node, limits), *_rest(node, limits)]
    above = [usage for usage in found if usage.used > usage.limit]
    return sorted(above, key=lambda usage: (-usage.share, usage.of_one_peer, usage.name))


def _scopes(node: Node, limits: NodeLimits) -> Iterator[Usage]:
    for scope, field, used, limit in node.ledger._fullest_under(limits.scopes, _MOST):
        yield Usage(f"{scope} {field}", used, limit)


def _rest(node: Node, limits: NodeLimits) -> Iterator[Usage]:
    memory = MemoryConnectionLimits.of(limits.memory)
    most = memory.max_allowed_bytes
    if most is not None:
        memory.refresh_memory_stats_if_needed()
        yield Usage("process memory", memory.process_memory_bytes, most)
    gate = node.addresses
    if gate is not None and gate.subnets is not None and limits.subnets is not None:
        for network, used, limit in gate.subnets.under(limits.subnets).fullest(_MOST):
            yield Usage(f"network {network} connections", used, limit)
