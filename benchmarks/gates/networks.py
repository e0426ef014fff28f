"""The cost of limits by address, and of an allowlist with networks.

    python -m benchmarks.gates.networks

Nanoseconds per address in one process, the fastest of many rounds.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks.timing import Run, fastest
from rcmgr import AddressGate, AddressRates, Allowlist, Rate, SubnetLimits

ROUNDS, SAMPLE = 9, 2_000


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


def main() -> None:
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
    for size in (10, 100_000):
        allowlist = Allowlist(f"11.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(size))
        runs[f"not in an allowlist of {size:,}"] = looking_up(allowlist)
    for what, ns in fastest(runs, rounds=ROUNDS, operations=SAMPLE).items():
        print(f"{what:<40}{ns:>6.0f} ns")


if __name__ == "__main__":
    main()
