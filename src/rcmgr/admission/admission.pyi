from collections.abc import Hashable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, final

from typing_extensions import disjoint_base

from rcmgr.admission.lifecycle import ConnectionLifecycleManager
from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.connection_tracker import ConnectionRecord, ConnectionTracker, Denial
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import Ledger
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import NetworkShare
from rcmgr.limits.states import ConnectionLimits

__all__ = [
    "Admission",
    "ConnectionScope",
    "Intake",
    "accepted",
    "is_inbound",
]

accepted: ContextVar[ConnectionScope | None]

def is_inbound(direction: Any) -> bool: ...
@final
class Intake:
    limits: ConnectionLimits
    memory_limits: MemoryConnectionLimits | None
    def __init__(
        self, tracker: ConnectionTracker, ledger: Ledger, limits: ConnectionLimits
    ) -> None: ...
    def charge_pending(
        self,
        connection_id: Hashable | None,
        inbound: bool,
        exempt: bool,
        entered: NetworkShare | None,
    ) -> ConnectionRecord | Denial | Refusal: ...
    def charge_peer(
        self,
        pending: ConnectionRecord | None,
        connection_id: Hashable | None,
        peer: Hashable,
        inbound: bool,
        exempt: bool,
        entered: NetworkShare | None,
    ) -> ConnectionRecord | Denial | Refusal | None: ...
    def came_from(self, pending: ConnectionRecord | None) -> bool: ...
    def take_pending(self, inbound: bool) -> ConnectionRecord | None: ...
    def offer_established(self, record: ConnectionRecord) -> None: ...
    def take_established(self, peer_id: Hashable, inbound: bool) -> ConnectionRecord | None: ...

@final
class ConnectionScope:
    def __init__(
        self, tracker: ConnectionTracker, record: ConnectionRecord, *, only_pending: bool
    ) -> None: ...
    @property
    def connection_id(self) -> Hashable: ...
    @property
    def peer_id(self) -> Hashable | None: ...
    @property
    def resource_manager(self) -> Admission | None: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> ConnectionScope: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __del__(self) -> None: ...

@disjoint_base
class Admission:
    def __init__(
        self,
        tracker: ConnectionTracker,
        lifecycle: ConnectionLifecycleManager,
        ledger: Ledger,
        allowlist: Allowlist,
        denials: DenialLog,
        intake: Intake,
    ) -> None: ...
    @property
    def connection_tracker(self) -> ConnectionTracker: ...
    @property
    def connection_lifecycle(self) -> ConnectionLifecycleManager: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def allowlist(self) -> Allowlist: ...
    @property
    def denials(self) -> DenialLog: ...
    @property
    def closed(self) -> bool: ...
    _asks_addresses: bool
    _peer_rates: BucketTable | None
    _takes_any_peer: bool
    def open_connection(
        self,
        peer_id: Hashable | None = None,
        endpoint_ip: str | None = None,
        direction: Any = "inbound",
    ) -> ConnectionScope | None: ...
    def acquire_connection(
        self, peer_id: Hashable = "", endpoint_ip: str | None = None, direction: Any = "inbound"
    ) -> bool: ...
    def release_connection(
        self, peer_id: Hashable = "", endpoint_ip: str | None = None, direction: Any = "inbound"
    ) -> None: ...
    def is_exempt_peer(self, peer_id: Hashable) -> bool: ...
    def accept_connection(self, endpoint_ip: str | None = None) -> ConnectionScope | None: ...
    def acquire_stream(self, peer_id: Hashable, direction: Any) -> bool: ...
    def release_stream(self, peer_id: Hashable, direction: Any) -> None: ...
    def _close(self) -> None: ...
    def _noop(self) -> None: ...
