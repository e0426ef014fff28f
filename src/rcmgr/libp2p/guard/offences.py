"""Charge what peers do in py-libp2p to the penalty box of the manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rcmgr.gates.penalties import Offence, Penalties
from rcmgr.libp2p.hooks import Hook

__all__ = ["charge", "charge_silent_streams"]


def charge(connection: Any, offence: Offence) -> None:
    """Charge an offence to the peer and the address of a muxed connection.

    Nothing happens if its manager has no penalty box.
    """
    scope = getattr(connection, "_resource_scope", None)  # libp2p 0.8.1: network/swarm.py line 2237
    penalties: Penalties | None = getattr(
        getattr(scope, "resource_manager", None), "penalties", None)
    if penalties is None:
        return
    address = connection.get_remote_address()
    penalties.charge(offence, connection.peer_id, None if address is None else str(address[0]))


def charge_silent_streams(host: Any) -> Hook:
    """Charge streams whose peer names no protocol in time, until `undo`."""

    async def negotiating(
        original: Callable[..., Awaitable[Any]], communicator: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """libp2p 0.8.1: protocol_muxer/multiselect.py line 63; line 117 is the time-out."""
        from libp2p.protocol_muxer.exceptions import MultiselectError

        try:
            return await original(communicator, *args, **kwargs)
        except MultiselectError as error:
            if str(error) == "handshake read timeout":
                charge(communicator.read_writer.muxed_conn, Offence.NO_PROTOCOL)
            raise

    return Hook(host.multiselect, "negotiate", negotiating)
