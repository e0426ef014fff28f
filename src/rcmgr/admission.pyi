from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, final

from typing_extensions import disjoint_base

from rcmgr.address_limits import Entered
from rcmgr.addresses import Allowlist
from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_tracker import ConnectionRecord, ConnectionTracker, Denial
from rcmgr.denials import DenialLog
from rcmgr.scope import ConnScope, Ledger, Refusal

__all__ = [
    "Admission",
    "ConnectionScope",
    "Handover",
    "charge_peer",
    "charge_pending",
    "is_inbound",
]

def is_inbound(direction: Any) -> bool: ...
@final
class Handover:
    def __init__(self, tracker: ConnectionTracker) -> None: ...
    def offer_pending(self, record: ConnectionRecord) -> None: ...
    def take_pending(self, inbound: bool) -> ConnectionRecord | None: ...
    def offer_established(self, record: ConnectionRecord) -> None: ...
    def take_established(
        self, peer_id: Hashable, inbound: bool, claimed: bool
    ) -> ConnectionRecord | None: ...

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

def charge_pending(
    admit: Callable[..., ConnectionRecord | Denial],
    open_scope: Callable[..., ConnScope | Refusal],
    connection_id: Hashable,
    inbound: bool,
    limits: ConnectionLimits,
    exempt: bool,
    entered: Entered | None,
) -> ConnectionRecord | Denial | Refusal: ...
def charge_peer(
    admit: Callable[..., ConnectionRecord | Denial],
    open_scope: Callable[..., ConnScope | Refusal],
    pending: ConnectionRecord | None,
    connection_id: Hashable,
    peer: Hashable,
    inbound: bool,
    limits: ConnectionLimits,
    exempt: bool,
    entered: Entered | None,
) -> ConnectionRecord | Denial | Refusal | None: ...
@disjoint_base
class Admission:
    def __init__(
        self,
        tracker: ConnectionTracker,
        lifecycle: ConnectionLifecycleManager,
        ledger: Ledger,
        allowlist: Allowlist,
        denials: DenialLog,
        handover: Handover,
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
    _asks_peers: bool
    def open_connection(
        self,
        peer_id: Hashable | None = None,
        endpoint_ip: str | None = None,
        direction: Any = "inbound",
    ) -> ConnectionScope | None: ...
    def acquire_stream(self, peer_id: Hashable, direction: Any) -> bool: ...
    def release_stream(self, peer_id: Hashable, direction: Any) -> None: ...
    def _close(self) -> None: ...
    def _noop(self) -> None: ...
