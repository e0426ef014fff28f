"""The lifecycle handler of a host, whose connections have scopes as well."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any, NoReturn

from rcmgr.admission.admission import Intake
from rcmgr.admission.lifecycle import ConnectionLifecycleManager
from rcmgr.counting.connection_tracker import ConnectionRecord, ConnectionTracker, Denial
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.groups import Refusal
from rcmgr.errors import ResourceLimitExceeded, ResourceScopeClosed
from rcmgr.gates.addresses import Allowlist, endpoint_of
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import AddressGate, AddressRefusal, NetworkShare
from rcmgr.limits.states import ConnectionLimits

__all__ = ["HostLifecycle"]


class HostLifecycle(ConnectionLifecycleManager):
    """Charges the scopes too, and knows which connections the swarm has a scope of already.

    What the lifecycle admits first (QUIC's connections) passes the limits on addresses here, and is
    left for `ResourceManager.open_connection` to take over.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        *,
        intake: Intake,
        denials: DenialLog,
        allowlist: Allowlist,
    ) -> None:
        self._intake = intake
        super().__init__(tracker, intake.limits, denials=denials)
        self.addresses: AddressGate | None = None
        self._allowlist = allowlist

    @property
    def _limits(self) -> ConnectionLimits:
        return self._intake.limits

    @_limits.setter
    def _limits(self, limits: ConnectionLimits) -> None:
        self._intake.limits = limits

    @property
    def memory_limits(self) -> MemoryConnectionLimits | None:
        return self._intake.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: MemoryConnectionLimits | None) -> None:
        self._intake.memory_limits = limits

    async def handle_pending_inbound_connection(
        self,
        connection_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
        peer_id: Hashable | None = None,
    ) -> None:
        self._begin(connection_id, peer_id, remote_addr, inbound=True)

    async def handle_pending_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        addresses: Collection[Any] = (),
        endpoint: Any = None,
    ) -> None:
        self._begin(connection_id, peer_id, None, inbound=False)

    async def handle_established_inbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
    ) -> None:
        if self._is_new(connection_id, peer_id, inbound=True):
            self._establish(connection_id, peer_id, remote_addr, inbound=True)
        else:
            await super().handle_established_inbound_connection(connection_id, peer_id)

    async def handle_established_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        endpoint: Any = None,
    ) -> None:
        if self._is_new(connection_id, peer_id, inbound=False):
            # the swarm gives the remote address as the local one
            self._establish(connection_id, peer_id, local_addr, inbound=False)
        else:
            await super().handle_established_outbound_connection(connection_id, peer_id)

    def _is_new(self, connection_id: Hashable, peer_id: Hashable, *, inbound: bool) -> bool:
        """False: reported twice, or in error: the tracker says which.

        The swarm makes ids of the addresses of objects, which are used again: then the connection
        that had the id before is gone.
        """
        record = self.tracker.get_connection(connection_id)
        if record is None or peer_id is None:
            return peer_id is not None
        if record.is_pending:
            return record.is_inbound == inbound
        tracker = self.tracker
        same = tracker.established_inbound if inbound else tracker.established_outbound
        if self._is_known(connection_id, peer_id, same):
            return False
        tracker.remove(record)
        return True

    def _begin(
        self, connection_id: Hashable, peer_id: Hashable | None, address: Any, *, inbound: bool
    ) -> None:
        before = self.tracker.get_connection(connection_id)
        if before is not None and before.is_pending and before.is_inbound == inbound:
            return
        exempt = self._is_exempt(peer_id, address)
        if not exempt and self.memory_limits is not None:
            self._check_memory(connection_id, peer_id, inbound)
        entered = None if exempt else self._enter(address, inbound)
        record = self._intake.charge_pending(connection_id, inbound, exempt, entered)
        if not isinstance(record, ConnectionRecord):
            self._refuse(record, connection_id, peer_id, inbound)

    def _establish(
        self, connection_id: Hashable, peer_id: Hashable, address: Any, *, inbound: bool
    ) -> None:
        established = self._intake.take_established(peer_id, inbound)
        if established is not None and self.tracker.rename(established, connection_id):
            return
        exempt = self._is_exempt(peer_id, address)
        entered = None
        pending = self.tracker.get_connection(connection_id)
        if pending is None:
            pending = self._intake.take_pending(inbound)
            if pending is not None:
                self.tracker.rename(pending, connection_id)
        if not exempt and not self._intake.came_from(pending):
            try:
                entered = self._enter(address, inbound)
            except ResourceLimitExceeded:
                if pending is not None:
                    self.tracker.remove(pending, True)
                raise
        record = self._intake.charge_peer(
            pending, connection_id, peer_id, inbound, exempt, entered)
        if not isinstance(record, ConnectionRecord):
            if pending is not None:
                self.tracker.remove(pending, True)
            self._refuse(record, connection_id, peer_id, inbound)
        self.tracker.rename(record, connection_id)  # the swarm knows it
        self._intake.offer_established(record)

    def _is_exempt(self, peer_id: Hashable | None, address: Any) -> bool:
        if not self._allowlist:
            return False
        if peer_id is None:
            return self._allowlist.allows_address(endpoint_of(str(address)).ip)
        return self._allowlist.allows_at(peer_id, address)

    def enter(self, address: Any, inbound: bool) -> NetworkShare | AddressRefusal | None:
        """Count a connection that is not exempt for its address; None: there is nothing to ask."""
        if self.addresses is None or address is None:
            return None
        entered = self.addresses.try_enter(str(address), inbound, exempt=False)
        if isinstance(entered, AddressRefusal):
            self.denials.add(entered, inbound=inbound)
        return entered

    def _enter(self, address: Any, inbound: bool) -> NetworkShare | None:
        entered = self.enter(address, inbound)
        if isinstance(entered, AddressRefusal):
            raise entered.to_error()
        return entered

    def _refuse(
        self,
        refusal: Denial | Refusal | None,
        connection_id: Hashable,
        peer_id: Hashable | None,
        inbound: bool,
    ) -> NoReturn:
        if refusal is None:  # another thread closed it
            raise ResourceScopeClosed(str(connection_id))
        self.denials.add(refusal, connection_id, peer_id, inbound)
        raise refusal.to_error(connection_id, peer_id)
