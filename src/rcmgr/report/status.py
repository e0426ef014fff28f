"""The status document: what a running node says about itself, for `rcmgr top` and other readers."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from rcmgr import __version__
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.pacing import paced
from rcmgr.errors import shortened
from rcmgr.peers import peer_text
from rcmgr.report.explain import explain
from rcmgr.report.node import Node
from rcmgr.report.stats import denied_by_limit
from rcmgr.report.usage import usages

__all__ = ["FORMAT", "is_complete", "status_of"]

FORMAT = 1
_MOST_DENIALS = 50
_END_OF_TIME = 1e11
_STATES = (
    "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
    "established_per_peer", "established_total",
)


def status_of(node: Node) -> dict[str, Any]:
    """The status of a node, ready for JSON. O(scopes). It lets other threads run meanwhile."""
    log, tracker = node.denials, node.connection_tracker.snapshot()
    used = usages(node)
    return {
        "format": FORMAT,
        "rcmgr": __version__,
        "pid": os.getpid(),
        "time": time.time(),
        "usage": [
            {
                "limit": shortened(each.name),
                "used": each.used,
                "of": each.limit,
                "share": each.share,
                "peak": each.peak,
            }
            for each in used
        ],
        "stats": node.get_stats(),
        "scopes": _with_short_names(node.ledger.snapshot(peers=False)),
        "peak": node.ledger.peak,
        "peak_states": {state: getattr(tracker, f"peak_{state}") for state in _STATES},
        "denials": _counts(log, denied_by_limit(node)),
        "latest_denials": _latest(log),
        "dry_run": _dry_run(node),
        "explanation": explain(node, used),
    }


def _dry_run(node: Node) -> dict[str, Any]:
    """The limits that refuse nothing, and what they would have refused."""
    dry_run, log = node.node_limits.dry_run, node.would_deny
    return {
        "limits": sorted(dry_run.limits),
        "is_whole": dry_run.is_whole,
        "would_deny": _counts(log, log.by_code()),
        "latest": _latest(log),
    }


def _counts(log: DenialLog, by_limit: dict[str, int]) -> dict[str, Any]:
    return {
        "total": log.total, "inbound": log.inbound, "outbound": log.outbound,
        "by_limit": by_limit,
        "by_peer": [
            {"peer": shortened(peer_text(peer)), "times": times}
            for peer, times in log.most_denied()
        ],
        "by_address": [
            {"address": shortened(address), "times": times}
            for address, times in log.most_denied_addresses()
        ],
    }


def _latest(log: DenialLog) -> list[dict[str, Any]]:
    return [
        {"seconds_ago": entry.seconds_ago, "inbound": entry.inbound,
         **_with_short_names(entry.error.to_dict())}
        for entry in paced(log.entries()[-_MOST_DENIALS:])]


def _with_short_names(values: dict[str, Any]) -> dict[str, Any]:
    """Names that strangers may have chosen are cut, so that they cannot fill the document."""
    return {
        shortened(name): _with_short_names(value) if isinstance(value, dict)
        else shortened(value) if isinstance(value, str) and name not in ("message", "setting")
        else value
        for name, value in values.items()
    }


def is_complete(status: dict[str, Any]) -> bool:
    """Whether a document has all parts that readers show: any program may have written it."""
    match status:
        case {
            "rcmgr": str(), "pid": int(), "time": int() | float() as now, "explanation": str(),
            "stats": {"connections": int(), "peers": int(), "streams": int()},
            "usage": list(usage), "latest_denials": list(latest),
            "denials": {"total": int(), "by_limit": dict(by_limit)},
        }:
            return (
                0 <= now < _END_OF_TIME
                and all(map(_is_usage, usage))
                and _is_dry_run(status.get("dry_run"))
                and all(isinstance(times, int) for times in by_limit.values())
                and all(
                    isinstance(each, dict) and isinstance(each.get("message"), str)
                    for each in latest)
            )
    return False


def _is_dry_run(dry_run: Any) -> bool:
    match dry_run:
        case None:  # an earlier version wrote the status
            return True
        case {
            "limits": list(limits), "is_whole": bool(),
            "would_deny": {"total": int(), "by_limit": dict(by_limit)},
        }:
            return all(isinstance(each, str) for each in limits) and all(
                isinstance(times, int) for times in by_limit.values())
    return False


def _is_usage(usage: Any) -> bool:
    match usage:
        case {
            "limit": str(), "used": int(), "of": int(), "share": int() | float() as share,
            "peak": int() | None,
        }:
            return math.isfinite(share)
    return False
