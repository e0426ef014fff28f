"""Why a node says no: what is at its limit, what was refused most, and which setting to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rcmgr.peers import peer_text
from rcmgr.texts import shown

if TYPE_CHECKING:
    from rcmgr.manager import ResourceManager

__all__ = ["Usage", "explain", "usages"]

_NEAR = 0.9
_MOST_PEERS = 10
_MOST_LINES = 5


class Usage(NamedTuple):
    """How much of one limit is in use. Bytes for memory, else a number of things.

    peak: the most there ever was; None: nobody knows.
    """

    name: str
    used: int
    limit: int
    peak: int | None = None

    @property
    def share(self) -> float:
        """Of the limit; of a limit of 0, 1."""
        return self.used / self.limit if self.limit else 1.0

    @property
    def of_one_peer(self) -> bool:
        """Whether it limits a single peer or network, and not the node."""
        name = self.name
        return name.startswith(("peer:", "network ")) or (
            ".peer:" in name or name == "established_per_peer")


def usages(manager: ResourceManager) -> list[Usage]:
    """Limits by state, the process's, and the fullest of scopes and networks; the fullest first.

    O(scopes and networks). Of equally full ones, those that concern all peers come before those of
    one.
    """
    found = [
        *_of_states(manager), *_of_scopes(manager), *_of_memory(manager), *_of_networks(manager)]
    return sorted(found, key=lambda usage: (-usage.share, usage.of_one_peer, usage.name))


def _of_states(manager: ResourceManager) -> Iterator[Usage]:
    tracker, limits = manager.connection_tracker, manager.connection_limits
    seen = tracker.snapshot()
    for name, limit in limits.to_dict().items():
        kind = name.removeprefix("max_")
        if limit is None:
            continue
        if kind == "established_per_peer":
            per_peer = tracker.established_per_peer
            used = max((len(ids) for ids in per_peer.values()), default=0)
        else:
            used = getattr(seen, kind)
        yield Usage(kind, used, limit, getattr(seen, f"peak_{kind}"))


def _of_scopes(manager: ResourceManager) -> Iterator[Usage]:
    ledger = manager.ledger
    peaks = {"system": ledger.peak, "transient": ledger.transient_peak}
    for scope, field, used, limit in ledger.fullest(peers=False):
        yield Usage(f"{scope} {field}", used, limit, peaks.get(scope, {}).get(field))
    # apart: at a busy node enough peers are at their limits to crowd out the node's own
    everything = (Usage(f"{scope} {field}", *counts) for scope, field, *counts in ledger.fullest())
    yield from islice((usage for usage in everything if usage.of_one_peer), _MOST_PEERS)


def _of_memory(manager: ResourceManager) -> Iterator[Usage]:
    limits = manager.memory_limits
    most = None if limits is None else limits.max_allowed_bytes
    if limits is not None and most is not None:
        limits.refresh_memory_stats_if_needed()
        yield Usage("process memory", limits.process_memory_bytes, most)


def _of_networks(manager: ResourceManager) -> Iterator[Usage]:
    gate = manager.addresses
    if gate is not None and gate.subnets is not None:
        for network, used, limit in gate.subnets.fullest(_MOST_PEERS):
            yield Usage(f"network {network} connections", used, limit)


def explain(manager: ResourceManager) -> str:
    """A few lines for a person at a terminal. O(scopes)."""
    return "\n".join([*_what_is_full(manager), *_what_was_denied(manager)])


def _what_is_full(manager: ResourceManager) -> Iterator[str]:
    near = [usage for usage in usages(manager) if usage.share >= _NEAR]
    used = [usage for usage in near if usage.used]
    if not used:
        yield "Nothing is at its limit."
        return
    yield "At or near its limit now:"
    used.sort(key=lambda usage: usage.of_one_peer)
    for usage in used[:_MOST_LINES]:
        yield f"  {shown(usage.name)}: {_shown(usage)}"
    if len(used) > _MOST_LINES:
        yield f"  and {len(used) - _MOST_LINES} more"


def _shown(usage: Usage) -> str:
    if "memory" in usage.name:
        used, limit = usage.used / 2**20, usage.limit / 2**20
        return f"{used:.1f} of {limit:.1f} MiB ({usage.share:.0%})"
    return f"{usage.used} of {usage.limit} ({usage.share:.0%})"


def _what_was_denied(manager: ResourceManager) -> Iterator[str]:
    log = manager.denials
    if not log.total:
        yield "Nothing was denied yet."
        return
    latest: Counter[str] = Counter()
    settings: dict[str, set[str]] = {}
    for error in log:
        latest[error.code] += 1
        settings.setdefault(error.code, set()).add(error.setting)
    yield (
        f"Denied since the start: {log.total}, {log.inbound} inbound, {log.outbound} outbound. "
        f"Of the last {len(log)}:"
    )
    told = latest.most_common(_MOST_LINES)
    for code, times in told:
        yield f"  {times} by {code}: see {_for_all(settings[code])}"
    if others := latest.total() - sum(times for _, times in told):
        yield f"  {others} by others"
    peers = [(peer, times) for peer, times in log.most_denied(3) if times > 1]
    if peers:
        yield "Peers denied most:"
    for peer, times in peers:
        yield f"  {times} times {shown(peer_text(peer))}"


def _for_all(settings: set[str]) -> str:
    """One for all of several peers or protocols: what comes first in each is the default of all."""
    if len(settings) == 1:
        return settings.pop()
    return ", ".join(sorted({setting.partition(" or ")[0] for setting in settings})[:_MOST_LINES])
