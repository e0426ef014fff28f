"""The part of a resource manager that reports read."""

from __future__ import annotations

from typing import Any, Protocol

from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.scope import Ledger
from rcmgr.gates.bans import Ban
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import AddressGate
from rcmgr.gates.requests import ProtocolRateLimiter
from rcmgr.limits.parts import ConnectionRateLimits
from rcmgr.limits.scopes import ConcreteLimits
from rcmgr.limits.states import ConnectionLimits

__all__ = ["Node"]


class Node(Protocol):
    """A `rcmgr.ResourceManager` as reports see it. The manager imports them, never the reverse."""

    @property
    def connection_tracker(self) -> ConnectionTracker: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def denials(self) -> DenialLog: ...
    @property
    def addresses(self) -> AddressGate | None: ...
    @property
    def protocol_rate_limiters(self) -> dict[str, ProtocolRateLimiter]: ...
    @property
    def refused_for_memory(self) -> int: ...
    @property
    def refused_by_peer_rate(self) -> int: ...
    @property
    def refused_by_ban(self) -> int: ...
    @property
    def connection_limits(self) -> ConnectionLimits: ...
    @property
    def connection_rate_limits(self) -> ConnectionRateLimits: ...
    @property
    def memory_limits(self) -> MemoryConnectionLimits | None: ...
    @property
    def scope_limits(self) -> ConcreteLimits: ...
    def bans(self) -> list[Ban]: ...
    def get_stats(self) -> dict[str, Any]: ...
