"""The question of a node, and the answer of the engine, in one call of a script."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from rcmgr.counting.leases import LeaseTable, PlaceTable
from rcmgr.limits.checks import bucket_ticks
from rcmgr.limits.fleet import MOST_TICKS
from rcmgr.limits.rates import Rate

__all__ = ["LIFE_S", "MOST_ENTRIES", "Answer", "LeasedRate", "Question", "SharedPlaces"]

LIFE_S: Final = 5.0
"""Seconds without a call after which a node counts as dead."""
MOST_ENTRIES: Final = 6
"""Leases and places in one call, so that it is short for the engine."""


@dataclass(frozen=True)
class LeasedRate:
    """A rate of the fleet, and the leases of this node."""

    name: str
    rate: Rate
    table: LeaseTable
    most_keys: int

    @cached_property
    def ticks(self) -> tuple[int, int, int]:
        """Ticks per microsecond, per token, and of the burst."""
        scale, cost = bucket_ticks(
            self.rate.burst, self.rate.refill_rate, 1 << 10, MOST_TICKS, capacity_name="burst")
        return 1000 * scale, cost, self.rate.burst * cost


@dataclass(frozen=True)
class SharedPlaces:
    """A number of places of the fleet by key, and this node's part of them."""

    name: str
    limit: int
    table: PlaceTable
    held: Callable[[Any], int]
    """Returns the places that a key holds on this node."""


class Answer(NamedTuple):
    """The news about the fleet, from the script BEAT."""

    nodes: int
    is_new: bool
    """The engine did not know this node, or took it for dead."""
    bans: tuple[int, int]
    """The generation and the version of the bans. 0, 0: it has no bans."""

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Answer:
        nodes, is_new, generation, version = map(int, reply)
        return cls(max(1, nodes), bool(is_new), (generation, version))


class Question:
    """One call of the script EXCHANGE. It takes entries from the tables, and gives them answers."""

    def __init__(
        self, rates: Sequence[LeasedRate], places: Sequence[SharedPlaces], first: int = 0
    ) -> None:
        """first: the table that is asked first; the others follow."""
        self._leases: list[tuple[LeasedRate, Hashable, int, int]] = []
        self._places: list[tuple[SharedPlaces, Hashable, int]] = []
        tables: list[LeasedRate | SharedPlaces] = [*rates, *places]
        for number in range(len(tables)):
            self._collect(tables[(first + number) % len(tables)])

    def _collect(self, table: LeasedRate | SharedPlaces) -> None:
        most = MOST_ENTRIES - len(self._leases) - len(self._places)
        if isinstance(table, LeasedRate):
            self._leases += [(table, *entry) for entry in table.table.collect(most)]
        else:
            self._places += [(table, *entry) for entry in table.table.collect(most, table.held)]

    def __bool__(self) -> bool:
        """Whether it has entries."""
        return bool(self._leases or self._places)

    def keys(self, prefix: str) -> list[bytes]:
        """The keys of the script."""
        return [
            f"{prefix}nodes".encode(),
            *(f"{prefix}rate:{rate.name}".encode() for rate in self._rates()),
            *(f"{prefix}held:{places.name}:".encode() + _member(key)
              for places, key, _ in self._places),
        ]

    def _rates(self) -> list[LeasedRate]:
        return list({rate.name: rate for rate, _, _, _ in self._leases}.values())

    def arguments(self, node: str) -> list[Any]:
        rates = self._rates()
        numbers = {rate.name: number for number, rate in enumerate(rates, 1)}
        said: list[Any] = [node, round(LIFE_S * 1e6), len(rates)]
        for rate in rates:
            said += [*rate.ticks, rate.most_keys]
        said.append(len(self._leases))
        for rate, key, charge, want in self._leases:
            said += [numbers[rate.name], _member(key), charge, want]
        said.append(len(self._places))
        said += [held for _, _, held in self._places]
        return said

    def settle(self, reply: Sequence[Any]) -> None:
        """Give the tables their answers."""
        rest = [int(each) for each in reply]
        for number, (rate, key, _, _) in enumerate(self._leases):
            granted, left_us = rest[2 * number:2 * number + 2]
            rate.table.settle(key, granted, left_us * 1000)
        for (places, key, _), others in zip(
            self._places, rest[2 * len(self._leases):], strict=True
        ):
            places.table.settle(key, others)

    def abandon(self) -> None:
        """The engine did not answer."""
        for rate, key, _, _ in self._leases:
            rate.table.abandon(key)
        for places, key, _ in self._places:
            places.table.abandon(key)


def _member(key: Hashable) -> bytes:
    """A peer key, or the key of a network, as the engine keeps it."""
    return key if isinstance(key, bytes) else str(key).encode(errors="surrogatepass")

