"""What a denial looks like once somebody asks.

The hot paths answer a refusal with a small value and build none of these. They are made at the
edge: where an exception has to be raised, or where a person wants to read the reason.

Inside a py-libp2p host the swarm catches `libp2p.rcmgr.exceptions.ResourceLimitExceeded`. Ours is
a subclass of it as soon as that module is loaded, without importing it ourselves (libp2p takes
over half a second to import): `link_upstream` replaces the root class below.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Hashable
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, ClassVar

from rcmgr.peers import peer_key, peer_text
from rcmgr.texts import shortened, shown

__all__ = [
    "AddressLimitExceeded",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "MemoryReservationExceeded",
    "MemoryUsageLimitExceeded",
    "RateLimitExceeded",
    "ResourceLimitExceeded",
    "ResourceScopeClosed",
    "ScopeLimitExceeded",
    "StreamLimitExceeded",
    "link_upstream",
]

_UPSTREAM = "libp2p.rcmgr.exceptions"


class ConnectionLimitKind(str, Enum):
    """Which connection limit refused. The value is the name used in messages, stats and metrics."""

    PENDING_INBOUND = "pending_inbound"
    PENDING_OUTBOUND = "pending_outbound"
    ESTABLISHED_INBOUND = "established_inbound"
    ESTABLISHED_OUTBOUND = "established_outbound"
    ESTABLISHED_PER_PEER = "established_per_peer"
    ESTABLISHED_TOTAL = "established_total"
    CONNECTIONS = "connections"
    """All connections, pending and established, of a tracker that limits them itself."""


class _LimitRoot(Exception):
    """Stands in for upstream's ResourceLimitExceeded until libp2p is loaded."""


class _ClosedRoot(Exception):
    """Stands in for upstream's ResourceScopeClosed until libp2p is loaded."""


class ResourceLimitExceeded(_LimitRoot):
    """A limit was reached: nothing was taken, nothing needs to be given back.

    The root of every denial of rcmgr. Caught by `except
    libp2p.rcmgr.exceptions.ResourceLimitExceeded`. Subclasses are dataclasses whose fields say what
    happened; the message is made when it is read. They can be pickled.
    """

    category: ClassVar[str] = "resource"
    """What was asked for: "connection", "stream", "memory" or "rate"."""

    _is_brief_for_nobody: ClassVar[bool] = True
    """Whether the text is only the first sentence while it is not known of whom."""

    # the attributes upstream's class has, for handlers written against it
    scope_name: str | None = None
    resource_type: str | None = None
    requested: int | None = None
    available: int | None = None

    def __new__(cls, *args: object, **kwargs: object) -> ResourceLimitExceeded:
        link_upstream()
        return super().__new__(cls, *args)

    def __init__(self, *args: object) -> None:
        # not upstream's constructor: it assigns `message`
        self.args = args

    def __post_init__(self) -> None:
        # `args` is what pickle rebuilds an exception from
        self.args = tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    @property
    def message(self) -> str:
        return str(self)

    @property
    def explanation(self) -> str:
        """What was asked, of whom, which limit refused, how much is in use, what would change it.
        """
        return "; ".join([self._sentence(), *self._of_whom(), f"see {self.setting}"])

    def _sentence(self) -> str:
        return ", ".join(map(str, self.args))

    def _of_whom(self) -> list[str]:
        return [] if self.peer is None else [f"peer {shown(self.peer)}"]

    def __str__(self) -> str:
        """The explanation. Names that peers choose are in it without what a terminal obeys."""
        if self._is_brief_for_nobody and not self._of_whom():
            return self._sentence()
        return self.explanation

    @property
    def code(self) -> str:
        """A short name of the limit, for programs: it stays the same in later versions."""
        return self.category

    @property
    def setting(self) -> str:
        """What to change to allow more."""
        return "the limits of the ResourceManager"

    @property
    def peer(self) -> str | None:
        """Of whom, for people: base58 text; None if that is not known."""
        peer = getattr(self, "peer_id", None)
        return None if peer is None else _text_of_peer(peer)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON: code, category, message, setting, and the fields.

        Peers are text; a time that is infinite is None.
        """
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        values = {each.name: _plain(each.name, getattr(self, each.name)) for each in known}
        return {
            "code": self.code,
            "category": self.category,
            "message": self.explanation,
            "setting": self.setting,
            **values,
        }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if name == "peer_id" and value is not None:
        return _text_of_peer(value)
    if isinstance(value, float) and math.isinf(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _text_of_peer(peer: Hashable) -> str:
    return peer_text(peer_key(peer))


@dataclass(eq=False)
class ConnectionLimitExceeded(ResourceLimitExceeded):
    """A connection was refused: `current` connections were counted against `limit`."""

    limit: int
    current: int
    kind: ConnectionLimitKind
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None

    category = resource_type = "connection"

    @property
    def code(self) -> str:
        return f"connection.{self.kind.value}"

    @property
    def setting(self) -> str:
        if self.kind is ConnectionLimitKind.CONNECTIONS:
            return "ConnectionTracker.max_connections"
        return f"ConnectionLimits.max_{self.kind.value}"

    def _sentence(self) -> str:
        return (
            f"Connection limit exceeded: {self.kind.value} "
            f"(current: {self.current}, limit: {self.limit})"
        )

    def _of_whom(self) -> list[str]:
        connection = self.connection_id
        whose = [] if connection is None else [f"connection {shown(connection)}"]
        return [*whose, *super()._of_whom()]


@dataclass(eq=False)
class AddressLimitExceeded(ResourceLimitExceeded):
    """A connection was refused: `current` of `limit` connections were from its `network`."""

    address: str
    network: str
    current: int
    limit: int

    category = resource_type = "connection"
    _is_brief_for_nobody = False

    @property
    def code(self) -> str:
        return "connection.address"

    @property
    def setting(self) -> str:
        version = "ipv6" if ":" in self.network else "ipv4"
        return f"SubnetLimits.{version} or SubnetLimits.overrides[{self.network!r}]"

    def _sentence(self) -> str:
        return (
            f"connections per ip limit exceeded for {shown(self.address)} "
            f"(network: {self.network}, current: {self.current}, limit: {self.limit})"
        )


@dataclass(eq=False)
class ScopeLimitExceeded(ResourceLimitExceeded):
    """A scope refused: it held `current`, `attempted` more were asked for, against `limit`.

    scope: the scope to blame, by go-libp2p's names ("system", "peer:12D3K...", "conn-7").
    resource: "memory" (bytes), "inbound stream", "stream" (both directions), "outbound connection",
        "file descriptor", ...
    priority: of a memory reservation; (1 + priority) / 256 of the limit were open to it.
    asked_by: the scope that asked, if it is another one and has a name.
    peer_id: of whom, if the caller knew.

    The message begins with the words of go-libp2p's error.
    """

    scope: str
    resource: str
    current: int
    attempted: int
    limit: int
    priority: int = 255
    asked_by: str | None = None
    peer_id: Hashable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scope_name = self.scope
        self.resource_type = self.resource
        self.requested = self.attempted
        self.available = max(0, self.limit - self.current)

    category = "connection"
    _is_brief_for_nobody = False

    @property
    def code(self) -> str:
        return f"{self.category}.{self._limited[0]}.{_LIMIT_FIELDS[self.resource]}"

    @property
    def setting(self) -> str:
        (scope, name), field = self._limited, _LIMIT_FIELDS[self.resource]
        if scope in _SCOPES_BY_NAME:
            return (
                f"ConcreteLimits.{scope}_default.{field} or "
                f"ConcreteLimits.{scope}[{shortened(name)!r}].{field}"
            )
        path = f"ConcreteLimits.{scope}.{field}"
        total = _TOTALS.get((scope, field))
        return path if total is None else f"ResourceLimits.{total} ({path})"

    @property
    def _limited(self) -> tuple[str, str]:
        """As in `ConcreteLimits`: "system", "peer", "protocol_peer", "conn", ...; and its name."""
        # at the end alone: a long name that somebody chose takes no time
        spans = _SPANS.search(self.scope, max(0, len(self.scope) - _LONGEST_SPANS))
        owner = self.scope if spans is None else self.scope[:spans.start()]
        kind, _, name = owner.partition(":")
        if not name:
            return _SCOPES.get(kind, kind.partition("-")[0]), ""
        name, of_peer, _ = name.partition(".peer:")
        return f"{kind}_peer" if of_peer else kind, name

    def _sentence(self) -> str:
        path = shown(self.scope)
        if self.asked_by is not None:
            path = f"{shown(self.asked_by)}: {path}"
        what = "" if self.resource == "memory" else f"cannot reserve {self.resource}: "
        return (
            f"{path}: {what}resource limit exceeded "
            f"(current: {self.current}, attempted: {self.attempted}, limit: {self.limit})"
        )

    def _of_whom(self) -> list[str]:
        return [] if self.peer is None or self.peer in self.scope else super()._of_whom()


# what a refusal calls a resource -> the field of a Limit
_LIMIT_FIELDS = {
    "memory": "memory",
    "inbound stream": "streams_inbound",
    "outbound stream": "streams_outbound",
    "stream": "streams",
    "inbound connection": "conns_inbound",
    "outbound connection": "conns_outbound",
    "connection": "conns",
    "file descriptor": "fd",
}
_SCOPES = {
    "allowlistedSystem": "allowlisted_system", "allowlistedTransient": "allowlisted_transient",
}
_SCOPES_BY_NAME = ("service", "service_peer", "protocol", "protocol_peer", "peer")
_SPANS = re.compile(r"(\.span-\d+)+\Z")
_LONGEST_SPANS = 200
# what whoever makes a node with `ResourceLimits` knows the system's limits by
_TOTALS = {
    ("system", "conns"): "max_connections",
    ("system", "streams"): "max_streams",
    ("system", "memory"): "max_memory_mb",
}


@dataclass(eq=False)
class StreamLimitExceeded(ScopeLimitExceeded):
    """A scope had as many streams as it may."""

    category = "stream"


@dataclass(eq=False)
class MemoryReservationExceeded(ScopeLimitExceeded):
    """A scope had not as much memory left as was asked for. Amounts are bytes."""

    category = "memory"


@dataclass(eq=False)
class MemoryUsageLimitExceeded(ResourceLimitExceeded):
    """The process used more memory than it may; `percentage` is of `max_allowed_bytes`.

    limited_by: the argument of `MemoryConnectionLimits` that refused.
    """

    process_memory_bytes: int
    max_allowed_bytes: int
    percentage: float
    limited_by: str = "max_bytes"
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None

    category = resource_type = "memory"

    @property
    def code(self) -> str:
        return "memory.process"

    @property
    def setting(self) -> str:
        return f"MemoryConnectionLimits.{self.limited_by} (ResourceManager.memory_limits)"

    def _sentence(self) -> str:
        used, most = self.process_memory_bytes, self.max_allowed_bytes
        if self.limited_by == "max_pressure":
            return f"Memory pressure limit exceeded: tasks wait for memory ({used} bytes used)"
        return f"Memory usage limit exceeded: {used} bytes > {most} bytes ({self.percentage:.1f}%)"


@dataclass(eq=False)
class RateLimitExceeded(ResourceLimitExceeded):
    """A peer asked too often; after `retry_after_s` seconds (inf: never) it may ask again.

    protocol: "connections" for all of one peer, "network 192.0.2.0/24" for all of one network.
    address: whose, where no peer is known yet.
    refill_rate, burst: how many a second, and at once; None: whoever refused did not say.
    """

    protocol: str
    operation: str
    peer_id: Hashable | None
    retry_after_s: float
    address: str | None = None
    refill_rate: float | None = None
    burst: int | None = None

    category = resource_type = "rate"
    _is_brief_for_nobody = False

    @property
    def code(self) -> str:
        if self.protocol == "connections":
            return "rate.peer"
        return "rate.address" if self.protocol.startswith("network ") else "rate.protocol"

    @property
    def setting(self) -> str:
        if self.code == "rate.peer":
            return "ConnectionRateLimits.per_peer"
        if self.code == "rate.address":
            version = "ipv6" if ":" in self.protocol else "ipv4"
            return f"AddressRates.{version} or ConnectionRateLimits.per_ip"
        return (
            f"RateLimits.default, RateLimits.overrides[{shortened(self.operation)!r}] or "
            f"RateLimits.overall of {shown(self.protocol)}"
        )

    def _sentence(self) -> str:
        rate = "" if self.refill_rate is None else (
            f"{self.refill_rate:.4g} a second, {self.burst} at once; ")
        what = "connections of one peer" if self.code == "rate.peer" else (
            f"{shown(self.operation)} of {shown(self.protocol)}")
        return f"Rate limit exceeded: {what} ({rate}retry after {self.retry_after_s:.3g} s)"

    def _of_whom(self) -> list[str]:
        whose = [] if self.address is None else [f"address {shown(self.address)}"]
        return [*whose, *super()._of_whom()]


class ResourceScopeClosed(_ClosedRoot):
    """The manager or scope was closed; nothing can be taken from it any more."""

    def __new__(cls, *args: object, **kwargs: object) -> ResourceScopeClosed:
        link_upstream()
        return super().__new__(cls, *args)

    def __init__(self, what: str = "resource manager") -> None:
        self.args = (what,)
        self.scope_name = what

    @property
    def message(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.scope_name}: resource scope closed"


def link_upstream() -> bool:
    """Make our errors subclasses of py-libp2p's, if py-libp2p is loaded; True if they are.

    Called whenever an error is made and when a manager is made, so that an error raised inside a
    host is always caught by the host's own clauses. Idempotent, thread safe, about 100 ns.
    """
    upstream = sys.modules.get(_UPSTREAM)
    if upstream is None:
        return False
    for ours, name in (
        (ResourceLimitExceeded, "ResourceLimitExceeded"),
        (ResourceScopeClosed, "ResourceScopeClosed"),
    ):
        theirs = getattr(upstream, name, None)  # None while that module is still being executed
        if theirs is None:
            return False
        if theirs not in ours.__bases__:
            ours.__bases__ = (theirs,)
    return True


link_upstream()
