"""The errors that describe denials, and names that strangers chose, made safe to print.

A refusal on a hot path is a small value. It becomes one of these errors only where it is raised or
where a person reads the reason.

The swarm of py-libp2p catches `libp2p.rcmgr.exceptions.ResourceLimitExceeded`. Ours is a subclass
of it as soon as that module is loaded. Importing libp2p takes over half a second, so this module
never does it: `link_upstream` replaces the base class below.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Hashable
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from rcmgr.peers import peer_key, peer_text

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AddressLimitExceeded",
    "Banned",
    "ConnectionEvicted",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "FleetLimitExceeded",
    "MemoryReservationExceeded",
    "MemoryUsageLimitExceeded",
    "RateLimitExceeded",
    "ResourceLimitExceeded",
    "ResourceScopeClosed",
    "ScopeLimitExceeded",
    "StreamLimitExceeded",
    "link_upstream",
    "printable",
    "printable_name",
    "shortened",
]

_UPSTREAM = "libp2p.rcmgr.exceptions"
_PAGE = "https://github.com/rcmgr/rcmgr/blob/main/docs/error-codes.md"
_MOST_CHARACTERS = 160


def shortened(name: object) -> str:
    """At most 160 characters of a name: the first and the last ones."""
    text = str(name)
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:half]}...{text[-(half - 3):]}"


def printable(text: str) -> str:
    """The text with escapes for control characters, line ends and what UTF-8 cannot encode."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_name(name: object) -> str:
    """A name that a stranger may have chosen, short and safe for a terminal or a log line."""
    return printable(shortened(name))


class ConnectionLimitKind(str, Enum):
    """The connection limit that refused. Messages, stats and metrics use the value as its name.

    PENDING_INBOUND, PENDING_OUTBOUND, ESTABLISHED_INBOUND, ESTABLISHED_OUTBOUND,
    ESTABLISHED_PER_PEER, ESTABLISHED_TOTAL: the fields of `ConnectionLimits`.
    CONNECTIONS: `max_connections` of a `ConnectionTracker`: pending and established together.
    """

    PENDING_INBOUND = "pending_inbound"
    PENDING_OUTBOUND = "pending_outbound"
    ESTABLISHED_INBOUND = "established_inbound"
    ESTABLISHED_OUTBOUND = "established_outbound"
    ESTABLISHED_PER_PEER = "established_per_peer"
    ESTABLISHED_TOTAL = "established_total"
    CONNECTIONS = "connections"


class _LimitRoot(Exception):
    """The base class until libp2p is loaded; then libp2p's ResourceLimitExceeded."""


class _ClosedRoot(Exception):
    """The base class until libp2p is loaded; then libp2p's ResourceScopeClosed."""


class ResourceLimitExceeded(_LimitRoot):
    """A limit refused. Nothing was taken, so there is nothing to give back.

    The base class of every denial. `except libp2p.rcmgr.exceptions.ResourceLimitExceeded` catches
    it. Subclasses are dataclasses whose fields say what happened. The message is made when it is
    read. They can be pickled.

    category: "connection", "stream", "memory" or "rate": the thing that was refused.
    code: a short name of the limit, for programs. setting: the setting that would allow more.
    connection_id, peer_id, address: the request came from them; None: unknown.
    enforced: False: a dry run admitted the request, which the limit would have refused.
    scope_name, resource_type, requested, available: libp2p's attributes, with values of a scope.
        None: another kind of limit refused.
    """

    category: ClassVar[str] = "resource"
    _section: ClassVar[str] = "error-codes"

    enforced: bool = True
    """False: a dry run admitted the request, which the limit would have refused."""

    _is_brief_without_subject = True
    """Whether the text is only the first sentence if no peer, connection and address is known."""

    # a subclass has a field for each of these that it may know
    connection_id: Hashable | None
    peer_id: Hashable | None
    address: str | None

    # attributes of libp2p's class, for handlers written against it
    scope_name: str | None = None
    resource_type: str | None = None
    requested: int | None = None
    available: int | None = None

    def __new__(cls, *args: object, **kwargs: object) -> ResourceLimitExceeded:
        link_upstream()
        return super().__new__(cls, *args)

    def __init__(self, *args: object) -> None:
        # libp2p's constructor would assign `message`, a property here
        self.args = args

    def __post_init__(self) -> None:
        # pickle rebuilds an exception from `args`
        self.args = tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    @property
    def message(self) -> str:
        """The text, as an attribute of libp2p's class."""
        return str(self)

    @property
    def explanation(self) -> str:
        """The request, the peer, the limit, how much is in use, and the setting to change."""
        begin = "" if self.enforced else "Dry run, would refuse: "
        return "; ".join([f"{begin}{self._sentence()}", *self._subject(), f"see {self.setting}"])

    def _sentence(self) -> str:
        return ", ".join(map(str, self.args))

    def _subject(self) -> list[str]:
        known = {
            "connection": getattr(self, "connection_id", None),
            "address": getattr(self, "address", None),
            "peer": self.peer,
        }
        return [
            f"{what} {printable_name(name)}" for what, name in known.items() if name is not None]

    def explained(self, address: str | None = None) -> Self:
        """This error, with its explanation as its text, and with the address of the request.

        A field `address` that is set already stays. A log of denials calls this.
        """
        if address is not None and getattr(self, "address", address) is None:
            self.address = address
            self.__post_init__()
        self._is_brief_without_subject = False
        return self

    def __str__(self) -> str:
        """The explanation. Control characters in names that peers chose are escaped."""
        if self._is_brief_without_subject and not self._subject():
            return self._sentence()
        return self.explanation

    @property
    def code(self) -> str:
        """A short name of the limit, for programs. Later versions keep it."""
        return self.category

    @property
    def setting(self) -> str:
        """The setting that would allow more."""
        return "the limits of the ResourceManager"

    @property
    def documentation(self) -> str:
        """The address of the documentation of this kind of denial."""
        return f"{_PAGE}#{self._section}"

    @property
    def peer(self) -> str | None:
        """The peer that was refused, as base58 text; None: unknown."""
        peer = getattr(self, "peer_id", None)
        return None if peer is None else peer_text(peer_key(peer))

    def to_dict(self) -> dict[str, Any]:
        """Code, category, message, setting and all fields, ready for JSON.

        Peers are text. An infinite time is None. "enforced": only if it is False.
        """
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        values = {each.name: _plain(each.name, getattr(self, each.name)) for each in known}
        return {
            "code": self.code,
            "category": self.category,
            "message": self.explanation,
            "setting": self.setting,
            "documentation": self.documentation,
            **({} if self.enforced else {"enforced": False}),
            **values,
        }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if name == "peer_id" and value is not None:
        return peer_text(peer_key(value))
    if isinstance(value, float) and math.isinf(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


@dataclass(eq=False)
class ConnectionLimitExceeded(ResourceLimitExceeded):
    """A limit by connection state refused: there were `current` connections of `limit`."""

    limit: int
    current: int
    kind: ConnectionLimitKind
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    address: str | None = None

    category = resource_type = "connection"
    _section = "connections-by-state"

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


@dataclass(eq=False)
class ConnectionEvicted(ResourceLimitExceeded):
    """A full node ended the connection, so that a newcomer got its place.

    state: "established_inbound", or "pending_inbound": during its handshake.
    """

    state: str
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    address: str | None = None

    category = resource_type = "connection"
    _section = "evictions"
    code = "connection.evicted"
    _is_brief_without_subject = False

    @property
    def setting(self) -> str:
        return "NodeLimits.eviction"

    def _sentence(self) -> str:
        return f"Connection evicted: {self.state} made room for a newcomer"


@dataclass(eq=False)
class AddressLimitExceeded(ResourceLimitExceeded):
    """A limit by network refused: `current` of `limit` connections were from `network`.

    network: "": `address` is no address, and so no limit applies to it.
    limited_by: the key of `SubnetLimits.overrides` that has the limit. "": a limit by length.
    """

    address: str
    network: str
    current: int
    limit: int
    limited_by: str = ""
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None

    category = resource_type = "connection"
    _section = "addresses"
    code = "connection.address"
    _is_brief_without_subject = False

    @property
    def setting(self) -> str:
        if not self.network:
            return "the address that the caller gives"
        if self.limited_by:
            return f"SubnetLimits.overrides[{self.limited_by!r}]"
        version = "ipv6" if ":" in self.network else "ipv4"
        return f"SubnetLimits.{version} or SubnetLimits.overrides[{self.network!r}]"

    def _sentence(self) -> str:
        if not self.network:
            address = printable_name(self.address)
            return f"connections per ip limit exceeded: {address} is no address"
        return (
            f"connections per ip limit exceeded for {printable_name(self.address)} "
            f"(network: {self.network}, current: {self.current}, limit: {self.limit})"
        )

    def _subject(self) -> list[str]:
        return [each for each in super()._subject() if not each.startswith("address ")]


@dataclass(eq=False)
class ScopeLimitExceeded(ResourceLimitExceeded):
    """A scope refused: it held `current` of `limit`, and the caller asked for `attempted` more.

    scope: the scope that refused, as go-libp2p names it ("system", "peer:12D3K...", "conn-7").
    resource: "memory" (bytes), "inbound stream", "stream" (both directions), "outbound connection",
        "file descriptor", ...
    priority: a memory reservation may use (1 + priority) / 256 of the limit.
    asked_by: the scope that was asked, if that is another one with a name.
    peer_id: None: the caller did not know the peer.
    has_own_limit: the limit is one of this name alone, and not the default.
    limited_by: the source of the limit: "" (the limits of the node), "limiter" or "set_limit".

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
    connection_id: Hashable | None = None
    address: str | None = None
    has_own_limit: bool = False
    limited_by: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scope_name = self.scope
        self.resource_type = self.resource
        self.requested = self.attempted
        self.available = max(0, self.limit - self.current)

    category = "connection"
    _section = "scopes"
    _is_brief_without_subject = False

    @property
    def code(self) -> str:
        return f"{self.category}.{self._limited[0]}.{_LIMIT_FIELDS[self.resource]}"

    @property
    def setting(self) -> str:
        if self.limited_by == "limiter":
            return f"the limiter (ResourceManager.ledger.limiter) for {printable_name(self.scope)}"
        if self.limited_by == "set_limit":
            return f"set_limit of {printable_name(self.scope)}"
        (scope, name), field = self._limited, _LIMIT_FIELDS[self.resource]
        if scope in _SCOPES_BY_NAME:
            own = f"ConcreteLimits.{scope}[{shortened(name)!r}].{field}"
            return own if self.has_own_limit else (
                f"ConcreteLimits.{scope}_default.{field} or {own}")
        path = f"ConcreteLimits.{scope}.{field}"
        total = _TOTALS.get((scope, field))
        return path if total is None else f"ResourceLimits.{total} ({path})"

    @property
    def _limited(self) -> tuple[str, str]:
        """The scope's attribute of `ConcreteLimits` ("system", "peer", "conn"), and its name."""
        # search only the end: a stranger may have chosen a very long name
        spans = _SPANS.search(self.scope, max(0, len(self.scope) - _LONGEST_SPANS))
        owner = self.scope if spans is None else self.scope[:spans.start()]
        kind, _, name = owner.partition(":")
        if not name:
            return _SCOPES.get(kind, kind.partition("-")[0]), ""
        name, of_peer, _ = name.partition(".peer:")
        return f"{kind}_peer" if of_peer else kind, name

    def _sentence(self) -> str:
        path = printable_name(self.scope)
        if self.asked_by is not None:
            path = f"{printable_name(self.asked_by)}: {path}"
        what = "" if self.resource == "memory" else f"cannot reserve {self.resource}: "
        return (
            f"{path}: {what}resource limit exceeded "
            f"(current: {self.current}, attempted: {self.attempted}, limit: {self.limit})"
        )

    def _subject(self) -> list[str]:
        known = super()._subject()
        return known[:-1] if self.peer is not None and self.peer in self.scope else known


# a resource as refusals name it, and its field of `Limit`
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
# names of the system's limits in `ResourceLimits`
_TOTALS = {
    ("system", "conns"): "max_connections",
    ("system", "streams"): "max_streams",
    ("system", "memory"): "max_memory_mb",
}


@dataclass(eq=False)
class StreamLimitExceeded(ScopeLimitExceeded):
    """A scope had reached its limit of streams."""

    category = "stream"


@dataclass(eq=False)
class MemoryReservationExceeded(ScopeLimitExceeded):
    """A scope had less memory left than the caller asked for. Amounts are bytes."""

    category = "memory"


@dataclass(eq=False)
class MemoryUsageLimitExceeded(ResourceLimitExceeded):
    """The process uses more memory than `max_allowed_bytes`: `percentage` is 100 at that limit.

    limited_by: the argument of `MemoryConnectionLimits` that refused.
    anonymous_bytes: the memory that the kernel cannot drop, if only pages of files pass the limit.
    """

    process_memory_bytes: int
    max_allowed_bytes: int
    percentage: float
    limited_by: str = "max_bytes"
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    anonymous_bytes: int | None = None
    address: str | None = None

    category = resource_type = "memory"
    _section = "memory-of-the-process"
    code = "memory.process"

    @property
    def setting(self) -> str:
        return f"MemoryConnectionLimits.{self.limited_by} (ResourceManager.memory_limits)"

    def _sentence(self) -> str:
        used, most = self.process_memory_bytes, self.max_allowed_bytes
        if self.limited_by == "max_pressure":
            return f"Memory pressure limit exceeded: tasks wait for memory ({used} bytes used)"
        return f"Memory usage limit exceeded: {used} bytes > {most} bytes ({self.percentage:.1f}%)"

    def _subject(self) -> list[str]:
        known = super()._subject()
        if self.anonymous_bytes is not None:
            known.append(
                f"only {self.anonymous_bytes} of these bytes are anonymous memory, the rest are "
                'pages of files; measure = "anonymous" does not count them')
        return known


@dataclass(eq=False)
class RateLimitExceeded(ResourceLimitExceeded):
    """A peer or network asked too often. It may ask again in `retry_after_s` seconds (inf: never).

    protocol: "connections" for the rate of one peer, "network 192.0.2.0/24" for that of a network.
    address: where the connection comes from, if its peer is not known yet.
    refill_rate, burst: the rate a second, and how many at once; None: unknown.
    limited_by: for a network, "overall", or the key of `AddressRates.overrides` that has its rate.
        "": a rate by prefix length. For a protocol, the field of `RateLimits`, or the network
        ("network 192.0.2.0/24") that asked too often. "": not known.
    """

    protocol: str
    operation: str
    peer_id: Hashable | None
    retry_after_s: float
    address: str | None = None
    refill_rate: float | None = None
    burst: int | None = None
    limited_by: str = ""
    connection_id: Hashable | None = None

    category = resource_type = "rate"
    _section = "rates"
    _is_brief_without_subject = False

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
            if self.limited_by == "overall":
                return "AddressRates.overall"
            if self.limited_by == "eviction":
                return "Eviction.share_per_second"
            if self.limited_by:
                return f"AddressRates.overrides[{self.limited_by!r}]"
            version = "ipv6" if ":" in self.protocol else "ipv4"
            return f"AddressRates.{version} or ConnectionRateLimits.per_ip"
        if self.limited_by.startswith("network "):
            return f"ProtocolRateLimiter.networks of {printable_name(self.protocol)}"
        override = f"RateLimits.overrides[{shortened(self.operation)!r}]"
        setting = {
            "": f"RateLimits.default, {override} or RateLimits.overall",
            "overrides": override,
        }.get(self.limited_by, f"RateLimits.{self.limited_by}")
        return f"{setting} of {printable_name(self.protocol)}"

    def _sentence(self) -> str:
        rate = "" if self.refill_rate is None else (
            f"{self.refill_rate:.4g} a second, {self.burst} at once; ")
        what = "connections of one peer" if self.code == "rate.peer" else (
            f"{printable_name(self.operation)} of {printable_name(self.protocol)}")
        if self.code == "rate.protocol" and self.limited_by.startswith("network "):
            what += f" by {self.limited_by}"
        return f"rate limit exceeded: {what} ({rate}retry after {self.retry_after_s:.3g} s)"


@dataclass(eq=False)
class Banned(ResourceLimitExceeded):
    """The peer, its address or its network is banned, for another `retry_after_s` seconds.

    what: the peer, address or network of the ban. reason: why, as `ResourceManager.bans` says it.
    retry_after_s: inf: until the operator ends the ban.
    """

    what: str
    reason: str
    retry_after_s: float
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    address: str | None = None

    category = resource_type = "connection"
    _section = "bans"
    code = "connection.banned"
    _is_brief_without_subject = False

    @property
    def setting(self) -> str:
        return f"ResourceManager.unban({printable_name(self.what)!r})"

    def _sentence(self) -> str:
        end = "" if math.isinf(self.retry_after_s) else f" for {self.retry_after_s:.3g} s"
        why = f" ({printable_name(self.reason)})" if self.reason else ""
        return f"banned: {printable_name(self.what)}{end}{why}"

    def _subject(self) -> list[str]:
        known = super()._subject()
        return known[:-1] if self.peer == self.what else known


@dataclass(eq=False)
class FleetLimitExceeded(ResourceLimitExceeded):
    """A limit on all nodes of the fleet together refused.

    limit: the field of `FleetLimits`: "rate", "peer_rate", "network_rate", "protocols",
        "protocol_peers", "peer.connections", "peer.streams", "network.connections".
    of: the counted thing: "the fleet", "one peer", "network 192.0.2.0/24", a protocol.
    most: places at once; None: the limit is a rate.
    refill_rate, burst: the rate a second, and how many at once; None: the limit is no rate.
    retry_after_s: seconds until the rate probably admits it; other nodes may be faster. 0: no rate.
    """

    limit: str
    of: str
    most: int | None = None
    refill_rate: float | None = None
    burst: int | None = None
    retry_after_s: float = 0.0
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    address: str | None = None

    category = resource_type = "rate"
    _is_brief_without_subject = False
    _section = "fleet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most is not None:
            kind = "stream" if self.limit.endswith("streams") else "connection"
            self.category = self.resource_type = kind  # type: ignore[misc]

    @property
    def code(self) -> str:
        return f"fleet.{self.limit}"

    @property
    def setting(self) -> str:
        return f"FleetLimits.{self.limit}"

    def _sentence(self) -> str:
        of = printable_name(self.of)
        if self.most is not None:
            what = self.limit.partition(".")[2]
            return f"fleet limit exceeded: {what} of {of} (limit: {self.most} on all nodes)"
        return (
            f"fleet rate exceeded: {of} ({self.refill_rate:.4g} a second, {self.burst} at once on "
            f"all nodes; retry after {self.retry_after_s:.3g} s)")


class ResourceScopeClosed(_ClosedRoot):
    """The manager or scope is closed. Nothing can be taken from it."""

    def __new__(cls, *args: object, **kwargs: object) -> ResourceScopeClosed:
        link_upstream()
        return super().__new__(cls, *args)

    def __init__(self, what: str = "resource manager") -> None:
        self.args = (what,)
        self.scope_name = what

    @property
    def message(self) -> str:
        """The text, as an attribute of libp2p's class."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.scope_name}: resource scope closed"


def link_upstream() -> bool:
    """Make our errors subclasses of py-libp2p's if py-libp2p is loaded; True: they are.

    Every new error and every new manager calls this, so that the `except` clauses of a host always
    catch our errors. Idempotent, thread safe, about 100 ns.
    """
    upstream = sys.modules.get(_UPSTREAM)
    if upstream is None:
        return False
    for ours, name in (
        (ResourceLimitExceeded, "ResourceLimitExceeded"),
        (ResourceScopeClosed, "ResourceScopeClosed"),
    ):
        theirs = getattr(upstream, name, None)  # None: libp2p is still importing that module
        if theirs is None:
            return False
        if theirs not in ours.__bases__:
            ours.__bases__ = (theirs,)
    return True


link_upstream()
