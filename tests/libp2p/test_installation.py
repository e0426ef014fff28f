"""`install` gives every node of a process our manager. Each test runs in a separate process."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import check, check_fork

from rcmgr.record.frames import Frame, read_frames


def test_names_bound_before_and_after_are_replaced() -> None:
    check_fork("""
    import libp2p, rcmgr
    from libp2p.rcmgr import ResourceManager as before, Direction, ResourceScopeClosed
    import libp2p.rcmgr.manager as module
    namespace = type(module)("a user's module"); namespace.Manager = before
    import sys; sys.modules["users"] = namespace
    theirs = [before]  # install() replaces the name, but not what a list holds
    rcmgr.install()
    rcmgr.install()
    from libp2p.rcmgr import ResourceManager as after, new_resource_manager
    from rcmgr.libp2p.dropin.manager import ResourceManager as ours
    assert before is after is module.ResourceManager is namespace.Manager is ours
    assert ours is not theirs[0]
    assert isinstance(new_resource_manager(), ours)
    swarm = libp2p.new_host().get_network()
    assert isinstance(swarm._resource_manager, ours)
    assert libp2p.rcmgr.Direction is Direction
    assert libp2p.rcmgr.ResourceScopeClosed is ResourceScopeClosed
    rcmgr.uninstall()
    rcmgr.uninstall()
    assert libp2p.rcmgr.ResourceManager is module.ResourceManager is namespace.Manager
    assert before is after is namespace.Manager is theirs[0]
    assert type(libp2p.new_host().get_network()._resource_manager) is theirs[0]
    """)


def test_installing_before_libp2p_is_imported() -> None:
    check("""
    import sys, rcmgr
    assert "libp2p" not in sys.modules
    rcmgr.install()
    from libp2p import new_host
    assert isinstance(new_host().get_network()._resource_manager, rcmgr.ResourceManager)
    """)


def test_factories_of_libp2p_make_our_objects() -> None:
    check_fork("""
    import copy, pickle, rcmgr
    from libp2p.rcmgr import allowlist, connection_limits, graceful_degradation, memory_limits
    from libp2p.rcmgr import memory_stats, new_resource_manager
    from libp2p.rcmgr.connection_lifecycle import ConnectionLifecycleManager
    from libp2p.rcmgr.connection_tracker import ConnectionTracker
    from libp2p.rcmgr.manager import ConnectionScope, ResourceLimits
    rcmgr.install()
    def ours(thing):
        assert type(thing).__module__.startswith("libp2p.rcmgr.")  # where it can be found
        return any(base.__module__.startswith("rcmgr.") for base in type(thing).__mro__)
    states = connection_limits.new_connection_limits_with_defaults()
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(states), states)
    memory = memory_limits.new_memory_connection_limits_with_bytes(1 << 40)
    here = allowlist.AllowlistConfig(multiaddrs={"/ip4/192.0.2.1"})
    friends = allowlist.new_allowlist_with_config(here)
    totals = ResourceLimits(max_connections=0)
    for each in (states, lifecycle, lifecycle.tracker, memory, friends):
        assert ours(each), each
    assert pickle.loads(pickle.dumps(states)) == states
    assert type(totals).__mro__[1].__module__ == "rcmgr.libp2p.dropin._observed"
    cache = memory_stats.get_global_memory_cache()
    assert cache is memory.memory_stats_cache and type(copy.copy(cache)) is type(cache)
    manager = new_resource_manager(
        totals, connection_limits=states, memory_limits=memory, allowlist_config=here)
    assert ours(manager) and ours(manager.allowlist)
    assert manager.open_connection(None) is None
    assert isinstance(manager.open_connection(None, "192.0.2.1"), ConnectionScope)
    totals.max_connections = 10
    assert manager.open_connection(None)
    graceful_degradation.GracefulDegradation(manager).handle_resource_exhaustion("connections")
    assert manager.scope_limits.system.conns == totals.max_connections == 8
    states.with_max_pending_inbound(0)
    assert manager.open_connection(None) is None
    states.with_max_pending_inbound(1)
    assert manager.open_connection(None)
    memory.with_max_process_memory_bytes(1)
    assert manager.open_connection(None) is None
    """)


def test_installed_restores_what_was_before() -> None:
    check_fork("""
    import rcmgr
    from libp2p.rcmgr import manager
    theirs = [manager.ResourceManager]
    with rcmgr.installed():
        assert manager.ResourceManager is not theirs[0]
        with rcmgr.installed():
            pass
        assert manager.ResourceManager is not theirs[0]
    assert manager.ResourceManager is theirs[0]
    try:
        with rcmgr.installed():
            raise KeyError
    except KeyError:
        pass
    assert manager.ResourceManager is theirs[0]
    """)


def test_names_that_a_program_gave_our_classes_stay() -> None:
    check_fork("""
    import sys, types, rcmgr
    from rcmgr.libp2p.dropin.manager import ResourceManager as ours
    sys.modules["users"] = users = types.ModuleType("users")
    users.Ours = ours
    kept = [ours]  # install() replaces no item of a list
    rcmgr.install()
    rcmgr.uninstall()
    assert users.Ours is kept[0]
    """)


def test_installing_in_many_threads() -> None:
    check_fork("""
    import threading, rcmgr
    from libp2p.rcmgr import manager
    theirs = [manager.ResourceManager]
    def work():
        for _ in range(8):
            rcmgr.install(); rcmgr.uninstall()
    threads = [threading.Thread(target=work) for _ in range(6)]
    [each.start() for each in threads]; [each.join() for each in threads]
    rcmgr.uninstall()
    assert manager.ResourceManager is theirs[0]
    """)


def test_new_hosts_are_hardened() -> None:
    check_fork("""
    import rcmgr, libp2p
    from rcmgr.libp2p.dropin.manager import ResourceManager
    rcmgr.install(harden=True)
    swarm = libp2p.new_host().get_network()
    assert swarm._stream_semaphore is None
    rcmgr.install()
    assert libp2p.new_host().get_network()._stream_semaphore is not None
    rcmgr.uninstall()
    """)


@pytest.mark.parametrize(
    "lost", ["_handle_inbound_connection", "notify_listen", "metric_send_channel"])
def test_a_swarm_without_what_the_accept_gate_needs(lost: str) -> None:
    check_fork(f"""
    import rcmgr
    from libp2p.host.basic_host import BasicHost
    from libp2p.network.swarm import Swarm
    from libp2p.rcmgr import manager
    from rcmgr.libp2p import Libp2pMismatch
    theirs, init = [manager.ResourceManager], BasicHost.__init__
    made = Swarm.__init__
    def without(swarm, *args, **kwargs):
        made(swarm, *args, **kwargs)
        del swarm.metric_send_channel
    if "{lost}" == "metric_send_channel":
        Swarm.__init__ = without
    else:
        Swarm.{lost} = None
    for harden in (False, True):
        try:
            rcmgr.install(harden=harden)
        except Libp2pMismatch as error:
            assert "{lost}" in str(error)
        else:
            raise AssertionError
        assert not rcmgr.libp2p.is_installed()
        assert manager.ResourceManager is theirs[0]
        assert BasicHost.__init__ is init
    """)


def test_a_mismatch_with_hardening_changes_nothing() -> None:
    check_fork("""
    import libp2p, rcmgr
    from libp2p.network.swarm import Swarm
    from rcmgr.libp2p import Libp2pMismatch
    rcmgr.install()
    Swarm._dial_addr_single_attempt = None  # only hardening needs it
    try:
        rcmgr.install(rcmgr.NodeLimits(rcmgr.ConcreteLimits(rcmgr.Limit(streams=7))), harden=True)
    except Libp2pMismatch as error:
        assert "_dial_addr_single_attempt" in str(error)
    else:
        raise AssertionError
    assert rcmgr.libp2p.is_installed()
    swarm = libp2p.new_host().get_network()
    assert swarm._resource_manager.limits.max_streams == 10_000
    assert hasattr(swarm._handle_inbound_connection, "hook")
    """)


@pytest.mark.parametrize("harden", [False, True])
def test_a_host_with_another_network(harden: bool) -> None:
    """Only hardening needs the insides of py-libp2p's swarm."""
    check_fork(f"""
    import rcmgr
    rcmgr.install(harden={harden})
    from libp2p import new_host
    from libp2p.host.basic_host import BasicHost
    from libp2p.rcmgr import ResourceManager
    swarm = new_host().get_network()
    class Network:
        peerstore, listeners = swarm.peerstore, swarm.listeners
        _resource_manager = ResourceManager()
        get_peer_id = set_stream_handler = register_notifee = staticmethod(
            lambda *args: swarm.get_peer_id())
    try:
        BasicHost(Network())
    except rcmgr.libp2p.Libp2pMismatch as error:
        assert {harden}, error
    else:
        assert not {harden}
    """)


def test_connections_are_refused_when_they_are_accepted() -> None:
    """Two silent connections fill the node. After `install`, the swarm sees no other connection."""
    check_fork("""
    import trio
    import rcmgr
    from libp2p import new_host
    from libp2p.rcmgr import ResourceLimits, manager
    from multiaddr import Multiaddr
    from rcmgr.libp2p.hooks import Hook

    async def seen_by_the_swarm():
        guard = manager.ResourceManager(ResourceLimits(max_connections=2))
        host = new_host(resource_manager=guard)
        seen = []

        async def counting(original, *args):
            seen.append(args)
            await original(*args)

        Hook(host.get_network(), "_handle_inbound_connection", counting)
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            port = int(host.get_addrs()[0].value_for_protocol("tcp"))
            streams = []
            for number in (1, 2):
                streams.append(await trio.open_tcp_stream("127.0.0.1", port))
                with trio.fail_after(10):
                    while guard._current_connections < number:
                        await trio.sleep(0.01)
            for _ in range(3):
                refused = await trio.open_tcp_stream("127.0.0.1", port)
                with trio.fail_after(10):
                    assert await refused.receive_some(1) == b""
        return len(seen)

    assert trio.run(seen_by_the_swarm) == 5
    rcmgr.install()
    assert trio.run(seen_by_the_swarm) == 2
    rcmgr.uninstall()
    assert trio.run(seen_by_the_swarm) == 5
    """)


def test_hardened_hosts_work_and_free_their_slots() -> None:
    """The host is made before it runs, as programs do it, and listens over TCP and WebSocket."""
    check_fork("""
    import rcmgr
    rcmgr.install(harden=True)
    import trio
    from libp2p import new_host
    from libp2p.custom_types import TProtocol
    from libp2p.peer.peerinfo import PeerInfo
    from multiaddr import Multiaddr

    ECHO = TProtocol("/echo/1.0.0")

    async def echo(stream):
        await stream.write(await stream.read(4))
        await stream.close()

    async def main(address):
        listen = [Multiaddr(address)]
        host = new_host(listen_addrs=listen)
        host.set_stream_handler(ECHO, echo)
        swarm = host.get_network()
        assert swarm._stream_semaphore is None
        swarm._inbound_limiter.total_tokens = 1
        async with host.run(listen):
            for _ in range(3):
                peer = new_host(listen_addrs=listen)
                async with peer.run([]):
                    await peer.connect(PeerInfo(host.get_id(), host.get_addrs()))
                    stream = await peer.new_stream(host.get_id(), [ECHO])
                    await stream.write(b"ping")
                    assert await stream.read(4) == b"ping"
                    await peer.disconnect(host.get_id())
                with trio.fail_after(10):
                    while swarm._inbound_limiter.borrowed_tokens:
                        await trio.sleep(0.01)

    for address in ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"):
        trio.run(main, address)
    """)


def test_the_environment_reads_a_file_of_go_leniently(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    file.write_text('{"System": {"Conns": 7}, "Unknown": {}}')
    check_fork("""
    import pytest, rcmgr
    with pytest.raises(rcmgr.LimitsFileError, match="unknown key"):
        rcmgr.install()
    """, RCMGR_LIMITS=str(file), RCMGR_LIMITS_LENIENT="0")
    check_fork("""
    import rcmgr
    rcmgr.install()
    from libp2p.rcmgr import new_resource_manager
    assert new_resource_manager().limits.max_connections == 7
    """, RCMGR_LIMITS=str(file), RCMGR_LIMITS_LENIENT="1")


def test_the_environment_names_a_limits_file(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("[System]\nConns = 7\n[Connections]\nmax_pending_inbound = 3\n")
    check_fork("""
    import rcmgr
    rcmgr.install()
    from libp2p.rcmgr import ResourceLimits, ResourceManager, new_resource_manager
    manager = new_resource_manager()
    assert manager.limits.max_connections == 7
    assert manager.connection_limits.max_pending_inbound == 3
    assert ResourceManager(ResourceLimits(9)).limits.max_connections == 9
    rcmgr.install(rcmgr.INFINITE_LIMITS)
    assert new_resource_manager().limits.max_connections is None
    """, RCMGR_LIMITS=str(file))


def test_the_environment_names_a_record_for_the_first_manager(tmp_path: Path) -> None:
    code = """
    import rcmgr
    rcmgr.install()
    from libp2p.rcmgr import new_resource_manager
    first, second = new_resource_manager(), new_resource_manager()
    assert second.recording is None
    first.acquire_stream(b"a known peer", "inbound")
    print(first.recording and first.recording.path)
    """
    path = tmp_path / "node.rec"
    assert check_fork(code, RCMGR_RECORD=str(path)).strip() == str(path)
    assert b"a known peer" not in path.read_bytes()
    # without a record the program works too
    assert check_fork(code, RCMGR_RECORD=str(tmp_path / "no" / "node.rec")).strip() == "None"
    check_fork(code, RCMGR_RECORD=str(path), RCMGR_RECORD_IDENTITIES="1")
    with path.open("rb") as file:
        [frame] = [each for each in read_frames(file) if isinstance(each, Frame)]
    assert frame.peers == [b"a known peer"]


def test_only_managers_of_the_program_join_the_fleet_of_the_environment() -> None:
    """And not the one that `install` makes to try a host."""
    code = """
    from rcmgr.fleet.fleet import Fleet
    joined = []
    join, Fleet.join = Fleet.join, lambda fleet, manager: joined.append(manager)
    import rcmgr
    rcmgr.install(harden=True)
    from libp2p import new_host
    host = new_host()
    print(len(joined))
    """
    assert check_fork(code, RCMGR_FLEET="valkey://127.0.0.1:1").strip() == "1"


def test_a_file_that_sets_few_limits_keeps_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("[System]\nConns = 7\n")
    check_fork("""
    import rcmgr
    from libp2p.rcmgr import new_resource_manager
    theirs = new_resource_manager()
    rcmgr.install()
    ours = new_resource_manager()
    assert ours.limits.max_connections == 7
    assert (ours.connection_limits.get_limits_summary()
            == theirs.connection_limits.get_limits_summary())
    assert (ours.memory_limits.max_process_memory_percent
            == theirs.memory_limits.max_process_memory_percent == 80.0)
    """, RCMGR_LIMITS=str(file))


def test_a_wrong_limits_file_installs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("[System]\nCons = 7\n")
    check_fork("""
    import rcmgr
    from libp2p.rcmgr import manager
    theirs = [manager.ResourceManager]
    try:
        rcmgr.install()
    except rcmgr.LimitsFileError as error:
        assert "Conns" in str(error)
    else:
        raise AssertionError
    assert manager.ResourceManager is theirs[0]
    """, RCMGR_LIMITS=str(file))


def test_another_libp2p_is_a_mismatch() -> None:
    check_fork("""
    import rcmgr
    from libp2p.rcmgr import manager
    from rcmgr.libp2p import Libp2pMismatch
    del manager.ResourceManager
    try:
        rcmgr.install()
    except Libp2pMismatch as error:
        assert "has no attribute 'ResourceManager'" in str(error)
    else:
        raise AssertionError
    """)
