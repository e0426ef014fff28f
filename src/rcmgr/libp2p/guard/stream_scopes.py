"""Give a host's streams scopes: transient until the protocol is negotiated, then the protocol's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcmgr.admission.manager_base import is_inbound
from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import StreamScope
from rcmgr.errors import ScopeLimitExceeded
from rcmgr.libp2p.guard.handlers import guard_handlers
from rcmgr.libp2p.guard.reset_codes import (
    ResetCode,
    name_refusal,
    negotiating,
    reset_codes,
    reset_with,
)
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, Undo, place_all
from rcmgr.limits.scopes import SERVICES
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    import trio
    from libp2p.abc import IHost

__all__ = ["ScopedStreams", "has_scope", "manager_of", "scope_streams"]

_ATTRIBUTE = "_rcmgr_granted"
Coroutine = Callable[..., Awaitable[Any]]


@dataclass(eq=False, slots=True)
class _Granted:
    """A stream that the manager granted to the swarm."""

    owner: ScopedStreams
    scope: StreamScope
    semaphore: trio.Semaphore | None
    """The swarm's at that time. The stream holds one of its permits."""
    task: trio.lowlevel.Task | None
    """The task that will open the stream; None once it has."""


# The stream granted to a task last. Tasks that it starts inherit the value.
_granted: ContextVar[_Granted | None] = ContextVar("rcmgr_granted_stream", default=None)


class _StreamManager:
    """Stands in for the swarm's manager, and takes a scope for each stream instead of a count.

    The swarm acquires, opens and announces a stream in one task. Until the stream exists, its scope
    waits in a context variable.
    """

    def __init__(self, manager: ResourceManager, scoped: ScopedStreams) -> None:
        self._manager = manager
        self.scoped = scoped
        self.scoping = True

    _manager: ResourceManager
    scoped: ScopedStreams
    scoping: bool

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Makes `isinstance` take this for the manager."""
        return type(self._manager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _StreamManager.__annotations__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._manager, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._manager, name)

    def __dir__(self) -> list[str]:
        return dir(self._manager)

    def __repr__(self) -> str:
        return repr(self._manager)

    def acquire_stream(self, peer_id: Any, direction: Any) -> bool:
        if not self.scoping:
            return self._manager.acquire_stream(peer_id, direction)
        return self.scoped.grant(peer_id, direction)

    def release_stream(self, peer_id: Any, direction: Any) -> None:
        granted = self.scoped.take_granted()
        if granted is not None:  # the swarm could not open it
            self.scoped.end(granted)
        else:  # acquired before streams had scopes
            self._manager.release_stream(peer_id, direction)


def manager_of(host: Any) -> Any:
    """The resource manager of a host or swarm; None: there is no manager.

    It is the object that was given to `new_host`, or that `install()` made. A hardened swarm has
    another object in its place. O(1), thread safe.
    """
    swarm = host.get_network() if hasattr(host, "get_network") else host
    manager = getattr(swarm, "_resource_manager", None)
    return manager._manager if isinstance(manager, _StreamManager) else manager


def has_scope(stream: Any) -> bool:
    """Whether a stream of a swarm has a scope, instead of a count."""
    return hasattr(stream, _ATTRIBUTE)


class ScopedStreams:
    """The hooks of `scope_streams`, in place until `undo`."""

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
        self._unhook = place_all(self._placing())
        self._stand_in = _StreamManager(manager, self)
        swarm._resource_manager = self._stand_in

    def _placing(self) -> Iterator[Undo]:
        yield reset_codes.use()
        yield Hook(self._host.multiselect, "negotiate", negotiating).undo
        yield Hook(self._swarm, "notify_opened_stream", self._opened).undo
        yield Hook(self._swarm, "notify_closed_stream", self._closed).undo
        yield Hook(self._host, "new_stream", self._new_stream).undo
        self._guarding = guard_handlers(self._host, self._may_have)
        yield self._guarding.undo

    def undo(self) -> None:
        """Count new streams again. Streams that have a scope keep it until they end."""
        self._stand_in.scoping = False
        self._guarding.undo()
        self._unhook_if_unused()

    def _unhook_if_unused(self) -> None:
        if self._stand_in.scoping or self._count:
            return
        if self._swarm._resource_manager is self._stand_in:
            self._swarm._resource_manager = self._manager
        self._unhook()

    # -- a stream's life -------------------------------------------------------------------------

    def grant(self, peer_id: Any, direction: Any) -> bool:
        """Ask for a stream that this task will open; False: denied."""
        scope = self._manager.open_stream(peer_id, direction)
        if scope is None:
            if is_inbound(direction):
                name_refusal(ResetCode.RESOURCE_LIMIT)
            return False
        self._count += 1
        _granted.set(_Granted(self, scope, self._swarm._stream_semaphore, self._current_task()))
        return True

    def take_granted(self) -> _Granted | None:
        """The stream that was granted to this task and is not open yet."""
        granted = _granted.get()
        if granted is None or granted.owner is not self or (
            granted.task is not self._current_task()
        ):
            return None
        granted.task = None
        return granted

    def end(self, granted: _Granted) -> None:
        """Give the scopes of a stream back. The stream calls this once, at its end."""
        granted.scope.close()
        self._count -= 1
        self._unhook_if_unused()

    def _granted_as(self, stream: Any) -> _Granted | None:
        granted: _Granted | None = getattr(stream, _ATTRIBUTE, None)
        return granted if granted is not None and granted.owner is self else None

    async def _opened(self, original: Coroutine, stream: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 3196, called by `SwarmConn._add_stream`."""
        granted = self.take_granted()
        if granted is None:
            await original(stream)
            return
        setattr(stream, _ATTRIBUTE, granted)
        try:
            await original(stream)
        except BaseException:
            if not granted.scope.inbound:  # the swarm releases what it acquired
                delattr(stream, _ATTRIBUTE)
                granted.task = self._current_task()
            raise
        if stream._resource_released:
            self._give_back(stream)

    async def _closed(self, original: Coroutine, stream: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 3219 releases what the swarm acquired, unless the
        stream ends before line 1638, or line 309 of swarm_connection.py.
        """
        granted = self._granted_as(stream)
        if granted is not None:
            stream._resource_released = True
            granted.scope.close()
            # `new_stream` may still fail for an outbound stream without a direction, and then the
            # swarm releases it
            if granted.scope.inbound or stream._direction.name != "UNKNOWN":
                self._give_back(stream)
        await original(stream)

    def _give_back(self, stream: Any) -> None:
        granted = self._granted_as(stream)
        if granted is not None:
            delattr(stream, _ATTRIBUTE)
            if granted.semaphore is not None:
                granted.semaphore.release()
            self.end(granted)

    # -- its protocol ----------------------------------------------------------------------------

    def _may_have(self, protocol: Any, stream: Any) -> bool:
        if self._negotiated(protocol, stream) is None:
            return True
        name_refusal(ResetCode.RESOURCE_LIMIT)
        return False

    async def _new_stream(
        self, original: Coroutine, peer_id: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """libp2p 0.8.1: host/basic_host.py line 899, which knows the protocol when it returns.

        For a QUIC connection, line 925 takes a permit and line 937 may fail: then stock libp2p
        loses the permit.
        """
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
        error = self._negotiated(stream.get_protocol(), stream)
        if error is not None:
            await reset_with(ResetCode.RESOURCE_LIMIT, stream)
            raise error
        return stream

    def _negotiated(self, protocol: Any, stream: Any) -> ScopeLimitExceeded | None:
        """Charge the stream to its protocol and service. The error if a limit refuses it."""
        granted = self._granted_as(stream)
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
    """Charge the streams of this host to protocols, services and peers.

    Stock py-libp2p only counts streams. With this, a new stream is transient until its protocol is
    negotiated. Then it counts for the protocol, the service and the peer. An inbound stream above
    one of their limits is reset. For an outbound one, `new_stream` raises ScopeLimitExceeded.
    Existing streams do not change. A stream costs about 4 us more. A second call for the same host
    returns the same result.

    manager: that of the host.
    services: the name of the service for each protocol that has one.
    Libp2pMismatch: the host has another manager, or is not as in libp2p 0.8.1. Then nothing has
    changed.
    """
    swarm: Any = host.get_network()
    if manager_of(swarm) is not manager:
        raise Libp2pMismatch(
            f"{manager!r} is not the resource manager of {host!r}: give it to new_host first")
    in_place: Any = swarm._resource_manager
    if isinstance(in_place, _StreamManager) and in_place.scoping:
        return in_place.scoped
    return ScopedStreams(host, manager, services)
