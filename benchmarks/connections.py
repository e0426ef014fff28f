"""The work that ratios.py measures: the same on rcmgr and on libp2p.rcmgr 0.8.1.

Each workload is a class. `__init__(size)` builds a node with `size` other connections, and `run(n)`
performs n operations. `implementation` and `operation` name the workload.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from libp2p.peer.id import ID

from benchmarks.timing import drive, peer_ids

OPERATIONS = 1_000


def rcmgr_limits(size: int) -> Any:
    from rcmgr import ConnectionLimits

    return ConnectionLimits(**limit_values(size))


def upstream_limits(size: int) -> Any:
    from libp2p.rcmgr.connection_limits import ConnectionLimits

    return ConnectionLimits(**limit_values(size))


def limit_values(size: int) -> dict[str, int]:
    """Limits of all kinds that the workloads do not reach."""
    return {
        "max_pending_inbound": size + OPERATIONS,
        "max_pending_outbound": size + OPERATIONS,
        "max_established_inbound": size + OPERATIONS,
        "max_established_outbound": size + OPERATIONS,
        "max_established_per_peer": 1_000,
        "max_established_total": size + OPERATIONS,
    }


@cache
def identities(count: int, tag: str) -> tuple[list[str], list[ID]]:
    """Connection ids as the swarm makes them, and peer ids of the usual length."""
    draw = random.Random(tag)
    start = 140_000_000_000_000 if tag == "measured" else 150_000_000_000_000
    return (
        [str(start + 16 * i) for i in draw.sample(range(10_000_000), count)],
        peer_ids(count, f"peers of {tag}"),
    )


class RcmgrTracker:
    """pending -> established -> removed, each step with all limits applied."""

    implementation = "rcmgr"
    operation = "tracker cycle"

    def __init__(self, size: int) -> None:
        from rcmgr import ConnectionTracker

        self.tracker = ConnectionTracker()
        self.limits = rcmgr_limits(size)
        self.others = identities(size, "others")
        self.ids, self.peers = identities(OPERATIONS, "measured")
        for connection_id, peer in zip(*self.others, strict=True):
            self.tracker.admit_established_inbound(connection_id, peer, self.limits)

    def run(self, n: int) -> None:
        pend = self.tracker.admit_pending_inbound
        establish = self.tracker.admit_established_inbound
        remove = self.tracker.remove_connection
        limits = self.limits
        for connection_id, peer in zip(self.ids[:n], self.peers[:n], strict=True):
            pend(connection_id, limits)
            establish(connection_id, peer, limits)
            remove(connection_id, peer)


class UpstreamTracker:
    """The same three steps. This tracker applies no limits."""

    implementation = "libp2p.rcmgr"
    operation = "tracker cycle"

    def __init__(self, size: int) -> None:
        self.tracker = self._tracker(size)
        self.others = identities(size, "others")
        self.ids, self.peers = identities(OPERATIONS, "measured")
        for connection_id, peer in zip(*self.others, strict=True):
            self.tracker.move_to_established_inbound(connection_id, peer)

    def run(self, n: int) -> None:
        pend = self.tracker.add_pending_inbound
        establish = self.tracker.move_to_established_inbound
        remove = self.tracker.remove_connection
        for connection_id, peer in zip(self.ids[:n], self.peers[:n], strict=True):
            pend(connection_id)
            establish(connection_id, peer)
            remove(connection_id, peer)

    def _tracker(self, size: int) -> Any:
        from libp2p.rcmgr.connection_tracker import ConnectionTracker

        return ConnectionTracker(upstream_limits(size))


class InstalledTracker(UpstreamTracker):
    """The same three steps on the class that `rcmgr.install()` puts in place of py-libp2p's."""

    implementation = "rcmgr, installed"
    operation = "installed tracker cycle"

    def _tracker(self, size: int) -> Any:
        from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
        from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

        return ConnectionTracker(ConnectionLimits(**limit_values(size)))


class _Lifecycle:
    operation = "lifecycle cycle"
    lifecycle: Any

    def _fill(self, size: int) -> None:
        self.others = identities(size, "others")
        self.ids, self.peers = identities(OPERATIONS, "measured")
        for connection_id, peer in zip(*self.others, strict=True):
            drive(
                self.lifecycle.handle_established_inbound_connection(
                    connection_id, peer, None, None
                )
            )

    def run(self, n: int) -> None:
        drive(self._connect_and_close(n))

    async def _connect_and_close(self, n: int) -> None:
        pend = self.lifecycle.handle_pending_inbound_connection
        establish = self.lifecycle.handle_established_inbound_connection
        close = self.lifecycle.handle_connection_closed
        for connection_id, peer in zip(self.ids[:n], self.peers[:n], strict=True):
            await pend(connection_id, None, None)
            await establish(connection_id, peer, None, None)
            await close(connection_id, peer)


class RcmgrLifecycle(_Lifecycle):
    implementation = "rcmgr"

    def __init__(self, size: int) -> None:
        from rcmgr import ConnectionLifecycleManager, ConnectionTracker

        self.lifecycle = ConnectionLifecycleManager(ConnectionTracker(), rcmgr_limits(size))
        self._fill(size)


class UpstreamLifecycle(_Lifecycle):
    implementation = "libp2p.rcmgr"

    def __init__(self, size: int) -> None:
        from libp2p.rcmgr.connection_lifecycle import ConnectionLifecycleManager
        from libp2p.rcmgr.connection_tracker import ConnectionTracker

        limits = upstream_limits(size)
        self.lifecycle = ConnectionLifecycleManager(ConnectionTracker(limits), limits)
        self._fill(size)


class InstalledLifecycle(_Lifecycle):
    implementation = "rcmgr, installed"
    operation = "installed lifecycle cycle"

    def __init__(self, size: int) -> None:
        from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
        from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
        from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

        limits = ConnectionLimits(**limit_values(size))
        self.lifecycle = ConnectionLifecycleManager(ConnectionTracker(limits), limits)
        self._fill(size)


class _Reconcile:
    operation = "reconcile"
    lifecycle: Any
    others: tuple[list[str], list[ID]]

    def run(self, n: int) -> None:
        reconcile = self.lifecycle.reconcile_live_connections
        for _ in range(n):
            reconcile(self.live)

    def _go_live(self) -> None:
        self.live = set(self.others[0])
        self.lifecycle.reconcile_live_connections(self.live)


class RcmgrReconcile(_Reconcile, RcmgrLifecycle):
    """The swarm's reconciliation at every new connection, without stale connections."""

    operation = "reconcile"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._go_live()


class UpstreamReconcile(_Reconcile, UpstreamLifecycle):
    operation = "reconcile"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._go_live()


class _Manager:
    operation = "manager cycle"
    manager: Any

    def _fill(self, size: int) -> None:
        self.others = identities(size, "others")
        self.ids, self.peers = identities(OPERATIONS, "measured")
        lifecycle = self.manager.connection_lifecycle
        for connection_id, peer in zip(*self.others, strict=True):
            drive(
                lifecycle.handle_established_inbound_connection(connection_id, peer, None, None)
            )

    def run(self, n: int) -> None:
        drive(self._connect_and_close(n))

    async def _connect_and_close(self, n: int) -> None:
        """The swarm's calls for one TCP connection, in its order."""
        manager = self.manager
        lifecycle = manager.connection_lifecycle
        for connection_id, peer in zip(self.ids[:n], self.peers[:n], strict=True):
            before = manager.open_connection(None, endpoint_ip="192.0.2.1", direction="inbound")
            scope = manager.open_connection(peer, endpoint_ip="192.0.2.1", direction="inbound")
            before.close()
            await lifecycle.handle_established_inbound_connection(connection_id, peer, None, None)
            scope.close()
            lifecycle.notify_connection_closed(connection_id, peer)


class RcmgrManager(_Manager):
    implementation = "rcmgr"

    def __init__(self, size: int) -> None:
        from rcmgr import ResourceLimits, ResourceManager

        self.manager = ResourceManager(
            ResourceLimits(max_connections=size + OPERATIONS), connection_limits=rcmgr_limits(size)
        )
        self._fill(size)


class UpstreamManager(_Manager):
    implementation = "libp2p.rcmgr"

    def __init__(self, size: int) -> None:
        from libp2p.rcmgr import ResourceLimits, ResourceManager

        self.manager = ResourceManager(
            ResourceLimits(max_connections=size + OPERATIONS),
            connection_limits=upstream_limits(size),
            enable_rate_limiting=False,
        )
        self._fill(size)


PAIRS = [
    (RcmgrTracker, UpstreamTracker),
    (RcmgrLifecycle, UpstreamLifecycle),
    (RcmgrManager, UpstreamManager),
    (RcmgrReconcile, UpstreamReconcile),
    (InstalledTracker, UpstreamTracker),
    (InstalledLifecycle, UpstreamLifecycle),
]
