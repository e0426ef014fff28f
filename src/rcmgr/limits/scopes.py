"""The limits of scopes, and how they grow with the machine.

The default table, the formula and the names are go-libp2p's (p2p/host/resource-manager,
limit_defaults.go). Three trees have the same branches. `ScalingLimits` define how limits grow.
`ConcreteLimits` are numbers for a `Ledger`. `PartialLimits` change some of these numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeVar

from rcmgr.limits.checks import check_count, check_limit, check_number
from rcmgr.limits.machine import total_memory
from rcmgr.limits.names import suggests_arguments
from rcmgr.peers import peer_key, peer_text

__all__ = [
    "DEFAULT",
    "DEFAULT_LIMITS",
    "SERVICES",
    "ConcreteLimits",
    "Default",
    "Limit",
    "LimitIncrease",
    "LimitTree",
    "PartialLimit",
    "PartialLimits",
    "ScalingLimit",
    "ScalingLimits",
    "autoscale",
    "named_limits",
    "soft_fd_limit",
]

MAX_LIMIT: Final = 2**63 - 1
"""The largest limit; itself, as in Go, it is no limit."""

UNLIMITED_FDS: Final = 1 << 20
"""An unlimited number of descriptors counts as this number, Linux's ceiling (fs.nr_open)."""

_MIB, _GIB = 1 << 20, 1 << 30


class Default(Enum):
    """The value of a limit that a partial limit leaves open."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT


def _check(name: str, value: object) -> None:
    check_limit(name, value)
    if isinstance(value, int) and value > MAX_LIMIT:
        raise ValueError(f"{name} must be at most 2**63 - 1, not {value}")


@suggests_arguments
@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of one scope: 0 to 2**63 - 1 of each, or None: no limit. 0 admits nothing.

    streams, conns: both directions together. fd: file descriptors. memory: bytes.
    streams_inbound, streams_outbound, conns_inbound, conns_outbound: one direction alone.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    streams: int | None = None
    streams_inbound: int | None = None
    streams_outbound: int | None = None
    conns: int | None = None
    conns_inbound: int | None = None
    conns_outbound: int | None = None
    fd: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name))

    def to_dict(self) -> dict[str, int | None]:
        """All eight limits by name, ready for JSON; None: no limit."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def to_partial(self) -> PartialLimit:
        """A partial limit that leaves nothing open."""
        return PartialLimit(**self.to_dict())


NOTHING: Final = Limit(0, 0, 0, 0, 0, 0, 0, 0)


@suggests_arguments
@dataclass(frozen=True, slots=True)
class PartialLimit:
    """A `Limit` that leaves the fields with `DEFAULT` as they were.

    streams, streams_inbound, streams_outbound, conns, conns_inbound, conns_outbound, fd, memory: as
        in `Limit`.
    """

    streams: int | Default | None = DEFAULT
    streams_inbound: int | Default | None = DEFAULT
    streams_outbound: int | Default | None = DEFAULT
    conns: int | Default | None = DEFAULT
    conns_inbound: int | Default | None = DEFAULT
    conns_outbound: int | Default | None = DEFAULT
    fd: int | Default | None = DEFAULT
    memory: int | Default | None = DEFAULT

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not DEFAULT:
                _check(each.name, value)

    def build(self, fallback: Limit) -> Limit:
        """The limit, with `fallback`'s values for its defaults."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {
            name: getattr(fallback, name) if value is DEFAULT else value
            for name, value in given.items()
        }
        return Limit(**{name: None if value == MAX_LIMIT else value
                        for name, value in values.items()})

    @property
    def is_default(self) -> bool:
        """Whether it leaves all eight limits open."""
        return all(getattr(self, each.name) is DEFAULT for each in fields(self))


@suggests_arguments
@dataclass(frozen=True, slots=True)
class LimitIncrease:
    """How much a limit grows per GiB of memory.

    streams, streams_inbound, streams_outbound, conns, conns_inbound, conns_outbound: numbers.
    memory: bytes. fd_fraction: the fraction of the file descriptors, 0 to 1.
    """

    streams: int = 0
    streams_inbound: int = 0
    streams_outbound: int = 0
    conns: int = 0
    conns_inbound: int = 0
    conns_outbound: int = 0
    memory: int = 0
    fd_fraction: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "fd_fraction":
                check_number("fd_fraction", value, 0, 1)
            else:
                check_count(each.name, value, 0, MAX_LIMIT)


@suggests_arguments
@dataclass(frozen=True, slots=True)
class ScalingLimit:
    """A limit for the smallest machine, and how it grows.

    base: the limit up to 128 MiB of memory. increase: what each GiB adds.
    """

    base: Limit = NOTHING
    increase: LimitIncrease = LimitIncrease()

    def scale(self, memory: int, fds: int) -> Limit:
        """For `memory` bytes and `fds` descriptors.

        A counter is base + (increase * MiB >> 10). Up to 128 MiB it is the base. Descriptors are
        the fraction of `fds`, and at least the base. Source: go-libp2p's ScalingLimitConfig.Scale.
        """
        mib = memory >> 20 if memory > 128 * _MIB else 0
        values: dict[str, int | None] = {}
        for each in fields(self.base):
            base = getattr(self.base, each.name)
            if base is None:
                values[each.name] = None
            elif each.name == "fd":
                share = int(self.increase.fd_fraction * fds) if fds > 0 else 0
                values["fd"] = max(share, base)
            else:
                grown = base + (getattr(self.increase, each.name) * mib >> 10)
                values[each.name] = min(grown, MAX_LIMIT)
        return Limit(**values)


T = TypeVar("T")
U = TypeVar("U")


def _not_given() -> Any:
    """Stands for T() until `LimitTree` knows T."""
    return None


@dataclass(frozen=True)
class LimitTree(Generic[T]):
    """One T for each single scope and for each class of scopes, and more by name.

    A field that is not given is T(). A key of `peer` is an `ID`, its bytes or its base58 text. All
    three are one peer and become bytes here. An int, or a text that is no peer id, stays as it is,
    and names a peer of a `Ledger`. Keys of the other mappings are names.

    TypeError: a value or a peer has a wrong type. ValueError: a peer is there twice.
    """

    system: T = field(default_factory=_not_given)
    transient: T = field(default_factory=_not_given)
    allowlisted_system: T = field(default_factory=_not_given)
    allowlisted_transient: T = field(default_factory=_not_given)
    service_default: T = field(default_factory=_not_given)
    service_peer_default: T = field(default_factory=_not_given)
    protocol_default: T = field(default_factory=_not_given)
    protocol_peer_default: T = field(default_factory=_not_given)
    peer_default: T = field(default_factory=_not_given)
    conn: T = field(default_factory=_not_given)
    stream: T = field(default_factory=_not_given)
    service: Mapping[str, T] = field(default_factory=_not_given)
    service_peer: Mapping[str, T] = field(default_factory=_not_given)
    protocol: Mapping[str, T] = field(default_factory=_not_given)
    protocol_peer: Mapping[str, T] = field(default_factory=_not_given)
    peer: Mapping[Any, T] = field(default_factory=_not_given)

    MAPPINGS: ClassVar = ("service", "service_peer", "protocol", "protocol_peer", "peer")
    LEAF: ClassVar[type[Any]] = object

    def __post_init__(self) -> None:
        for name in self.scopes():
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, self.LEAF())
            else:
                self._check_leaf(name, value)
        for name in self.MAPPINGS:
            values = {}
            for key, value in (getattr(self, name) or {}).items():
                self._check_leaf(f"{name}[{key!r}]", value)
                exact = _peer(key) if name == "peer" else key
                if exact in values:
                    raise ValueError(f"peer[{key!r}] is there twice")
                values[exact] = value
            object.__setattr__(self, name, MappingProxyType(values))

    def _check_leaf(self, where: str, value: object) -> None:
        if not isinstance(value, self.LEAF):
            raise TypeError(f"{where} must be a {self.LEAF.__name__}, not {value!r}")

    def __reduce__(self) -> Any:
        # a mapping proxy cannot be pickled
        values = (getattr(self, each.name) for each in fields(self))
        return type(self), tuple(
            dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    @classmethod
    def scopes(cls) -> Iterator[str]:
        """The names of the branches with one T."""
        return (each.name for each in fields(cls) if each.name not in cls.MAPPINGS)

    def _mapped(self, change: Callable[[T], U]) -> dict[str, Any]:
        tree: dict[str, Any] = {name: change(getattr(self, name)) for name in self.scopes()}
        for name in self.MAPPINGS:
            tree[name] = {key: change(value) for key, value in getattr(self, name).items()}
        return tree


def named_limits(tree: LimitTree[T]) -> Iterator[tuple[str, T]]:
    """The name and the limit of every scope: "system", "protocol_default", "protocol[/x]", ..."""
    for name in tree.scopes():
        yield name, getattr(tree, name)
        kind = name.removesuffix("_default")
        if kind in tree.MAPPINGS:
            for key, limit in getattr(tree, kind).items():
                yield f"{kind}[{peer_text(key)}]", limit


def _peer(peer: object) -> bytes | str | int:
    key = peer_key(peer)
    if isinstance(key, bytes | str | int):
        return key
    raise TypeError(f"a peer must be an ID, bytes, a str or an int, not {peer!r}")


@suggests_arguments
@dataclass(frozen=True)
class ConcreteLimits(LimitTree[Limit]):
    """The limits of all scopes, for a `Ledger`. `ConcreteLimits()` has no limits."""

    LEAF: ClassVar = Limit

    def to_partial(self) -> PartialLimits:
        """Partial limits that leave nothing open. `build` makes these limits from them again."""
        return PartialLimits(**self._mapped(Limit.to_partial))

    def with_system(self, **changes: int | None) -> ConcreteLimits:
        """With other limits of the system. A number above `MAX_LIMIT` is no limit."""
        counted = {
            name: None if value is None or value > MAX_LIMIT else value
            for name, value in changes.items()
        }
        return replace(self, system=replace(self.system, **counted))


@suggests_arguments
@dataclass(frozen=True)
class PartialLimits(LimitTree[PartialLimit]):
    """Changes of limits. `PartialLimits()` changes nothing."""

    LEAF: ClassVar = PartialLimit

    def build(self, fallback: ConcreteLimits) -> ConcreteLimits:
        """`fallback` with these changes.

        The open fields of an entry by name come from the entry of that name in `fallback`. Without
        that entry, they come from the default of its class, as built here.
        """
        tree: dict[str, Any] = {
            name: getattr(self, name).build(getattr(fallback, name)) for name in self.scopes()
        }
        for name in self.MAPPINGS:
            entries = dict(getattr(fallback, name))
            for key, value in getattr(self, name).items():
                entries[key] = value.build(entries.get(key, tree[f"{name}_default"]))
            tree[name] = entries
        return ConcreteLimits(**tree)


@suggests_arguments
@dataclass(frozen=True)
class ScalingLimits(LimitTree[ScalingLimit]):
    """The limits of all scopes for the smallest machine, and their growth."""

    LEAF: ClassVar = ScalingLimit

    def scale(self, memory: int, fds: int) -> ConcreteLimits:
        """For `memory` bytes and `fds` file descriptors, 0 or more. See `ScalingLimit.scale`."""
        return ConcreteLimits(**self._mapped(lambda limit: limit.scale(memory, fds)))

    def with_entries(self, mapping: str, entries: Mapping[Any, ScalingLimit]) -> ScalingLimits:
        """With more limits by name in "service", "protocol", ... KeyError: no such mapping."""
        if mapping not in self.MAPPINGS:
            raise KeyError(mapping)
        changes: Any = {mapping: {**getattr(self, mapping), **entries}}
        return replace(self, **changes)


# -- the default table -------------------------------------------------------------------------


def _streams(inbound: int, outbound: int, total: int, memory: int, **more: int) -> Limit:
    return replace(NOTHING, streams=total, streams_inbound=inbound, streams_outbound=outbound,
                   memory=memory, **more)


def _more_streams(
    inbound: int, outbound: int, total: int, memory: int, **more: float
) -> LimitIncrease:
    changes: Any = more
    return replace(
        LimitIncrease(total, inbound, outbound, memory=memory), **changes
    )


_SYSTEM = ScalingLimit(
    _streams(1024, 2048, 2048, 128 * _MIB, conns_inbound=64, conns_outbound=128, conns=128, fd=256),
    _more_streams(1024, 2048, 2048, _GIB, conns_inbound=64, conns_outbound=128, conns=128,
                  fd_fraction=1.0),
)
_TRANSIENT = ScalingLimit(
    _streams(128, 256, 256, 32 * _MIB, conns_inbound=32, conns_outbound=64, conns=64, fd=64),
    _more_streams(128, 256, 256, 128 * _MIB, conns_inbound=16, conns_outbound=32, conns=32,
                  fd_fraction=0.25),
)


def _entry(base: tuple[int, int, int, int], more: tuple[int, int, int, int] = (0, 0, 0, 0)
           ) -> ScalingLimit:
    """Streams in, out, together, and bytes: for the smallest machine, and per GiB."""
    return ScalingLimit(_streams(*base), _more_streams(*more))


# go-libp2p's limits for its services, and similar limits for py-libp2p's services. Two limits on
# the memory of one peer differ from Go's. Ping and identify have 8 GiB there (a slip of units), and
# 1 MiB here. Relay protocols have twice the memory of the whole protocol there, and half here.
_IDENTIFY = _entry((64, 64, 128, 4 * _MIB), (64, 64, 128, 4 * _MIB))
_PING = _entry((64, 64, 64, 4 * _MIB), (64, 64, 64, 4 * _MIB))
_AUTONAT = _entry((64, 64, 64, 4 * _MIB), (4, 4, 4, 2 * _MIB))
_HOLEPUNCH = _entry((32, 32, 64, 4 * _MIB), (8, 8, 16, 4 * _MIB))
_RELAY = _entry((256, 256, 256, 16 * _MIB), (256, 256, 256, 16 * _MIB))
_HOP = _entry((640, 640, 640, 16 * _MIB), (640, 640, 640, 16 * _MIB))
_KAD = _entry((256, 512, 512, 32 * _MIB), (128, 256, 256, 32 * _MIB))
_GOSSIP = _entry((256, 256, 512, 64 * _MIB), (128, 128, 256, 64 * _MIB))
_BITSWAP = _entry((256, 512, 512, 64 * _MIB), (256, 512, 512, 64 * _MIB))

_PER_PEER_IDENTIFY = _entry((16, 16, 32, _MIB))
_PER_PEER_PING = _entry((2, 3, 4, _MIB))
_PER_PEER_TWO = _entry((2, 2, 2, _MIB))
_PER_PEER_KAD = _entry((16, 32, 32, 4 * _MIB))
_PER_PEER_GOSSIP = _entry((4, 4, 8, 8 * _MIB))
_PER_PEER_BITSWAP = _entry((16, 16, 32, 16 * _MIB))


@dataclass(frozen=True, slots=True)
class _Service:
    protocols: tuple[str, ...]
    service: ScalingLimit
    service_peer: ScalingLimit
    protocol: ScalingLimit
    protocol_peer: ScalingLimit


_BUNDLED: Final = {
    "libp2p.identify": _Service(
        ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"),
        _IDENTIFY, _PER_PEER_IDENTIFY, _IDENTIFY, _PER_PEER_IDENTIFY,
    ),
    "libp2p.ping": _Service(
        ("/ipfs/ping/1.0.0",),
        _PING, _PER_PEER_PING, _PING, _PER_PEER_PING,
    ),
    "libp2p.autonat": _Service(
        ("/libp2p/autonat/1.0.0",), _AUTONAT, _PER_PEER_TWO, _AUTONAT, _PER_PEER_TWO
    ),
    "libp2p.holepunch": _Service(
        ("/libp2p/dcutr",), _HOLEPUNCH, _PER_PEER_TWO, _HOLEPUNCH, _PER_PEER_TWO
    ),
    "libp2p.relay/v2": _Service(
        ("/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop"),
        _RELAY, _entry((64, 64, 64, _MIB)), _HOP, _entry((128, 128, 128, 8 * _MIB)),
    ),
    "libp2p.kad-dht": _Service(
        ("/ipfs/kad/1.0.0",), _KAD, _PER_PEER_KAD, _KAD, _PER_PEER_KAD
    ),
    "libp2p.gossipsub": _Service(
        (
            "/floodsub/1.0.0", "/meshsub/1.0.0", "/meshsub/1.1.0", "/meshsub/1.2.0",
            "/meshsub/1.3.0", "/meshsub/1.4.0", "/meshsub/2.0.0",
        ),
        _GOSSIP, _PER_PEER_GOSSIP, _GOSSIP, _PER_PEER_GOSSIP,
    ),
    "libp2p.bitswap": _Service(
        (
            "/ipfs/bitswap/1.0.0", "/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.2.0",
            "/ipfs/bitswap/1.3.0",
        ),
        _BITSWAP, _PER_PEER_BITSWAP, _BITSWAP, _PER_PEER_BITSWAP,
    ),
}

SERVICES: Final[Mapping[str, str]] = MappingProxyType(
    {protocol: name for name, service in _BUNDLED.items() for protocol in service.protocols}
)
"""Which service a well-known protocol belongs to."""

DEFAULT_LIMITS: Final = ScalingLimits(
    system=_SYSTEM,
    transient=_TRANSIENT,
    allowlisted_system=_SYSTEM,
    allowlisted_transient=_TRANSIENT,
    service_default=_entry((1024, 4096, 4096, 64 * _MIB), (512, 2048, 2048, 128 * _MIB)),
    service_peer_default=_entry((128, 256, 256, 16 * _MIB), (4, 8, 8, 4 * _MIB)),
    protocol_default=_entry((512, 2048, 2048, 64 * _MIB), (256, 512, 512, 164 * _MIB)),
    # 4 bytes per GiB, as in Go. Go probably meant 4 MiB, but its tests check this number.
    protocol_peer_default=_entry((64, 128, 256, 16 * _MIB), (4, 8, 16, 4)),
    peer_default=ScalingLimit(
        _streams(256, 512, 512, 64 * _MIB, conns_inbound=8, conns_outbound=8, conns=8, fd=4),
        _more_streams(128, 256, 256, 128 * _MIB, fd_fraction=1 / 64),
    ),
    conn=ScalingLimit(replace(NOTHING, conns=1, conns_inbound=1, conns_outbound=1, fd=1,
                              memory=32 * _MIB)),
    stream=_entry((1, 1, 1, 16 * _MIB)),
    service={name: each.service for name, each in _BUNDLED.items()},
    service_peer={name: each.service_peer for name, each in _BUNDLED.items()},
    protocol={name: _BUNDLED[service].protocol for name, service in SERVICES.items()},
    protocol_peer={name: _BUNDLED[service].protocol_peer for name, service in SERVICES.items()},
)
"""go-libp2p's table, with limits for the services of `SERVICES`."""


# -- this machine ------------------------------------------------------------------------------


def soft_fd_limit() -> int:
    """How many descriptors this process may have open now (soft RLIMIT_NOFILE).

    2**20 without a limit, and on Windows, where sockets are not descriptors.
    """
    if sys.platform == "win32":
        return UNLIMITED_FDS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED_FDS
    return min(soft, UNLIMITED_FDS)


def autoscale(
    limits: ScalingLimits = DEFAULT_LIMITS, *, memory: int | None = None, fds: int | None = None
) -> ConcreteLimits:
    """Limits for a machine of `memory` bytes whose processes may open `fds` descriptors.

    A node gets an eighth of the memory and half of the descriptors. The defaults are `total_memory`
    (of this machine or its container) and `soft_fd_limit`. Unknown memory counts as 0 bytes, which
    gives the smallest limits. ValueError: a number is negative.
    """
    memory = total_memory() or 0 if memory is None else memory
    fds = soft_fd_limit() if fds is None else fds
    check_limit("memory", memory)
    check_limit("fds", fds)
    return limits.scale(memory // 8, fds // 2)
