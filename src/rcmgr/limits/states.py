"""Limits on connections by their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rcmgr.limits.checks import check_limit, check_names
from rcmgr.limits.names import suggests_arguments

__all__ = ["ConnectionLimits"]


@suggests_arguments
@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections a node may have in each state.

    These are the six limits of rust-libp2p's crate. Each is a number of connections of 0 or more,
    or None: no limit. A limit of n refuses while n connections exist, so 0 admits nothing.
    Connections of bypassed peers do not count. `with_...` methods return a changed copy.

    max_pending_inbound, max_pending_outbound: connections before the end of their handshake.
    max_established_inbound, max_established_outbound: connections after it.
    max_established_per_peer: inbound and outbound connections of one peer together.
    max_established_total: inbound and outbound connections of all peers together.

    TypeError: a limit is not an int or None. ValueError: a limit is negative.
    """

    max_pending_inbound: int | None = None
    max_pending_outbound: int | None = None
    max_established_inbound: int | None = None
    max_established_outbound: int | None = None
    max_established_per_peer: int | None = None
    max_established_total: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            check_limit(field.name, getattr(self, field.name))

    def with_max_pending_inbound(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_pending_inbound=limit)

    def with_max_pending_outbound(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_pending_outbound=limit)

    def with_max_established_inbound(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_established_inbound=limit)

    def with_max_established_outbound(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_established_outbound=limit)

    def with_max_established_per_peer(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_established_per_peer=limit)

    def with_max_established_total(self, limit: int | None) -> ConnectionLimits:
        """A copy with this limit; None: no limit."""
        return replace(self, max_established_total=limit)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConnectionLimits:
        """The limits in `values`. The others are None.

        ValueError: an unknown name, or as the constructor. TypeError: as the constructor.
        """
        check_names("connection limits", values, [field.name for field in fields(cls)])
        return cls(**values)

    def to_dict(self) -> dict[str, int | None]:
        """All six limits by name, ready for JSON; None: no limit."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
