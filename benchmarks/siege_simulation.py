"""Attackers against the eviction policy alone: no sockets, no handshakes, a clock that we move.

    python benchmarks/siege_simulation.py [--places 32,300] [--seeds 3] [--fuzz 20] [--million]
                                          [--eclipse] [--plot FILE.svg]

Each scene has a node with so many places, and honest peers that came before the siege. Attackers
have ten identities for each place. Honest newcomers come during the siege. An attacker knows the
rules, but not the key of the hashes. It sees whether it is admitted and when it is evicted. A
newcomer is served if it is admitted within 3 s (it tries every 0.5 s) and stays for 0.3 s. An
earlier peer is kept if it is there at the end. "off": the same node refuses when it is full.

--fuzz: so many random attackers for each number of places, and the worst of them.
--million: a node with a million places, once (about a minute, 1 GB).
--eclipse: the share of the places that honest peers hold after an hour, by the share of all groups
that attack. --plot draws it (matplotlib, extra "bench").

Exit status 1: a scene misses its threshold.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rcmgr.admission.eviction import EvictionPolicy

STEP_S = 0.02
SERVED_WITHIN_S = 3.0
TRIES_EVERY_S = 0.5
STAYS_S = 0.3
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Attacker:
    """How the attackers behave.

    groups: how many groups they come from, for each group of honest peers. identities: for each
    place. knocks_per_s: of each identity that is not connected. work_per_s: useful work of each
    connection; 0: idle hoarders. leaves_per_s: how often each connection leaves by itself, to come
    again. in_honest_groups: they share the groups of honest peers instead of having their own.
    """

    groups: float
    identities: float = 10.0
    knocks_per_s: float = 1.0
    work_per_s: float = 0.0
    leaves_per_s: float = 0.0
    in_honest_groups: bool = False


@dataclass(frozen=True)
class Scene:
    """One siege of one node.

    earlier: honest peers that are there before, for each place. idle: the share of them that never
    did useful work. first: whether the attackers were there before them. newcomers_per_s: for each
    place. stay_s: how long a newcomer stays, leave_earlier_s: how long an earlier peer does, on
    average. honest_groups: for each place. clouds: how unequal these groups are; 0: equal. served,
    kept: thresholds. most_knocks_per_s: the total that a machine can take.
    """

    name: str
    attacker: Attacker
    places: int = 32
    earlier: float = 0.3
    idle: float = 0.0
    first: bool = False
    newcomers_per_s: float = 1 / 32
    seconds: float = 40.0
    newcomers_from_s: float = 5.0
    stay_s: float = 10.0
    leave_earlier_s: float = math.inf
    honest_groups: float = 2 / 3
    clouds: float = 0.0
    served: float = 0.0
    kept: float = 0.0
    most_knocks_per_s: float = 5_000.0


FEW = {"served": 0.95, "kept": 0.95}
HALF = {"served": 0.5, "kept": 0.9}
SCENES = (
    Scene("idle hoarders, a tenth of the groups", Attacker(0.1), **FEW),
    Scene("idle hoarders, a tenth, at once", Attacker(0.1), newcomers_from_s=1.2, **FEW),
    Scene("idle hoarders, a tenth, there first", Attacker(0.1), first=True, **FEW),
    Scene("imitators of work, a tenth", Attacker(0.1, work_per_s=0.1), **FEW),
    Scene("imitators of work, a tenth, there first", Attacker(0.1, work_per_s=0.1), first=True,
          **FEW),
    Scene("reconnecting, a tenth", Attacker(0.1, leaves_per_s=0.5), **FEW),
    # a tenth of the newcomers comes from the attacked groups, and shares their fate
    Scene("in a tenth of the groups of honest peers",
          Attacker(0.1, work_per_s=0.1, in_honest_groups=True), served=0.85, kept=0.95),
    Scene("idle hoarders, as many groups", Attacker(1.0), **HALF),
    Scene("idle hoarders, as many groups, there first", Attacker(1.0), first=True, **HALF),
    Scene("imitators of work, as many groups", Attacker(1.0, work_per_s=0.1), **HALF),
    Scene("imitators, as many groups, at once", Attacker(1.0, work_per_s=0.1),
          newcomers_from_s=1.2, **HALF),
    Scene("reconnecting imitators, as many groups",
          Attacker(1.0, work_per_s=1.0, leaves_per_s=0.5), **HALF),
    Scene("idle hoarders, as many groups, idle peers", Attacker(1.0), idle=0.3, served=0.5),
    Scene("imitators, as many groups, node full of honest peers", Attacker(1.0, work_per_s=0.1),
          earlier=1.0, **HALF),
)


@dataclass(eq=False)
class Peer:
    group: bytes
    honest: bool
    ticket: int = 0
    works: bool = False
    leaves_at: float = math.inf
    knocked_at: float = 0.0
    admitted_at: float = -1.0
    index: int = -1


class Crowd:
    """Peers one can draw from and remove in O(1)."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def add(self, peer: Peer) -> None:
        peer.index = len(self.peers)
        self.peers.append(peer)

    def remove(self, peer: Peer) -> None:
        last = self.peers.pop()
        if last is not peer:
            self.peers[peer.index] = last
            last.index = peer.index

    def __len__(self) -> int:
        return len(self.peers)


@dataclass
class Result:
    newcomers: int = 0
    served: int = 0
    earlier: int = 0
    kept: int = 0
    honest_places: float = 0.0
    decisions: int = 0
    choices: dict[str, int] = field(default_factory=dict)

    @property
    def share_served(self) -> float:
        return self.served / self.newcomers if self.newcomers else 1.0

    @property
    def share_kept(self) -> float:
        return self.kept / self.earlier if self.earlier else 1.0


class Siege:
    def __init__(self, scene: Scene, seed: int, evicts: bool = True) -> None:
        self.scene, self.attacker = scene, scene.attacker
        self.draw = random.Random(seed)
        self.now = 10_000.0
        self.policy = EvictionPolicy(
            scene.places, key=self.draw.randbytes(16), clock=lambda: int(self.now * SECOND))
        self.evicts = evicts
        self.honest, self.hostile, self.outside = Crowd(), Crowd(), Crowd()
        self.waiting: list[Peer] = []
        self.watched: list[Peer] = []
        self.early: list[Peer] = []
        self.result = Result()
        # groups are drawn by a power law: real networks have a few large clouds
        count = max(4, round(scene.honest_groups * scene.places))
        self.groups = [b"honest %d" % i for i in range(count)]
        self.weights = [1 / (i + 1) ** scene.clouds for i in range(count)]
        hostile = max(1, round(self.attacker.groups * count))
        if self.attacker.in_honest_groups:
            own = self.draw.sample(self.groups, min(hostile, count))
        else:
            own = [b"hostile %d" % i for i in range(hostile)]
        for i in range(round(self.attacker.identities * scene.places)):
            self.outside.add(Peer(own[i % len(own)], honest=False))

    # -- the node --------------------------------------------------------------------------------

    def admit(self, peer: Peer) -> bool:
        if len(self.honest) + len(self.hostile) >= self.scene.places:
            self.result.decisions += 1
            victim = self.policy.choose(peer.group) if self.evicts else None
            if victim is None:
                return False
            assert self.policy.evict(victim.ticket, peer.group)
            self.gone(victim)
        peer.ticket = self.policy.add(peer, peer.group)
        peer.admitted_at = self.now
        if peer.honest:
            self.honest.add(peer)
        else:
            self.outside.remove(peer)
            self.hostile.add(peer)
            peer.works = self.attacker.work_per_s > 0
            if peer.works:
                self.policy.note_work(peer.ticket)
        return True

    def gone(self, peer: Peer) -> None:
        peer.ticket = 0
        if peer.honest:
            self.honest.remove(peer)
        else:
            self.hostile.remove(peer)
            self.outside.add(peer)

    def leave(self, peer: Peer) -> None:
        assert self.policy.remove(peer.ticket)
        self.gone(peer)

    # -- what happens ----------------------------------------------------------------------------

    def honest_peer(self) -> Peer:
        [group] = self.draw.choices(self.groups, self.weights)
        return Peer(group, honest=True)

    def settle(self) -> None:
        """The time before the siege: an hour in which the earlier peers come, and leave no more."""
        siege, hour = self.now, 3600.0
        count = round(self.scene.earlier * self.scene.places)
        if self.scene.first:
            self.now = siege - 2 * hour
            self.fill()
        for number in range(count):
            self.now = siege - hour + hour * number / count
            peer = self.honest_peer()
            if self.scene.first and len(self.hostile):
                self.leave(self.draw.choice(self.hostile.peers))
            self.admit(peer)
            peer.works = self.draw.random() >= self.scene.idle
            if peer.works:
                self.now += 0.1
                self.policy.note_work(peer.ticket)
            self.early.append(peer)
            peer.leaves_at = siege + (
                math.inf if math.isinf(self.scene.leave_earlier_s)
                else self.draw.expovariate(1 / self.scene.leave_earlier_s))
            self.measured(peer)
        self.now = siege
        for peer in self.early:
            if peer.works:
                self.policy.note_work(peer.ticket)
        self.result.earlier = count

    def fill(self) -> None:
        while self.outside and len(self.honest) + len(self.hostile) < self.scene.places:
            self.admit(self.draw.choice(self.outside.peers))

    def measured(self, peer: Peer) -> None:
        """Latency says nothing here: honest and hostile peers are equally far."""
        self.policy.note_latency(peer.ticket, int(50_000 * self.draw.lognormvariate(0, 0.7)))

    def times(self, per_s: float) -> int:
        """How often something happens in a step, of so many a second."""
        expected = per_s * STEP_S
        whole = int(expected)
        return whole + (self.draw.random() < expected - whole)

    def run(self) -> Result:
        scene, attacker, draw = self.scene, self.attacker, self.draw
        self.settle()
        start = self.now
        newcomers_until = start + scene.seconds - SERVED_WITHIN_S - 1
        while self.now < start + scene.seconds:
            self.now += STEP_S
            knocks = min(len(self.outside) * attacker.knocks_per_s, scene.most_knocks_per_s)
            for _ in range(self.times(knocks)):
                if self.outside:
                    peer = draw.choice(self.outside.peers)
                    if self.admit(peer):
                        self.measured(peer)
            for _ in range(self.times(len(self.hostile) * attacker.leaves_per_s)):
                if self.hostile:
                    self.leave(draw.choice(self.hostile.peers))
            for crowd, per_s in ((self.hostile, attacker.work_per_s), (self.honest, 0.1)):
                for _ in range(self.times(len(crowd) * per_s)):
                    peer = draw.choice(crowd.peers)
                    if peer.works:
                        self.policy.note_work(peer.ticket)
            if start + scene.newcomers_from_s <= self.now < newcomers_until:
                for _ in range(self.times(scene.newcomers_per_s * scene.places)):
                    peer = self.honest_peer()
                    peer.knocked_at = self.now
                    self.result.newcomers += 1
                    self.knock(peer)
            self.look()
        self.result.kept = sum(peer.ticket != 0 for peer in self.early)
        self.result.honest_places = len(self.honest) / scene.places
        self.result.choices = self.policy.stats()["choices"]
        return self.result

    def knock(self, peer: Peer) -> None:
        if self.admit(peer):
            self.measured(peer)
            self.watched.append(peer)
        elif self.now + TRIES_EVERY_S < peer.knocked_at + SERVED_WITHIN_S:
            peer.leaves_at = self.now + TRIES_EVERY_S
            self.waiting.append(peer)

    def look(self) -> None:
        """Let honest peers try again, prove themselves and leave."""
        again = [peer for peer in self.waiting if peer.leaves_at <= self.now]
        if again:
            self.waiting = [peer for peer in self.waiting if peer.leaves_at > self.now]
            for peer in again:
                self.knock(peer)
        for peer in [p for p in self.watched if p.admitted_at + STAYS_S <= self.now]:
            self.watched.remove(peer)
            if peer.ticket:
                self.result.served += 1
                self.policy.note_work(peer.ticket)
                peer.works = True
                peer.leaves_at = self.now + self.draw.expovariate(1 / self.scene.stay_s)
        if int(self.now / STEP_S) % 50 == 0:
            for peer in [p for p in self.honest.peers if p.leaves_at <= self.now and p.works]:
                if peer in self.early:
                    self.early.remove(peer)
                    self.result.earlier -= 1
                self.leave(peer)


def run(scene: Scene, seeds: int, evicts: bool = True) -> list[Result]:
    return [Siege(scene, seed, evicts).run() for seed in range(seeds)]


def mean(values: Iterator[float] | list[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def print_scenes(places: int, seeds: int) -> bool:
    """Whether each scene reaches its thresholds, on the mean over the seeds."""
    print(f"\n{places} places, {seeds} seeds: mean (least) in percent")
    print(f"{'':54s}{'newcomers served':>18s}{'earlier kept':>16s}{'off: served':>13s}")
    fine = True
    for scene in SCENES:
        scene = replace(scene, places=places, newcomers_per_s=min(1 / 32, 10 / places))
        found = run(scene, seeds)
        off = run(scene, 1, evicts=False)
        served = [each.share_served for each in found]
        kept = [each.share_kept for each in found]
        reached = mean(served) >= scene.served and mean(kept) >= scene.kept
        fine = fine and reached
        print(f"{scene.name:54s}{percent(served):>18s}{percent(kept):>16s}"
              f"{100 * off[0].share_served:12.0f} {'' if reached else 'below the threshold'}")
    return fine


def percent(shares: list[float]) -> str:
    return f"{100 * mean(shares):.0f} ({100 * min(shares):.0f})"


# -- a fuzzing adversary ---------------------------------------------------------------------------


def random_attacker(draw: random.Random, groups: float) -> Attacker:
    """groups: for each group of honest peers."""
    shared = draw.random() < 0.3
    return Attacker(
        # attackers have as many groups as honest peers, or half of the honest groups
        groups / (1 + groups) if shared else groups,
        knocks_per_s=draw.choice([0.02, 0.1, 0.5, 2.0]),
        work_per_s=draw.choice([0.0, 0.0, 0.02, 0.2, 2.0]),
        leaves_per_s=draw.choice([0.0, 0.0, 0.02, 0.2, 1.0]),
        in_honest_groups=shared,
    )


def print_fuzz(places: int, count: int) -> bool:
    """Random attackers with a tenth of the groups, and with as many as the honest peers have."""
    draw = random.Random(places)
    fine = True
    for groups, least in ((0.1, FEW), (1.0, HALF)):
        worst_served, worst_kept = (1.0, None), (1.0, None)
        total: list[Result] = []
        for seed in range(count):
            scene = Scene("fuzz", random_attacker(draw, groups), places=places,
                          newcomers_per_s=min(1 / 32, 10 / places),
                          first=draw.random() < 0.3, idle=0.0, clouds=draw.choice([0.0, 0.7]),
                          newcomers_from_s=draw.choice([1.2, 5.0]))
            found = Siege(scene, seed).run()
            total.append(found)
            if found.share_served < worst_served[0]:
                worst_served = found.share_served, scene
            if found.share_kept < worst_kept[0]:
                worst_kept = found.share_kept, scene
        served, kept = mean([r.share_served for r in total]), mean([r.share_kept for r in total])
        reached = served >= least["served"] and kept >= least["kept"]
        fine = fine and reached
        print(f"\n{count} random attackers, {groups} times as many groups as honest peers, "
              f"{places} places: served {100 * served:.0f} %, kept {100 * kept:.0f} %"
              f"{'' if reached else ': below the threshold'}")
        for what, (share, scene) in (("served", worst_served), ("kept", worst_kept)):
            if scene is not None:
                print(f"  worst {what}: {100 * share:.0f} % with {scene.attacker}, "
                      f"first={scene.first}, clouds={scene.clouds}")
    return fine


# -- the cost of an eclipse ------------------------------------------------------------------------

SHARES = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95)


def eclipse(
    places: int, share: float, work_per_s: float, evicts: bool, seeds: int = 1
) -> list[Result]:
    """An hour of siege in which earlier peers stay for 20 minutes, and newcomers, too."""
    scene = Scene(
        "eclipse", Attacker(share / (1 - share), knocks_per_s=0.1, work_per_s=work_per_s),
        places=places, earlier=0.9, seconds=3600.0, leave_earlier_s=1200.0, stay_s=1200.0,
        newcomers_per_s=1 / 1200, most_knocks_per_s=50.0)
    return run(scene, seeds, evicts=evicts)


def print_eclipse(places: int, seeds: int) -> dict[str, list[float]]:
    print(f"\n{places} places after an hour of siege, {seeds} times. Peers stay for 20 minutes.")
    print("Percent of the places that honest peers hold, and of newcomers served")
    print(f"{'share of all groups that attack':36s}" + "".join(f"{100 * s:8.0f}" for s in SHARES))
    lines: dict[str, list[float]] = {}
    for name, work, evicts in (
        ("eviction, idle hoarders", 0.0, True), ("eviction, imitators of work", 0.1, True),
        ("no eviction", 0.1, False),
    ):
        found = [eclipse(places, share, work, evicts, seeds) for share in SHARES]
        lines[name] = [100 * mean([each.honest_places for each in runs]) for runs in found]
        served = [100 * mean([each.share_served for each in runs]) for runs in found]
        print(f"{name + ': held':36s}" + "".join(f"{each:8.0f}" for each in lines[name]))
        print(f"{name + ': served':36s}" + "".join(f"{each:8.0f}" for each in served))
    return lines


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install '.[bench]'")
    matplotlib.use("svg")
    from matplotlib import pyplot

    return pyplot


def plot(lines: dict[str, list[float]], path: Path) -> None:
    figure, axes = pyplot().subplots(figsize=(7, 4))
    for name, values in lines.items():
        axes.plot([100 * share for share in SHARES], values, marker="o", label=name)
    axes.set_xlabel("share of all network groups that attack (%)")
    axes.set_ylabel("places held by honest peers after an hour (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path)
    print(f"chart: {path}")


# -- a million connections -------------------------------------------------------------------------


def print_million(places: int = 1_000_000) -> None:
    draw = random.Random(1)
    now = [10_000 * SECOND]
    policy = EvictionPolicy(places, key=bytes(16), clock=lambda: now[0])
    peers = [Peer(b"%d" % draw.randrange(places // 4), honest=True) for _ in range(places)]
    began = time.process_time()
    for peer in peers:
        now[0] += 3600 * SECOND // places
        peer.ticket = policy.add(peer, peer.group)
    print(f"\n{places} connections: add {per_item(began, places)}", end="")
    order = draw.sample(peers, places // 2)
    began = time.process_time()
    for peer in order:
        policy.note_work(peer.ticket)
    print(f", note_work {per_item(began, len(order))} (random order)", end="")
    now[0] += 10 * SECOND
    newcomers = [b"new %d" % i for i in range(20_000)]
    longest = 0.0
    began = time.process_time()
    for group in newcomers:
        before = time.process_time()
        victim: Any = policy.choose(group)
        longest = max(longest, time.process_time() - before)
        assert victim is not None
    print(f", choose {per_item(began, len(newcomers))}, the longest {1e6 * longest:.0f} us", end="")
    began = time.process_time()
    for peer in order[: places // 4]:
        policy.remove(peer.ticket)
    print(f", remove {per_item(began, places // 4)}")
    print(policy.stats())


def per_item(began: float, count: int) -> str:
    return f"{(time.process_time() - began) / count * 1e9:.0f} ns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--places", default="32,300", help="numbers of places, by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fuzz", type=int, default=0, metavar="N")
    parser.add_argument("--eclipse", action="store_true")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args()
    if options.plot:
        pyplot()  # now rather than after an hour of siege
    sizes = [int(text) for text in options.places.split(",") if text]
    fine = True
    for places in sizes:
        fine = print_scenes(places, options.seeds) and fine
    for places in sizes if options.fuzz else ():
        fine = print_fuzz(places, options.fuzz) and fine
    if options.eclipse or options.plot:
        lines = print_eclipse(sizes[0], options.seeds)
        if options.plot:
            plot(lines, options.plot)
    if options.million:
        print_million()
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
