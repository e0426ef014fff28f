"""Give a host's streams scopes: transient until the protocol is negotiated, then of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rcmgr.errors import ScopeLimitExceeded
from rcmgr.libp2p.handlers import guard_handlers
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.limits import SERVICES
from rcmgr.manager import ResourceManager
from rcmgr.scope import Refusal, StreamScope

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["ScopedStreams", "scope_streams"]

# The stream that this task has been granted and the swarm has not opened yet.
_granted: ContextVar[StreamScope | None] = ContextVar("rcmgr_granted_stream", default=None)
# The swarm is giving back, in this task, a stream that had a scope (True) or none (False).
_closing: ContextVar[bool | None] = ContextVar("rcmgr_closing_stream", default=None)

_ATTRIBUTE = "_rcmgr_scope"


class _StreamManager:
    """The swarm's manager, with a scope for each stream instead of a count.

    The swarm acquires a stream, opens it and announces it in one task, and so the scope waits in a
    context variable until the stream is there.
    """

    def __init__(self, manager: ResourceManager) -> None:
        self._manager = manager
        self.scoping = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def acquire_stream(self, peer_id: Any, direction: Any) -> bool:
        if not self.scoping:
            return self._manager.acquire_stream(peer_id, direction)
        scope = self._manager.open_stream(peer_id, direction)
        _granted.set(scope)
        return scope is not None

    def release_stream(self, peer_id: Any, direction: Any) -> None:
        had_scope = _closing.get()
        granted = _granted.get()
        if had_scope is None and granted is not None:  # it could not be opened
            _granted.set(None)
            granted.close()
        elif not had_scope:  # acquired before there were scopes
            self._manager.release_stream(peer_id, direction)


def manager_of(swarm: Any) -> Any:
    """The resource manager of a swarm, whether its streams have scopes or not; None: it has none.
    """
    manager = getattr(swarm, "_resource_manager", None)
    return manager._manager if isinstance(manager, _StreamManager) else manager


class ScopedStreams:
    """What `scope_streams` put in place, until `undo`."""

    def __init__(
        self, host: IHost, manager: ResourceManager, services: Mapping[str, str]
    ) -> None:
        swarm: Any = host.get_network()
        if getattr(swarm, "_resource_manager", None) is not manager:
            raise Libp2pMismatch(
                f"{manager!r} is not the resource manager of {host!r}: give it to new_host first")
        self._swarm = swarm
        self._manager = manager
        self._services = services
        self._scoped_streams = 0
        self._in_use: list[Hook] = []
        try:
            for owner, attribute, make in (
                (swarm, "notify_opened_stream", self._opened),
                (swarm, "notify_closed_stream", self._closed),
                (host, "new_stream", self._new_stream),
            ):
                self._in_use.append(Hook(owner, attribute, make))
            self._guarding = guard_handlers(host, self._may_have)
        except BaseException:
            for hook in self._in_use:
                hook.undo()
            raise
        self._stand_in = swarm._resource_manager = _StreamManager(manager)

    def undo(self) -> None:
        """New streams are only counted again; those that have scopes keep them to their end."""
        self._stand_in.scoping = False
        self._guarding.undo()
        self._leave_if_unused()

    def _leave_if_unused(self) -> None:
        if self._stand_in.scoping or self._scoped_streams:
            return
        if self._swarm._resource_manager is self._stand_in:
            self._swarm._resource_manager = self._manager
        for hook in self._in_use:
            hook.undo()

    def _opened(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 3196, called by `SwarmConn._add_stream`."""

        async def notify_opened_stream(stream: Any) -> None:
            scope = _granted.get()
            if scope is not None:
                _granted.set(None)
                setattr(stream, _ATTRIBUTE, scope)
                self._scoped_streams += 1
            await original(stream)

        return notify_opened_stream

    def _closed(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 3219, where the swarm releases what it acquired."""

        async def notify_closed_stream(stream: Any) -> None:
            scope = getattr(stream, _ATTRIBUTE, None)
            if scope is not None and not scope.closed:
                scope.close()
                self._scoped_streams -= 1
            token = _closing.set(scope is not None)
            try:
                await original(stream)
            finally:
                _closing.reset(token)
                self._leave_if_unused()

        return notify_closed_stream

    def _may_have(self, protocol: Any, stream: Any) -> bool:
        return self._negotiated(protocol, stream) is None

    def _new_stream(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: host/basic_host.py line 899; the end of it knows the protocol."""

        async def new_stream(*args: Any, **kwargs: Any) -> Any:
            stream = await original(*args, **kwargs)
            refusal = self._negotiated(stream.get_protocol(), stream)
            if refusal is not None:
                await stream.reset()
                raise refusal
            return stream

        return new_stream

    def _negotiated(self, protocol: Any, stream: Any) -> ScopeLimitExceeded | None:
        """Charge the protocol and its service; None, or why not."""
        scope: StreamScope | None = getattr(stream, _ATTRIBUTE, None)
        if protocol is None or scope is None or scope.closed:
            return None
        taken: bool | Refusal = scope.try_set_protocol(str(protocol))
        service = self._services.get(protocol)
        if taken is True and service is not None:
            taken = scope.try_set_service(service)
        if isinstance(taken, Refusal):
            self._manager.denials.add(taken, None, scope.peer, scope.inbound)
            return taken.to_error(None, scope.peer)
        return None


def scope_streams(
    host: IHost, manager: ResourceManager, services: Mapping[str, str] = SERVICES
) -> ScopedStreams:
    """From now on, streams of this host are charged to protocols, services and peers.

    Stock py-libp2p only counts streams. With this, one that is opened counts as transient until its
    protocol is negotiated; then as the protocol's, the service's (`services`: by protocol) and the
    peer's. An inbound stream over one of their limits is reset; for an outbound one, `new_stream`
    raises the ScopeLimitExceeded. Streams that are there already stay as they are. About 1 us for a
    stream.

    manager: the one that the host was made with. Libp2pMismatch: it is another one, or the host is
    not as in libp2p 0.8.1; then nothing has changed.
    """
    return ScopedStreams(host, manager, services)
