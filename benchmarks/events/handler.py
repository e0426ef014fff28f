"""The cost of events without observers, compared with the same work without events.

    python -m benchmarks.events.handler [--processes N] [--check]

There are three kinds of work. A handler admits the three events of a connection. A swarm makes its
calls for one TCP connection, on the manager of an observed host. Two real hosts dial and close.
Nanoseconds are the fastest of many rounds. Hosts are measured in processor time.

Each line is the median of several fresh processes. --check: exit status 1 if a target of
thresholds.toml is missed.
"""

from __future__ import annotations

import inspect
import logging
import sys
import textwrap
import time
from typing import Any

import rcmgr
from benchmarks.timing import Run, drive, fastest, peer_ids
from benchmarks.verdict import Figures, benchmark_main
from rcmgr.events import handler as lifecycle_handler

SAMPLE, ROUNDS = 300, 15
DIALS = 150
NEVER = rcmgr.ConnectionLimits(*[10**9] * 6)
HANDLER = "a lifecycle of three events"
SWARM = "a swarm's calls"
HOSTS = "two hosts: dial and hang up"


def handler_runs() -> dict[str, Run]:
    """Three events of each connection, by a handler without the code that notifies, and with it."""
    handler = rcmgr.ConnectionLifecycleHandler(rcmgr.ConnectionTracker(), NEVER)
    lives = [
        (
            rcmgr.PendingInboundConnectionEvent(connection_id=number),
            rcmgr.EstablishedInboundConnectionEvent(connection_id=number, peer_id=b"peer"),
            rcmgr.ConnectionClosedEvent(connection_id=number, peer_id=b"peer"),
        )
        for number in range(SAMPLE)
    ]

    # the same function without the lines that notify
    notifying = "    if self._observers:\n        self.notify(event)\n"
    source = textwrap.dedent(inspect.getsource(rcmgr.ConnectionLifecycleHandler.handle_event))
    assert source.count(notifying) == 1
    names = dict(vars(lifecycle_handler))
    exec(source.replace(notifying, ""), names)

    class Silent(rcmgr.ConnectionLifecycleHandler):
        handle_event = names["handle_event"]

    silent = Silent(rcmgr.ConnectionTracker(), NEVER)

    def handling(handler: rcmgr.ConnectionLifecycleHandler) -> Run:
        def run() -> None:
            for life in lives:
                for event in life:
                    handler.handle_event(event)

        return run

    return {"without": handling(silent), "with": handling(handler)}


def swarm_runs(observed: Any, plain: Any) -> dict[str, Run]:
    """The calls for one connection: before its handshake, after it, its place in the swarm's table,
    and its end."""
    peers = peer_ids(SAMPLE)

    def calling(manager: Any) -> Run:
        lifecycle = manager.connection_lifecycle

        def run() -> None:
            for number, peer in enumerate(peers):
                name = str(number)
                before = manager.open_connection(None, endpoint_ip=None, direction="inbound")
                scope = manager.open_connection(peer, endpoint_ip=None, direction="inbound")
                before.close()
                lifecycle.reconcile_live_connections(set())
                drive(lifecycle.handle_established_inbound_connection(name, peer, None, None))
                scope.close()
                lifecycle.notify_connection_closed(name, peer)

        return run

    return {"without": calling(plain), "with": calling(observed)}


async def measure_hosts() -> Figures:
    import trio
    from libp2p import new_host
    from libp2p.network.config import ConnectionConfig, RetryConfig
    from multiaddr import Multiaddr

    from rcmgr.libp2p import HostObserver, observe

    async def run_host(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        manager = rcmgr.ResourceManager(rcmgr.ResourceLimits(10**6), connection_limits=NEVER)
        host = new_host(
            resource_manager=manager,
            connection_config=ConnectionConfig(
                min_connections=0, low_watermark=0, high_watermark=10**6, max_connections=10**6,
                max_connections_per_peer=10**6),
        )
        host.get_network().retry_config = RetryConfig(max_retries=0)
        async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await host.get_network().auto_connector.stop()
            task_status.started((host, manager))
            await trio.sleep_forever()

    found: Figures = {}
    async with trio.open_nursery() as nursery:
        (host, manager), (other, _), (_, unobserved) = [
            await nursery.start(run_host) for _ in range(3)]

        def observers() -> list[HostObserver]:
            return [observe(each) for each in (host, other)]

        async def dial() -> float:
            """Microseconds of processor time."""
            start = time.process_time_ns()
            connection = await host.get_network().dial_addr(other.get_addrs()[0], other.get_id())
            await connection.close()
            return (time.process_time_ns() - start) / 1000

        observing = observers()
        runs = swarm_runs(manager, unobserved)
        best = fastest(runs, rounds=ROUNDS, operations=SAMPLE)
        for each in observing:
            each.undo()
        found |= {
            f"{SWARM}: ns": best["without"],
            f"{SWARM}: % more when observed by nobody": percent_more(best),
        }
        without, with_observers = [], []
        for _ in range(DIALS):
            without.append(await dial())
            observing = observers()
            with_observers.append(await dial())
            for each in observing:
                each.undo()
        nursery.cancel_scope.cancel()
    best = {"without": min(without), "with": min(with_observers)}
    return found | {
        f"{HOSTS}: us of the processor": best["without"],
        f"{HOSTS}: % more when observed by nobody": percent_more(best),
    }


def percent_more(best: dict[str, float]) -> float:
    return 100 * (best["with"] / best["without"] - 1)


def measure() -> Figures:
    import trio

    best = fastest(handler_runs(), rounds=4 * ROUNDS, operations=SAMPLE)
    found = {
        f"{HANDLER}: ns": best["without"],
        f"{HANDLER}: % more with nobody to tell": percent_more(best),
    }
    return found | trio.run(measure_hosts)


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    sys.exit(benchmark_main("events.handler", __doc__, measure))
