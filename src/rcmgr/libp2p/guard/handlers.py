"""Guards that decide whether a stream reaches its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from rcmgr.gates.requests import STREAM
from rcmgr.libp2p.guard.reset_codes import ResetCode, name_refusal
from rcmgr.libp2p.hooks import Libp2pMismatch
from rcmgr.libp2p.observe.socket_addresses import addresses_of
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["Guarding", "guard_handlers", "limit_protocols"]

Handler = Callable[[Any], Awaitable[None]]
# protocol, stream: whether the handler may have the stream
Guard = Callable[[Any, Any], bool]


class GuardedHandlers(dict[Any, Any]):
    """The host's table of stream handlers, which asks guards before a handler gets a stream.

    It stands in for `host.multiselect.handlers` (libp2p 0.8.1: protocol_muxer/multiselect.py line
    42, which `negotiate` reads). So it covers handlers that a program sets before and after.
    """

    def __init__(self, handlers: MutableMapping[Any, Any]) -> None:
        super().__init__(handlers)
        self.guards: tuple[Guard, ...] = ()

    def __getitem__(self, protocol: Any) -> Any:
        handler = super().__getitem__(protocol)
        return None if handler is None else self._guarded(protocol, handler)

    def get(self, protocol: Any, default: Any = None) -> Any:
        return self[protocol] if protocol in self else default  # noqa: SIM401 (this is it)

    def _guarded(self, protocol: Any, handler: Handler) -> Handler:
        guards = self.guards

        async def guarded(stream: Any) -> None:
            if all(guard(protocol, stream) for guard in guards):
                await handler(stream)
            else:
                await stream.reset()

        return guarded


class Guarding:
    """A guard, in place until `undo`."""

    def __init__(self, multiselect: Any, guard: Guard) -> None:
        self._multiselect = multiselect
        self._guard = guard

    def undo(self) -> None:
        """Stop asking this guard. The last one to go leaves a plain table with the handlers."""
        handlers = self._multiselect.handlers
        if not isinstance(handlers, GuardedHandlers):
            return
        handlers.guards = tuple(guard for guard in handlers.guards if guard is not self._guard)
        if not handlers.guards:
            self._multiselect.handlers = dict(handlers.items())


def guard_handlers(host: IHost, guard: Guard) -> Guarding:
    """Ask `guard(protocol, stream)` whether an inbound stream may reach its handler.

    The host resets a refused stream, which gives its slot back. The connection stays. The host asks
    several guards in the order of these calls. Libp2pMismatch: it has no table of handlers like
    libp2p 0.8.1's.
    """
    multiselect = getattr(host, "multiselect", None)
    handlers = getattr(multiselect, "handlers", None)
    if multiselect is None or not isinstance(handlers, dict):
        raise Libp2pMismatch(
            f"{host!r} has no multiselect.handlers: this needs a host of libp2p 0.8.1")
    if not isinstance(handlers, GuardedHandlers):
        handlers = multiselect.handlers = GuardedHandlers(handlers)
    handlers.guards = (*handlers.guards, guard)
    return Guarding(multiselect, guard)


def limit_protocols(host: IHost, manager: ResourceManager) -> Guarding:
    """Ask the protocol's rate limiter in `manager` about every inbound stream of this host.

    The host resets a stream above the rate; see `guard_handlers`. The operation is "stream", which
    has its own bucket for each peer: a stream does not cost a request. A limiter with `networks`
    also limits all peers of one network together, unless they come through a relay. A program may
    add limiters and handlers at any time.
    """

    def guard(protocol: Any, stream: Any) -> bool:
        limiter = manager.protocol_rate_limiters.get(protocol)
        if limiter is None:
            return True
        connection = stream.muxed_conn
        address = None if limiter.networks is None else addresses_of(connection, None).remote
        if limiter.check_peer_rate_limit(connection.peer_id, STREAM, address):
            return True
        name_refusal(ResetCode.RATE_LIMITED)
        return False

    return guard_handlers(host, guard)
