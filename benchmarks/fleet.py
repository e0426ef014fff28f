"""A fleet of 200 nodes on one engine: decisions, the bound, bans, and the engine's work.

    python -m benchmarks.fleet [--check] [--json]

Needs `rcmgr[test]` on Linux or macOS, for a Valkey server. The nodes run in four processes. Each
asks for far more than the rate of the fleet for some seconds. The figures:

    rate ns, peer rate ns, places ns   more on a connection than the same limit on one node alone
    networks                           times the cost of a connection with limits by network
    granted                            of the tokens that the fleet's rate allows in that time
    above bound                        tokens granted above the documented bound
    ban p99 ms                         until a ban is in force on all nodes
    idle calls, flood calls            commands of one node per second
    script us                          the engine's time for one call
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.timing import fastest
from benchmarks.verdict import ROOT, Target
from rcmgr import (
    FleetLimits,
    FleetPlaces,
    NodeLimits,
    PeerRates,
    Rate,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.counting.leases import FleetGate, LeaseTable, PlaceTable
from rcmgr.fleet.engine import Engine
from rcmgr.fleet.member import Member
from rcmgr.fleet.shares import Shares
from rcmgr.gates.bans import ban_subject

sys.path.insert(0, str(ROOT / "tests"))

NODES, PROCESSES = 200, 4
RATE = Rate(4000, 400)
FLOOD_S, IDLE_S, BANS = 8.0, 5.0, 20
PEER, ADDRESS = b"\x12\x20" + b"p" * 32, "/ip4/192.0.2.7/tcp/4001"

TARGETS = {
    "rate ns": Target(at_most=30),
    "peer rate ns": Target(at_most=30),
    "places ns": Target(at_most=30),
    "networks": Target(at_most=2, why="the limits on addresses run in Python"),
    "granted": Target(at_least=0.95),
    "above bound": Target(at_most=0),
    "ban p99 ms": Target(at_most=1000),
    "idle calls": Target(at_most=2),
    "flood calls": Target(at_most=50),
    "script us": Target(at_most=50),
}


# -- the price of a decision -------------------------------------------------------------------


def connections(manager: ResourceManager, address: str | None = None) -> Any:
    def run() -> None:
        for _ in range(1000):
            manager.open_connection(PEER, address, "inbound").close()

    return run


def with_gate(**tables: Any) -> ResourceManager:
    manager = ResourceManager()
    for table in tables.values():
        table.find_again()
    manager._admission.fleet = FleetGate(**tables)
    return manager


def with_networks() -> ResourceManager:
    """A manager that counts connections by network for itself and for a fleet."""
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits()))
    limits = FleetLimits(network=FleetPlaces(connections=1 << 40))
    shares = Shares(
        limits, manager.connection_tracker, manager.ledger,
        manager._gate.connections_of_network, lambda: None)
    shares.find_again()
    manager._gate.set_fleet(shares.networks, (limits.ipv4_prefix, limits.ipv6_prefix))
    return manager


def prices() -> dict[str, float]:
    """Decisions in a fleet, compared with the same limit on one node alone."""
    much = 1 << 40
    peer_rates = NodeLimits(peer_rates=PeerRates(Rate(1e6, 1 << 30)))
    took = fastest({
        "none": connections(ResourceManager(NodeLimits())),
        "peer": connections(ResourceManager(peer_rates)),
        "rate": connections(with_gate(rate=LeaseTable(much, 1e9))),
        "peer rate": connections(with_gate(peer_rate=LeaseTable(much, 1e9))),
        "places": connections(with_gate(peer_connections=PlaceTable(much))),
        "subnets": connections(ResourceManager(NodeLimits(subnets=SubnetLimits())), ADDRESS),
        "networks": connections(with_networks(), ADDRESS),
    }, rounds=300, operations=1000)
    return {
        "rate ns": took["rate"] - took["none"],
        "peer rate ns": took["peer rate"] - took["peer"],
        "places ns": took["places"] - took["none"],
        "networks": took["networks"] / took["subnets"],
    }


# -- nodes -------------------------------------------------------------------------------------


class Node:
    """A member of the fleet with a manager, but without a host."""

    def __init__(self, url: str, name: str) -> None:
        self.manager = ResourceManager()
        self.member = Member(Engine(url, 5), Engine(url, 5), "rcmgr:{bench}:", name, "bench")
        self.shares = Shares(
            FleetLimits(rate=RATE, peer_rate=Rate(0.01, 2), nodes_at_start=NODES),
            self.manager.connection_tracker, self.manager.ledger, lambda key: 0, self.member.wake)
        self.member.shares = self.shares
        self.member.start(self.manager)


def process(pipe: Connection, url: str, first: int, count: int) -> None:
    """Do what the parent says, with so many nodes."""
    nodes = [Node(url, f"node-{first + number}") for number in range(count)]
    while True:
        order, *arguments = pipe.recv()
        if order == "joined":
            pipe.send(all(
                not each.member.is_lost and each.member.nodes_seen == NODES for each in nodes))
        elif order == "flood":
            pipe.send(flood(nodes, *arguments))
        elif order == "calls":
            pipe.send(sum(each.member.calls for each in nodes))
        elif order == "ban":
            nodes[0].manager.ban(arguments[0], 600)
            pipe.send(time.monotonic())
        elif order == "seen":
            pipe.send(seen(nodes, arguments[0]))
        else:
            return


def flood(nodes: list[Node], until: float) -> tuple[int, int]:
    """Ask for tokens of the fleet, and for those of made-up peers. Tokens granted, and left."""
    granted = number = 0
    while time.monotonic() < until:
        for node in nodes:
            gate = node.shares.gate
            for _ in range(4):
                granted += gate.rate.try_consume("")
            number += 1
            gate.peer_rate.try_consume(b"%d" % number)
        time.sleep(0.02)
    return granted, sum(node.shares.gate.rate.portion("") for node in nodes)


def seen(nodes: list[Node], what: str) -> list[float]:
    """When each node had this ban."""
    subject, missing, times = ban_subject(what), list(nodes), []
    while missing:
        now = time.monotonic()
        here = [each for each in missing if subject in each.manager._bans.entries]
        times += [now] * len(here)
        missing = [each for each in missing if each not in here]
        time.sleep(0.002)
    return times


class Processes:
    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        share = NODES // PROCESSES
        for number in range(PROCESSES):
            near, far = context.Pipe()
            context.Process(
                target=process, args=(far, url, number * share, share), daemon=True).start()
            self.pipes.append(near)

    def all(self, *order: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(order)
        return [pipe.recv() for pipe in self.pipes]


def measure() -> dict[str, float]:
    from engine_server import running

    found = prices()
    with running() as server, server.client() as client:
        fleet = Processes(server.url)
        while not all(fleet.all("joined")):
            time.sleep(0.1)
        before, begun = sum(fleet.all("calls")), time.monotonic()
        time.sleep(IDLE_S)
        found["idle calls"] = (sum(fleet.all("calls")) - before) / (
            time.monotonic() - begun) / NODES
        late = []
        for number in range(BANS):
            what = f"192.0.2.{number}"
            fleet.pipes[number % PROCESSES].send(("ban", what))
            start = fleet.pipes[number % PROCESSES].recv()
            late += [1000 * (each - start) for times in fleet.all("seen", what) for each in times]
        found["ban p99 ms"] = statistics.quantiles(late, n=100)[98]
        client.config_resetstat()
        before, begun = sum(fleet.all("calls")), time.monotonic()
        results = fleet.all("flood", begun + FLOOD_S)
        seconds = time.monotonic() - begun
        found["flood calls"] = (sum(fleet.all("calls")) - before) / seconds / NODES
        calls = client.info("commandstats")["cmdstat_evalsha"]
        found["script us"] = calls["usec_per_call"]
        granted = sum(each for each, _ in results)
        found["granted"] = granted / (RATE.refill_rate * seconds)
        advance = max(1, RATE.burst // NODES)
        bound = RATE.burst + RATE.refill_rate * (seconds + 0.1) + 2 * NODES * advance
        found["above bound"] = max(0.0, granted - bound)
        for pipe in fleet.pipes:
            pipe.send(("end",))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    found = measure()
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:14} {value:10.2f}  {TARGETS[name].verdict(value)}")
    missed = [name for name, value in found.items() if not TARGETS[name].met(value)]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
