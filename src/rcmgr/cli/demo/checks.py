"""The verdict of the demo: six conditions that must hold."""

from __future__ import annotations

from collections.abc import Callable

import trio
from libp2p.peer.id import ID

from .processes import Visitor
from .run_state import Check, Run, Visited
from .run_text import newcomers_line

__all__ = [
    "all_given_back",
    "attackers_worked",
    "has_gone",
    "honest_peer_pinged",
    "honest_peer_served",
    "memory_kept",
    "newcomers_served",
    "no_limit_passed",
    "wait_until",
]

MUST_SERVE = 0.95
PONG_TIMEOUT_S = 5.0
"""Seconds that the honest peer's last ping may take."""


async def honest_peer_served(run: Run) -> Check:
    """As `honest_peer_pinged`, and the host must have a connection to the peer."""
    check, peer_id = await honest_peer_pinged(run.honest), run.honest.peer_id
    if check.held and (peer_id is None or not run.view.has(ID.from_base58(peer_id))):
        return Check(check.what, False, "the host has no connection to it")
    return check


async def honest_peer_pinged(honest: Visitor) -> Check:
    """Wait for one more ping of the honest peer."""
    answered = len(honest.pings_ms)
    with trio.move_on_after(PONG_TIMEOUT_S):
        await wait_until(lambda: len(honest.pings_ms) > answered or has_gone(honest))
    what = "The honest peer stayed connected"
    if has_gone(honest):
        return Check(what, False, f"it lost its connection: {honest.lost or honest.died}")
    if len(honest.pings_ms) == answered:
        return Check(what, False, f"no answer to its last ping within {PONG_TIMEOUT_S:.0f} s")
    return Check(what, True, f"{len(honest.pings_ms)} pings answered on one stream")


def newcomers_served(run: Visited) -> Check:
    """A newcomer that is still under way at the end does not count."""
    served, came = run.served()
    held = run.newcomers.unmeasured is not None or served >= MUST_SERVE * came
    return Check("Honest newcomers got in", held, newcomers_line(run))


def attackers_worked(run: Visited) -> Check:
    what = "Every attacker attacked to the end"
    for visitor in run.attackers:
        if visitor.died is not None:
            return Check(what, False, f"{visitor.role} ended: {visitor.died}")
        if not visitor.tried:
            return Check(what, False, f"{visitor.role} has not tried anything")
    tries = sum(visitor.tried for visitor in run.attackers)
    return Check(what, True, f"{tries} tries from {len(run.attackers)} processes")


def no_limit_passed(run: Run) -> Check:
    """Compare the peaks that the manager reports, and those of the swarm, with the limits."""
    what = "No count passed its limit"
    limits = {row.name: row.limit for row in run.rows()}
    passed = [f"{row.name} {row.peak} of {row.limit}" for row in run.rows() if row.passed]
    passed += [
        f"{name} {peak} of {limit} in the swarm"
        for name, peak in run.view.peaks.items()
        if (limit := limits[name]) is not None and peak > limit
    ]
    if passed:
        return Check(what, False, ", ".join(dict.fromkeys(passed)))
    reached = sum(row.reached for row in run.rows())
    return Check(what, True, f"{reached} of {len(limits)} limits were reached")


def memory_kept(run: Run) -> Check:
    memory = run.manager.memory()
    detail = (
        f"peak {memory.peak} of {memory.limit} MiB plus {memory.slack} MiB of tolerance, "
        f"{memory.denied} denials"
    )
    return Check("The process's memory stayed at its limit", not memory.passed, detail)


def all_given_back(run: Run) -> Check:
    what = "Every count is zero after all peers left"
    held = [f"{row.name} {row.now}" for row in run.rows() if row.now]
    if held:
        return Check(what, False, f"still counted: {', '.join(held)}")
    return Check(what, True, "nothing is held")


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - counters have no event
        await trio.sleep(0.02)


def has_gone(visitor: Visitor) -> bool:
    return visitor.lost is not None or visitor.died is not None
