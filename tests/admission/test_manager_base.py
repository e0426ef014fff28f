"""The scope of a connection, and the call when a socket accepts one."""

from __future__ import annotations

import gc
import sys
import weakref
from contextvars import copy_context

import pytest
from swarm import check_nothing_held, counts

from rcmgr import ConnectionLimits, ConnectionScope, ConnectionTracker, ResourceManager
from rcmgr.admission.manager_base import accepted

# an exception in a finalizer is only a warning
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

PEER = b"peer"
NO_LIMITS = ConnectionLimits()


@pytest.fixture
def tracker() -> ConnectionTracker:
    return ConnectionTracker()


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


def pending_scope(tracker: ConnectionTracker, connection_id: str = "c") -> ConnectionScope:
    assert tracker.admit_pending_inbound(connection_id, NO_LIMITS) is None
    record = tracker.get_connection(connection_id)
    assert record is not None
    return ConnectionScope(tracker, record, only_pending=True)


def established_scope(tracker: ConnectionTracker, connection_id: str = "c") -> ConnectionScope:
    assert tracker.admit_established_inbound(connection_id, PEER, NO_LIMITS, owned=True) is None
    record = tracker.get_connection(connection_id)
    assert record is not None
    return ConnectionScope(tracker, record, only_pending=False)


@pytest.mark.parametrize("make", [pending_scope, established_scope])
def test_close_gives_back_exactly_once(tracker: ConnectionTracker, make: type) -> None:
    others = [make(tracker, f"other {i}") for i in range(2)]
    scope = make(tracker)
    assert not scope.closed
    for _ in range(3):
        scope.close()
        assert scope.closed
        assert len(tracker) == 2
    assert tracker.snapshot().total_closed == 1
    del others


@pytest.mark.parametrize("make", [pending_scope, established_scope])
def test_a_collected_scope_gives_back(tracker: ConnectionTracker, make: type) -> None:
    scope = make(tracker)
    del scope
    gc.collect()
    assert len(tracker) == 0
    assert tracker.snapshot().total_closed == 1


def test_a_scope_in_a_cycle_gives_back(tracker: ConnectionTracker) -> None:
    class MuxedConnection:
        pass

    connection = MuxedConnection()
    connection.scope = established_scope(tracker)  # type: ignore[attr-defined]
    connection.itself = connection  # type: ignore[attr-defined]
    del connection
    gc.collect()
    assert len(tracker) == 0


@pytest.mark.parametrize("make", [pending_scope, established_scope])
def test_a_collected_closed_scope_takes_nothing_from_others(
    tracker: ConnectionTracker, make: type
) -> None:
    scope = make(tracker)
    scope.close()
    successor = make(tracker)  # the same id again
    del scope
    gc.collect()
    assert not successor.closed
    assert len(tracker) == 1


def test_a_pending_scope_does_not_end_an_established_connection(tracker: ConnectionTracker) -> None:
    scope = pending_scope(tracker)
    assert scope.peer_id is None
    assert tracker.admit_established_inbound("c", PEER, NO_LIMITS) is None
    assert scope.closed
    assert scope.peer_id == PEER
    scope.close()
    del scope
    gc.collect()
    assert set(tracker.established_inbound) == {"c"}


def test_a_scope_follows_its_connection_to_a_new_id(tracker: ConnectionTracker) -> None:
    scope = established_scope(tracker)
    record = tracker.get_connection("c")
    assert record is not None
    tracker.rename(record, "swarm's id")
    assert scope.connection_id == "swarm's id"
    assert not scope.closed
    scope.close()
    assert len(tracker) == 0


@pytest.mark.parametrize("make", [pending_scope, established_scope])
def test_a_scope_whose_connection_the_tracker_ended(tracker: ConnectionTracker, make: type) -> None:
    scope = make(tracker)
    tracker.clear()
    assert scope.closed
    scope.close()
    assert tracker.snapshot().total_closed == 1


def test_as_a_context_manager(tracker: ConnectionTracker) -> None:
    with established_scope(tracker) as scope:
        assert len(tracker) == 1
    assert scope.closed
    with pytest.raises(RuntimeError, match="boom"), pending_scope(tracker):
        raise RuntimeError("boom")
    assert len(tracker) == 0


def test_a_scope_whose_constructor_failed(tracker: ConnectionTracker) -> None:
    """It has nothing to give back, and its finalizer must not raise."""
    with pytest.raises(TypeError):
        ConnectionScope()  # type: ignore[call-arg]
    bare = ConnectionScope.__new__(ConnectionScope)
    del bare
    gc.collect()
    assert len(tracker) == 0


def test_repr_and_truth(tracker: ConnectionTracker) -> None:
    scope = established_scope(tracker)
    assert scope  # the swarm tests its truth
    assert repr(scope) == (
        "ConnectionScope(ConnectionRecord('c', established_inbound, peer=b'peer'))"
    )
    scope.close()
    assert scope
    assert repr(scope) == "ConnectionScope(ConnectionRecord('c', closed, peer=b'peer'), closed)"


def test_a_scope_is_in_no_cycle(tracker: ConnectionTracker) -> None:
    gc.disable()
    try:
        scope = established_scope(tracker)
        del scope
        assert len(tracker) == 0
    finally:
        gc.enable()


@pytest.mark.skipif(sys.maxsize < 2**32, reason="pointers are smaller")
def test_a_scope_is_as_small_as_promised() -> None:
    assert ConnectionScope.__basicsize__ == object.__basicsize__ + 16


def test_a_scope_knows_its_manager_and_does_not_keep_it(tracker: ConnectionTracker) -> None:
    manager = ResourceManager()
    scopes = [manager.open_connection(), manager.open_connection(PEER)]
    assert [each and each.resource_manager for each in scopes] == [manager, manager]
    alive = weakref.ref(manager)
    del manager
    gc.collect()
    assert alive() is None
    assert [each and each.resource_manager for each in scopes] == [None, None]
    assert pending_scope(tracker).resource_manager is None


# -- accepting -----------------------------------------------------------------------------------


def open_scope(
    manager: ResourceManager, peer: bytes | None, address: str, direction: str
) -> ConnectionScope:
    scope = manager.open_connection(peer, address, direction)
    assert scope is not None
    return scope


def accept(manager: ResourceManager) -> ConnectionScope:
    """Do as an accept loop does. The handler's task is then started in its context."""
    scope = manager.accept_connection("192.0.2.1")
    assert scope is not None
    accepted.set(scope)
    return scope


def test_the_handlers_task_gets_the_accepted_scope(manager: ResourceManager) -> None:
    def loop() -> None:
        scopes = [accept(manager)]
        first = copy_context()
        scopes.append(accept(manager))
        second = copy_context()
        assert counts(manager) == (2, 0, 0, 0)
        assert second.run(open_scope, manager, None, "192.0.2.1", "inbound") is scopes[1]
        assert first.run(open_scope, manager, None, "192.0.2.1", "inbound") is scopes[0]
        assert counts(manager) == (2, 0, 0, 0)
        scopes.append(second.run(open_scope, manager, PEER, "192.0.2.1", "inbound"))
        assert counts(manager) == (1, 0, 1, 0)
        # the scope is returned once
        assert first.run(open_scope, manager, None, "192.0.2.1", "inbound") not in scopes

    copy_context().run(loop)


@pytest.mark.parametrize("why", ["outbound", "closed", "forgotten", "another manager"])
def test_a_call_that_does_not_get_the_accepted_scope(manager: ResourceManager, why: str) -> None:
    def loop() -> None:
        scope = accept(manager)
        asked = ResourceManager() if why == "another manager" else manager
        if why == "closed":
            scope.close()
        elif why == "forgotten":
            manager.connection_tracker.clear()
        direction = "outbound" if why == "outbound" else "inbound"
        other = open_scope(asked, None, "192.0.2.1", direction)
        assert other is not scope
        assert counts(asked)[direction == "outbound"] == 1

    copy_context().run(loop)


def test_accepting_above_a_limit_or_after_close() -> None:
    manager = ResourceManager(connection_limits=ConnectionLimits(max_pending_inbound=1))
    scope = manager.accept_connection()
    assert scope is not None
    assert manager.accept_connection("192.0.2.1") is None
    assert str(manager.last_denial).startswith("Connection limit exceeded: pending_inbound")
    scope.close()
    check_nothing_held(manager)
    manager.close()
    assert manager.accept_connection() is None
