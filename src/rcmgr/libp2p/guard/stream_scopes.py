"""Give a host's streams scopes: transient until the protocol is negotiated, then of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rcmgr.counting.scope import Refusal, StreamScope
from rcmgr.errors import ScopeLimitExceeded
from rcmgr.libp2p.guard.handlers import guard_handlers
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.limits.scopes import SERVICES
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    import trio
    from libp2p.abc import IHost

__all__ = ["ScopedStreams", "scope_streams"]

_ATTRIBUTE = "_rcmgr_granted"


class _Granted:
    """A stream that the swarm may have."""

    __slots__ = ("owner", "scope", "semaphore", "task")

    def __init__(
        self, owner: ScopedStreams, scope: StreamScope, semaphore: trio.Semaphore | None
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.semaphore = semaphore  # of the swarm, with a permit for the stream
        self.task: trio.lowlevel.Task | None = None  # that is to open it


# The last stream that a task was granted. Tasks that it starts inherit the value.
_granted: ContextVar[_Granted | None] = ContextVar("rcmgr_granted_stream", default=None)


class _StreamManager:
    """The swarm's manager, with a scope for each stream instead of a count.

    The swarm acquires a stream, opens it and announces it in one task, and so the scope waits in a
    context variable until the stream is there.
    """

    def __init__(self, manager: ResourceManager, scoped: ScopedStreams) -> None:
        self._manager = manager
        self.scoped = scoped
        self.scoping = True

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """To those who ask `isinstance`, it is the manager."""
        return type(self._manager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def acquire_stream(self, peer_id: Any, direction: Any) -> bool:
        if not self.scoping:
            return self._manager.acquire_stream(peer_id, direction)
        return self.scoped.grant(peer_id, direction)

    def release_stream(self, peer_id: Any, direction: Any) -> None:
        granted = self.scoped.take_granted()
        if granted is not None:  # it could not be opened
            self.scoped.end(granted)
        else:  # acquired before there were scopes
            self._manager.release_stream(peer_id, direction)


def manager_of(swarm: Any) -> Any:
    """The resource manager of a swarm, whether its streams have scopes or not; None: it has none.
    """
    manager = getattr(swarm, "_resource_manager", None)
    return manager._manager if isinstance(manager, _StreamManager) else manager


def has_scope(stream: Any) -> bool:
    return hasattr(stream, _ATTRIBUTE)


class ScopedStreams:
    """What `scope_streams` put in place, until `undo`."""

    def __init__(
        self, host: IHost, manager: ResourceManager, services: Mapping[str, str]
    ) -> None:
        from trio.lowlevel import current_task

        self._current_task = current_task
        self._host: Any = host
        swarm: Any = host.get_network()
        self._swarm = swarm
        self._manager = manager
        self._services = services
        self._count = 0
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
        self._stand_in = _StreamManager(manager, self)
        swarm._resource_manager = self._stand_in

    def undo(self) -> None:
        """New streams are only counted again; those that have scopes keep them to their end."""
        self._stand_in.scoping = False
        self._guarding.undo()
        self._leave_if_unused()

    def _leave_if_unused(self) -> None:
        if self._stand_in.scoping or self._count:
            return
        if self._swarm._resource_manager is self._stand_in:
            self._swarm._resource_manager = self._manager
        for hook in self._in_use:
            hook.undo()

    # -- a stream's life -------------------------------------------------------------------------

    def grant(self, peer_id: Any, direction: Any) -> bool:
        """Ask for a stream that this task will open; False: denied."""
        scope = self._manager.open_stream(peer_id, direction)
        if scope is None:
            return False
        self._count += 1
        granted = _Granted(self, scope, self._swarm._stream_semaphore)
        granted.task = self._current_task()
        _granted.set(granted)
        return True

    def take_granted(self) -> _Granted | None:
        """What this task was granted and has not opened."""
        granted = _granted.get()
        if granted is None or granted.owner is not self or (
            granted.task is not self._current_task()
        ):
            return None
        granted.task = None
        return granted

    def end(self, granted: _Granted) -> None:
        granted.scope.close()
        self._count -= 1
        self._leave_if_unused()

    def _of(self, stream: Any) -> _Granted | None:
        granted: _Granted | None = getattr(stream, _ATTRIBUTE, None)
        return granted if granted is not None and granted.owner is self else None

    def _opened(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 3196, called by `SwarmConn._add_stream`."""

        async def notify_opened_stream(stream: Any) -> None:
            granted = self.take_granted()
            if granted is None:
                await original(stream)
                return
            setattr(stream, _ATTRIBUTE, granted)
            try:
                await original(stream)
            except BaseException:
                if not granted.scope.inbound:  # the swarm gives back what it took
                    delattr(stream, _ATTRIBUTE)
                    granted.task = self._current_task()
                raise
            if stream._resource_released:
                self._give_back(stream)

        return notify_opened_stream

    def _closed(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 3219, which gives back what the swarm took, but for a
        stream that ends before line 1638, or line 309 of swarm_connection.py.
        """

        async def notify_closed_stream(stream: Any) -> None:
            granted = self._of(stream)
            if granted is not None:
                stream._resource_released = True
                granted.scope.close()
                if granted.scope.inbound or stream._direction.name != "UNKNOWN":
                    self._give_back(stream)  # else `new_stream` may fail yet, and do it
            await original(stream)

        return notify_closed_stream

    def _give_back(self, stream: Any) -> None:
        granted = self._of(stream)
        if granted is not None:
            delattr(stream, _ATTRIBUTE)
            if granted.semaphore is not None:
                granted.semaphore.release()
            self.end(granted)

    # -- its protocol ----------------------------------------------------------------------------

    def _may_have(self, protocol: Any, stream: Any) -> bool:
        return self._negotiated(protocol, stream) is None

    def _new_stream(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: host/basic_host.py line 899; the end of it knows the protocol.

        It forgets a permit for a QUIC connection (line 925) if the swarm has no stream (line 937).
        """

        async def new_stream(peer_id: Any, *args: Any, **kwargs: Any) -> Any:
            from libp2p.network.exceptions import SwarmException

            connection = self._host._get_first_connection(peer_id)
            try:
                stream = await original(peer_id, *args, **kwargs)
            except SwarmException:
                permits = getattr(
                    getattr(connection, "muxed_conn", None), "_negotiation_semaphore", None)
                if permits is not None:
                    permits.release()
                raise
            refusal = self._negotiated(stream.get_protocol(), stream)
            if refusal is not None:
                await stream.reset()
                raise refusal
            return stream

        return new_stream

    def _negotiated(self, protocol: Any, stream: Any) -> ScopeLimitExceeded | None:
        """Charge the protocol and its service; None, or why not."""
        granted = self._of(stream)
        if protocol is None or granted is None or granted.scope.closed:
            return None
        scope = granted.scope
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
    raises the ScopeLimitExceeded. Streams that are there already stay as they are. About 4 us for a
    stream. A host whose streams have scopes already gets the same result again.

    manager: the one that the host was made with. Libp2pMismatch: it is another one, or the host is
    not as in libp2p 0.8.1; then nothing has changed.
    """
    swarm: Any = host.get_network()
    if manager_of(swarm) is not manager:
        raise Libp2pMismatch(
            f"{manager!r} is not the resource manager of {host!r}: give it to new_host first")
    in_place: Any = swarm._resource_manager
    if isinstance(in_place, _StreamManager) and in_place.scoping:
        return in_place.scoped
    return ScopedStreams(host, manager, services)
