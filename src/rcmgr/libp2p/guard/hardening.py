"""Close the holes of libp2p 0.8.1 that a resource manager alone cannot close."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.guard.accept_gate import gate_accepts
from rcmgr.libp2p.guard.allowed_peers import admit_allowed_peers
from rcmgr.libp2p.guard.bounded_muxers import bounded_muxers
from rcmgr.libp2p.guard.handler_errors import contain_handler_errors
from rcmgr.libp2p.guard.inbound_slots import free_inbound_slots
from rcmgr.libp2p.guard.offences import charge_silent_streams
from rcmgr.libp2p.guard.paced_dials import pace_dials
from rcmgr.libp2p.guard.quic_listeners import single_refusals
from rcmgr.libp2p.guard.quic_retry import quic_retries
from rcmgr.libp2p.guard.quic_shares import quic_shares
from rcmgr.libp2p.guard.remote_addresses import report_remote_addresses
from rcmgr.libp2p.guard.stream_limits import limit_streams
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, Undo, place_all
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["Hardening", "harden"]

_ATTRIBUTE = "_rcmgr_hardening"


class Hardening:
    """The hooks of `harden`, in place until `undo`."""

    def __init__(self, host: IHost) -> None:
        self._host = host
        self._swarm: Any = host.get_network()
        self._undo = place_all(self._placing())
        setattr(self._swarm, _ATTRIBUTE, self)

    def undo(self) -> None:
        """Put everything back. A second call does nothing.

        Existing connections give their slots back as in libp2p: at the swarm's end.
        """
        self._undo()
        if getattr(self._swarm, _ATTRIBUTE, None) is self:
            delattr(self._swarm, _ATTRIBUTE)

    def _placing(self) -> Iterator[Undo]:
        yield report_remote_addresses().undo
        yield bounded_muxers.use()
        yield single_refusals.use()
        yield quic_retries.use()
        yield quic_shares.use()
        yield gate_accepts(self._swarm)
        yield admit_allowed_peers(self._swarm)
        yield free_inbound_slots(self._swarm)
        yield contain_handler_errors(self._swarm).undo
        yield charge_silent_streams(self._host).undo
        yield pace_dials(self._swarm).undo
        yield Hook(self._swarm, "set_resource_manager", self._changing_managers).undo
        manager = manager_of(self._swarm)
        if not isinstance(manager, ResourceManager):
            raise Libp2pMismatch(
                f"{self._host!r} is not guarded by a rcmgr.ResourceManager, but by {manager!r}")
        self._release_streams = limit_streams(self._host, manager)
        yield lambda: self._release_streams()  # that of the latest manager

    def _changing_managers(
        self, original: Callable[..., None], manager: Any, *args: Any, **kwargs: Any
    ) -> None:
        """libp2p 0.8.1: network/swarm.py line 362."""
        self._release_streams()
        original(manager, *args, **kwargs)
        if isinstance(manager, ResourceManager):
            self._release_streams = limit_streams(self._host, manager)


def harden(host: IHost) -> Hardening:
    """Close what libp2p 0.8.1 leaves open in this host:

    * A stream above `max_streams` is reset. In a stock host it waits, and a peer can make any
      number of streams wait. One stream in eight is kept for those that the host opens, unless the
      limits let fewer inbound streams than streams be open. One peer has at most half of the
      inbound streams, unless the limits of a peer are as low as those of all.
    * An inbound connection gives its slot back when it ends. A stock host accepts 250 inbound
      connections in its lifetime.
    * Peers on the allowlist get past the swarm's own limits: 250 inbound connections, 300 in total,
      and the pruner.
    * An inbound QUIC connection that is refused counts as one denial, not as two. A peer must prove
      its address first (Retry), if `ResourceManager.verify_source_address` says so.
    * A TCP connection is refused when it is accepted. Py-libp2p has not made a stream, a task and a
      multiaddr by then. `install()` does this by itself.
    * Streams have scopes (`scope_streams`). A stream that is reset at once loses no slot.
    * Connections over IPv6 and WebSocket have addresses, and relayed ones do not have their relay's
      (`report_remote_addresses`). QUIC works over IPv6. This affects all hosts of the process.
    * Dials of the host wait for room, so that a burst of `connect()` is paced and not denied.
    * The penalty box of the manager, if it has one, charges streams without a protocol and data
      beyond a window.
    * Muxers drop streams that were refused, reset, or closed by their handler. A peer that sends
      more than its window loses the connection. This affects all hosts of the process.
    * An error in the handler of a stream is logged and ends this stream. It ends a stock host.

    It is off by default, and `undo` removes every hook. They stay if the host gets another manager
    of ours. A second call for the same host returns the same result.
    Libp2pMismatch: the host is not as in libp2p 0.8.1, or has no manager of ours. Then nothing has
    changed.
    """
    in_place: Hardening | None = getattr(host.get_network(), _ATTRIBUTE, None)
    return Hardening(host) if in_place is None else in_place
