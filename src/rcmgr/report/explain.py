"""Say in a few lines why a node refuses: what is full, what was denied, which setting to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from rcmgr.counting.denials import DenialLog
from rcmgr.counting.pacing import paced
from rcmgr.errors import printable_name
from rcmgr.limits.changes import key_of
from rcmgr.peers import peer_text
from rcmgr.report.node import Node
from rcmgr.report.usage import Usage, usages

__all__ = ["explain"]

_NEARLY_FULL = 0.9
_MOST_LINES = 5
_MOST_NAMES = 3


def explain(node: Node, used: list[Usage] | None = None) -> str:
    """A few lines for a person at a terminal. O(scopes). used: what `usages` has found."""
    return "\n".join(paced(chain(
        _what_only_reports(node), _what_is_full(usages(node) if used is None else used),
        _who_made_room(node), _what_was_denied(node.denials), _who_is_banned(node))))


def _what_only_reports(node: Node) -> Iterator[str]:
    dry_run, log = node.node_limits.dry_run, node.would_deny
    if dry_run.is_whole:
        yield "Dry run: no limit refuses anything."
    elif dry_run.limits:
        yield f"Dry run: these limits refuse nothing: {', '.join(sorted(dry_run.limits))}."
    elif log.total:
        yield "The dry run is off: limits refuse again. While it was on:"
    if not log.total:
        if dry_run.limits:
            yield "  Nothing was above them yet."
        return
    yield from _what_was_denied(log)
    made_room = node.evictions()["would_make_room"]
    if made_room:
        yield (
            f"  For {made_room} of these newcomers, the node would have evicted another connection "
            "where it could")


def _what_is_full(used: list[Usage]) -> Iterator[str]:
    full = [usage for usage in used if usage.used and usage.share >= _NEARLY_FULL]
    if not full:
        yield "Nothing is at its limit."
        return
    yield "At or near its limit now:"
    full.sort(key=lambda usage: usage.of_one_peer)
    for usage in full[:_MOST_LINES]:
        yield f"  {printable_name(usage.name)}: {_amounts(usage)}"
    if len(full) > _MOST_LINES:
        yield f"  and {len(full) - _MOST_LINES} more"


def _who_made_room(node: Node) -> Iterator[str]:
    made = node.evictions()
    if made["refused_handshakes"]:
        yield f"Handshakes refused, as their networks came too often: {made['refused_handshakes']}."
    evicted = {state: times for state, times in made["evicted"].items() if times}
    if not evicted:
        return
    by_state = ", ".join(f"{times} {state}" for state, times in evicted.items())
    yield f"Evicted for newcomers since the start: {by_state}."
    if made["leaving"] or made["cut"]:
        yield f"  {made['leaving']} of {made['most_leaving']} are closing, {made['cut']} were cut"
    choices = made["choices"]
    refused = {
        "their groups came too often": choices.get("comes_too_often", 0),
        "too many evictions in a second": choices.get("too_many_evictions", 0),
        "all connections were worth more": choices.get("all_worth_more", 0),
    }
    if any(refused.values()):
        yield "Newcomers for whom there was no room: " + ", ".join(
            f"{times} because {why}" for why, times in refused.items() if times)


def _amounts(usage: Usage) -> str:
    if "memory" in usage.name:
        used, limit = usage.used / 2**20, usage.limit / 2**20
        return f"{used:.1f} of {limit:.1f} MiB ({usage.share:.0%})"
    return f"{usage.used} of {usage.limit} ({usage.share:.0%})"


def _what_was_denied(log: DenialLog) -> Iterator[str]:
    if not log.total:
        yield "Nothing was denied yet."
        return
    denied = "Denied" if log.enforced else "Would refuse"
    by_code: Counter[str] = Counter()
    settings: dict[str, set[str]] = {}
    for error in log:
        by_code[error.code] += 1
        settings.setdefault(error.code, set()).add(error.setting)
    yield (
        f"{denied} since the start: {log.total}, {log.inbound} inbound, {log.outbound} outbound. "
        f"Of the last {len(log)}:"
    )
    most = by_code.most_common(_MOST_LINES)
    for code, times in most:
        setting = _common_setting(settings[code])
        key = key_of(setting)
        how = "" if key is None else f" (rcmgr set {key} VALUE)"
        yield f"  {times} by {code}: see {setting}{how}"
    if others := by_code.total() - sum(times for _, times in most):
        yield f"  {others} by others"
    most_often = "denied most" if log.enforced else "above limits most often"
    yield from _denied_most(
        f"Peers {most_often}",
        [(peer_text(peer), times) for peer, times in log.most_denied(_MOST_NAMES)])
    yield from _denied_most(
        f"Addresses {most_often}", log.most_denied_addresses(_MOST_NAMES))
    yield f"The setting of each code: {error.documentation.partition('#')[0]}"


def _denied_most(title: str, denied: list[tuple[str, int]]) -> Iterator[str]:
    often = [(name, times) for name, times in denied if times > 1]
    if often:
        yield f"{title}:"
    for name, times in often:
        yield f"  {times} times {printable_name(name)}"


def _who_is_banned(node: Node) -> Iterator[str]:
    bans = node.bans()
    if not bans:
        return
    count, longest = len(bans), bans[:-_MOST_LINES - 1:-1]
    # the end of a long list would stop other threads
    of_box = sum(bans.pop().by == "penalty box" for _ in paced(range(count)))
    yield f"Banned now: {count}, {of_box} of them by the penalty box. The longest:"
    for ban in longest:
        end = "until unban" if math.isinf(ban.seconds_left) else f"{ban.seconds_left:.0f} s left"
        yield f"  {ban.what}: {end}{f', {printable_name(ban.reason)}' if ban.reason else ''}"


def _common_setting(settings: set[str]) -> str:
    """The only setting, or the default that several peers or protocols share."""
    if len(settings) > 1:
        settings = {setting.partition(" or ")[0] for setting in settings}
    return ", ".join(sorted(settings)[:_MOST_LINES])
