"""The nodes and the bans of a fleet, read from the engine by two commands or three."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rcmgr.errors import shortened
from rcmgr.fleet.engine import Engine
from rcmgr.fleet.exchange import LIFE_S

__all__ = ["FleetBan", "FleetBans", "ban_from", "read_bans", "read_nodes"]

_BY: Final = ("operator", "penalty box")
_NUMBERS: Final = ("connections", "streams", "peers", "denied", "calls")


@dataclass(frozen=True)
class FleetBan:
    """A ban of the fleet: the fields of `rcmgr.Ban`, and the unique name of its node."""

    what: str
    seconds_left: float
    reason: str
    by: str
    times: int
    node: str
    origin: str


@dataclass(frozen=True)
class FleetBans:
    """All bans of the fleet at one moment."""

    bans: Mapping[str, FleetBan]
    generation: int
    version: int

    def listed(self) -> list[dict[str, Any]]:
        """Ready for JSON, those that end first in front."""
        return [
            {"what": ban.what, "reason": ban.reason, "by": ban.by, "times": ban.times,
             "node": ban.node,
             "seconds_left": None if math.isinf(ban.seconds_left) else ban.seconds_left}
            for ban in sorted(self.bans.values(), key=lambda each: each.seconds_left)]


def ban_from(what: str, seconds_left: float, said: object) -> FleetBan:
    """A ban from what another node wrote. Any program may have written it."""
    values = said if isinstance(said, dict) else {}
    reason, by, times, node, origin = (
        values.get(each) for each in ("reason", "by", "times", "node", "from"))
    return FleetBan(
        what, seconds_left,
        reason if isinstance(reason, str) else "",
        by if isinstance(by, str) and by in _BY else _BY[0],
        times if type(times) is int and 0 <= times < 1 << 31 else 0,
        shortened(node) if isinstance(node, str) else "",
        origin if isinstance(origin, str) else "")


def read_bans(engine: Engine, prefix: str) -> FleetBans:
    """EngineError."""
    ends = engine.call("zrange", f"{prefix}bans", 0, -1, withscores=True)
    reasons = engine.call("hgetall", f"{prefix}reasons")
    now = _now(engine)
    numbers = {b"!g": 0, b"!v": 0}
    bans = {}
    for member, end in ends:
        if member in numbers:
            numbers[member] = round(-end)
        elif end > now:
            what = member.decode(errors="replace")
            left = math.inf if math.isinf(end) else (end - now) / 1e6
            bans[what] = ban_from(what, left, _loaded(reasons.get(member, b"")))
    return FleetBans(bans, numbers[b"!g"], numbers[b"!v"])


def read_nodes(engine: Engine, prefix: str) -> list[dict[str, Any]]:
    """The nodes that are alive, by name: what each wrote last, and its age. EngineError."""
    seen = dict(engine.call("zrange", f"{prefix}nodes", 0, -1, withscores=True))
    uses = engine.call("hgetall", f"{prefix}use")
    now = _now(engine)
    found = []
    for member, last in seen.items():
        age = (now - last) / 1e6
        if abs(age) > LIFE_S:
            continue
        use = _loaded(uses.get(member, b""))
        values = use if isinstance(use, dict) else {}
        name = values.get("node")
        denied_by = values.get("denied_by")
        found.append({
            "node": shortened(name) if isinstance(name, str) else member.decode(errors="replace"),
            "seconds_ago": max(0.0, age),
            **{each: _count(values.get(each)) for each in _NUMBERS},
            "denied_by": {
                shortened(limit): times for limit, times in _items(denied_by)
                if type(times) is int},
        })
    return sorted(found, key=lambda each: str(each["node"]))


def _items(table: object) -> Iterable[tuple[Any, Any]]:
    return table.items() if isinstance(table, dict) else ()


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 1 << 62 else 0


def _now(engine: Engine) -> int:
    seconds, microseconds = engine.call("time")
    return int(seconds) * 1_000_000 + int(microseconds)


def _loaded(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
