"""The engine's rates and places as exact integers in Python, for tests of the script and of bounds.

It says the same as the script EXCHANGE, on a clock that the test sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rcmgr.fleet.exchange import LIFE_S

AHEAD_US = 100_000
LIFE_US = round(LIFE_S * 1e6)


@dataclass
class EngineModel:
    now_us: int = 10_000_000
    full_us: dict[tuple[str, bytes], int] = field(default_factory=dict)
    held: dict[bytes, dict[str, int]] = field(default_factory=dict)
    seen_us: dict[str, int] = field(default_factory=dict)

    def beat(self, node: str) -> tuple[int, bool]:
        """Nodes alive, and whether the engine did not know this one."""
        is_new = abs(self.now_us - self.seen_us.get(node, 0)) > LIFE_US
        self.seen_us[node] = self.now_us
        return sum(abs(self.now_us - each) <= LIFE_US for each in self.seen_us.values()), is_new

    def lease(
        self, rate: str, member: bytes, ticks: tuple[int, int, int], charge: int, want: int
    ) -> tuple[int, int]:
        """Tokens, and microseconds until the bucket is full."""
        per_us, cost, burst = ticks
        limit = burst + AHEAD_US * per_us
        debt = max(0, self.full_us.get((rate, member), 0) - self.now_us) * per_us
        if debt > 2 * limit:
            debt = limit
        debt = min(2 * limit, max(0, debt + charge * cost))
        granted = 0
        if want > 0 and debt + cost <= limit:
            granted = min(want, max(1, (limit - debt) // cost // 2))
            debt += granted * cost
        left = -(-debt // per_us)
        if left > 0:
            self.full_us[rate, member] = self.now_us + left
        else:  # a full bucket is forgotten, so it is full after the clock steps back too
            self.full_us.pop((rate, member), None)
        return granted, left

    def places(self, node: str, key: bytes, held: int) -> int:
        """The places that other living nodes hold."""
        by_node = self.held.setdefault(key, {})
        by_node[node] = held
        return sum(
            places for other, places in by_node.items()
            if other != node and abs(self.now_us - self.seen_us.get(other, 0)) <= LIFE_US)
