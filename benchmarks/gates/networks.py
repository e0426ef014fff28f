"""The cost of limits by address, and of an allowlist with networks.

    python -m benchmarks.gates.networks [--processes N] [--check]

The fastest of many rounds for each address. Each line is the median of several fresh processes.
--check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from benchmarks.timing import Run, fastest, noop, repeated
from benchmarks.verdict import Figures, benchmark_main
from rcmgr import AddressGate, AddressRates, Allowlist, Rate, SubnetLimits

ROUNDS, SAMPLE = 9, 2_000
SIZES = (10, 100_000)


def entering(gate: AddressGate, addresses: list[str]) -> Run:
    def run() -> None:
        for address in addresses:
            share: Any = gate.try_enter(address, True)
            if share:
                share.close()

    return run


def looking_up(allowlist: Allowlist) -> Run:
    packed = [bytes([10, 1, i >> 8 & 255, i & 255]) for i in range(SAMPLE)]

    def run() -> None:
        for ip in packed:
            allowlist.allows_address(ip)

    return run


def measure() -> Figures:
    draw = random.Random(1)
    addresses = [
        f"/ip4/10.{draw.randrange(256)}.{draw.randrange(256)}.1/tcp/1" for _ in range(SAMPLE)
    ]
    rates = AddressRates(ipv4=((32, Rate(1e6, 10**6)),))
    runs = {
        "enter and leave, subnets": entering(AddressGate(SubnetLimits()), addresses),
        "enter and leave, subnets and rates":
            entering(AddressGate(SubnetLimits(), rates), addresses),
    }
    for size in SIZES:
        allowlist = Allowlist(f"11.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(size))
        runs[f"not in an allowlist of {size:,}"] = looking_up(allowlist)
    best = fastest({**runs, "call": repeated(noop, SAMPLE)}, rounds=ROUNDS, operations=SAMPLE)
    call = best.pop("call")
    figures: Figures = {}
    for what, ns in best.items():
        figures |= {f"{what}: ns": ns, f"{what}: calls": ns / call}
    few, many = (best[f"not in an allowlist of {size:,}"] for size in SIZES)
    figures[f"not in an allowlist of {SIZES[1]:,}: times slower than of {SIZES[0]}"] = many / few
    return figures


if __name__ == "__main__":
    sys.exit(benchmark_main("gates.networks", __doc__, measure))
