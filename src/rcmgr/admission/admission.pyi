from collections.abc import Hashable
from typing import Any, Literal, final

from rcmgr.admission.room import Room
from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.connection_tracker import ConnectionRecord, ConnectionTracker, Denial
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.groups import Refusal
from rcmgr.counting.leases import FleetGate
from rcmgr.counting.scope import ConnScope, Ledger
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.bans import BanRefusal, Bans
from rcmgr.gates.fleet import FleetRefusal
from rcmgr.gates.memory import MemoryConnectionLimits, MemoryExcess
from rcmgr.gates.networks import AddressGate, AddressRefusal
from rcmgr.gates.requests import RateRefusal
from rcmgr.limits.states import ConnectionLimits

__all__ = ["Admission"]

_Answer = (
    ConnectionRecord | Denial | Refusal | AddressRefusal | RateRefusal | MemoryExcess | BanRefusal
    | FleetRefusal
)

@final
class Admission:
    limits: ConnectionLimits
    only_reporting: frozenset[str]
    memory_limits: MemoryConnectionLimits | None
    addresses: AddressGate | None
    fleet: FleetGate | None
    peer_rates: BucketTable | None
    peer_rate_refusal: RateRefusal | None
    def __new__(
        cls,
        tracker: ConnectionTracker,
        denials: DenialLog,
        *,
        would_deny: DenialLog | None = None,
        ledger: Ledger | None = None,
        allowlist: Allowlist | None = None,
        bans: Bans | None = None,
        reuses_ids: bool = False,
    ) -> Admission: ...
    def ask(
        self, steps: int, known: ConnectionRecord | None, peer: Hashable | None, inbound: bool,
        address: object = None,
    ) -> _Answer | ConnScope: ...
    @property
    def tracker(self) -> ConnectionTracker: ...
    @property
    def ledger(self) -> Ledger | None: ...
    @property
    def denials(self) -> DenialLog: ...
    @property
    def would_deny(self) -> DenialLog: ...
    def only_reports(self, code: str) -> bool: ...
    @property
    def enforced_limits(self) -> ConnectionLimits: ...
    @property
    def room(self) -> Room: ...
    @property
    def refused_for_memory(self) -> int: ...
    @property
    def refused_by_peer_rate(self) -> int: ...
    def report_pending(
        self, connection_id: Hashable, peer: Hashable | None, inbound: bool, address: Any = None
    ) -> _Answer: ...
    def report_established(
        self, connection_id: Hashable, peer: Hashable, inbound: bool, address: Any = None
    ) -> _Answer: ...
    def has_place_for_handshake(self, address: Any) -> bool: ...
    def scope_refusing_handshake(self, inbound: bool) -> Refusal | None: ...
    def ask_process_memory(self) -> Literal[True] | MemoryExcess: ...
    def is_exempt_peer(self, peer: Hashable) -> bool: ...
    def refusal_of_stream(self, peer: Hashable) -> FleetRefusal | None: ...
