"""All limits of a node in one tree.

A field of `NodeLimits` with a `_section` is a section of a limits file: its name in the file, and
the dataclass of its values. `rcmgr.limits.files` reads and writes it by that declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from rcmgr.limits.dry_run import DryRun
from rcmgr.limits.eviction import Eviction
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.penalties import PenaltyBox
from rcmgr.limits.rates import PeerRates
from rcmgr.limits.scopes import ConcreteLimits, autoscale
from rcmgr.limits.states import ConnectionLimits

__all__ = ["INFINITE_LIMITS", "SECTIONS", "NodeLimits", "Section"]

_NO_SCOPE_LIMITS: Final = ConcreteLimits()


def _section(key: str, kind: type[Any]) -> dict[str, Any]:
    return {"key": key, "kind": kind}


@suggests_arguments
@dataclass(frozen=True, slots=True)
class NodeLimits:
    """All limits of a node.

    scopes: streams, connections, descriptors and memory of the node, peers, protocols, services.
    connections: connections by state. memory: of the whole process.
    subnets: connections of one network; None: no limit.
    rates: how often one network may connect; None: no limit.
    peer_rates: how often one peer may connect; None: no limit.
    penalties: when offenders are banned; None: never.
    eviction: how a full node makes room for newcomers. The word "off" or "on" may stand for it.
    fleet: limits on all nodes of a fleet together; None: no limit.
    dry_run: the limits that report what they would refuse, and refuse nothing. "on": every limit.

    TypeError: a field has a value of a wrong type.
    """

    scopes: ConcreteLimits = _NO_SCOPE_LIMITS
    connections: ConnectionLimits = field(
        default_factory=ConnectionLimits, metadata=_section("Connections", ConnectionLimits))
    memory: ProcessMemoryLimits = field(
        default_factory=ProcessMemoryLimits,
        metadata=_section("ProcessMemory", ProcessMemoryLimits))
    subnets: SubnetLimits | None = field(
        default=None, metadata=_section("Subnets", SubnetLimits))
    rates: AddressRates | None = field(default=None, metadata=_section("Rates", AddressRates))
    peer_rates: PeerRates | None = field(default=None, metadata=_section("PeerRates", PeerRates))
    penalties: PenaltyBox | None = field(
        default=None, metadata=_section("PenaltyBox", PenaltyBox))
    eviction: Eviction = field(
        default_factory=Eviction, metadata=_section("Eviction", Eviction))
    fleet: FleetLimits | None = field(default=None, metadata=_section("Fleet", FleetLimits))
    dry_run: DryRun = field(default_factory=DryRun, metadata=_section("DryRun", DryRun))

    def __post_init__(self) -> None:
        for name, kind in (("eviction", Eviction), ("dry_run", DryRun)):
            word: object = getattr(self, name)
            if isinstance(word, str) and word in kind.WORDS:
                object.__setattr__(self, name, kind(**kind.WORDS[word]))
        if not isinstance(self.scopes, ConcreteLimits):
            raise TypeError(f"scopes must be a ConcreteLimits, not {self.scopes!r}")
        for section in SECTIONS:
            section.check(getattr(self, section.name))

    @classmethod
    def default(cls, *, memory: int | None = None, fds: int | None = None) -> NodeLimits:
        """Scaled for a machine; see `autoscale`. Limits on addresses are those of go-libp2p.

        Offenders are banned for a time; see `PenaltyBox`.
        """
        return cls(
            autoscale(memory=memory, fds=fds), subnets=SubnetLimits(), rates=AddressRates(),
            penalties=PenaltyBox(),
        )


class Section(NamedTuple):
    """A field of `NodeLimits` that is a section of a limits file."""

    name: str
    """The field of `NodeLimits`."""
    key: str
    """Its name in a file."""
    kind: type[Any]
    optional: bool
    """Whether it may be None: no limit. A file contains an optional section whole, and only the
    values of other sections that differ."""

    def check(self, value: object) -> None:
        if isinstance(value, self.kind) or (value is None and self.optional):
            return
        none = " or None (no limit)" if self.optional else ""
        raise TypeError(f"{self.name} must be a {self.kind.__name__}{none}, not {value!r}")


SECTIONS: Final = tuple(
    Section(each.name, optional=each.default is None, **each.metadata)
    for each in fields(NodeLimits) if each.metadata
)

INFINITE_LIMITS: Final = NodeLimits()
"""No limit on anything, addresses included."""
