"""Make the inbound streams of a host pass the rate limiters of their protocols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["LimitedProtocols", "limit_protocols"]

Handler = Callable[[Any], Awaitable[None]]


class LimitedProtocols(dict[Any, Any]):
    """The host's table of stream handlers, with those of limited protocols guarded.

    Stands in for `host.multiselect.handlers` (libp2p 0.8.1: protocol_muxer/multiselect.py line 42,
    read there by `negotiate`), so that handlers set before and after are covered alike.
    """

    def __init__(
        self, handlers: MutableMapping[Any, Any], manager: ResourceManager, host: IHost
    ) -> None:
        super().__init__(handlers)
        self._manager = manager
        self._host = host

    def __getitem__(self, protocol: Any) -> Any:
        handler = super().__getitem__(protocol)
        if handler is None or protocol not in self._manager.protocol_rate_limiters:
            return handler
        return self._guarded(protocol, handler)

    def get(self, protocol: Any, default: Any = None) -> Any:
        return self[protocol] if protocol in self else default  # noqa: SIM401 (this is it)

    def undo(self) -> None:
        """Give the host a plain table again, with the handlers it has by now."""
        self._host.multiselect.handlers = dict(self)  # type: ignore[attr-defined]

    def _guarded(self, protocol: Any, handler: Handler) -> Handler:
        async def guarded(stream: Any) -> None:
            peer_id = stream.muxed_conn.peer_id
            if self._manager.check_protocol_rate_limit(protocol, peer_id, "stream"):
                await handler(stream)
            else:
                await stream.reset()

        return guarded


def limit_protocols(host: IHost, manager: ResourceManager) -> LimitedProtocols:
    """From now on, inbound streams of this host pass their protocol's limiter in `manager`.

    A stream over the limit is reset, its slot given back, its handler not called; the connection
    stays. The operation asked for is "stream". Limiters may be added to the manager before or
    after, and so may handlers to the host. Returns the table in place, whose `undo` takes it back.

    TypeError: the host has no table of handlers as libp2p 0.8.1's has.
    """
    multiselect = getattr(host, "multiselect", None)
    handlers = getattr(multiselect, "handlers", None)
    if multiselect is None or not isinstance(handlers, dict):
        raise TypeError(
            f"{host!r} has no multiselect.handlers: this needs a host of libp2p 0.8.1")
    if isinstance(handlers, LimitedProtocols):
        handlers.undo()
        handlers = multiselect.handlers
    limited = LimitedProtocols(handlers, manager, host)
    multiselect.handlers = limited
    return limited
