"""The low limits of the demo, and the changes of a limits file."""

from __future__ import annotations

from pathlib import Path

from rcmgr.cli.limit_files import read_limits_file
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits

__all__ = ["DEMO_LIMITS", "DEMO_LIMITS_FILE", "DEMO_LIMITS_TOML", "MEMORY_GROWTH", "read_limits"]

DEMO_LIMITS_TOML = """\
[System]
Streams = 46
Conns = 42
Memory = "512MiB"

[Transient]
Streams = 44

[Connections]
max_pending_inbound = 12
max_pending_outbound = 6
max_established_inbound = 24
max_established_outbound = 6
max_established_per_peer = 3
max_established_total = 28
"""
DEMO_LIMITS_FILE = LimitsFile.from_toml(DEMO_LIMITS_TOML)
DEMO_LIMITS = DEMO_LIMITS_FILE.build(NodeLimits())
"""The demo's attackers reach each of these limits within seconds.

The total is less than inbound and outbound together. All connections are less than established and
pending ones together."""

MEMORY_GROWTH = 48
"""MiB that the process may grow by under attack, if a limits file does not limit its memory."""


def read_limits(path: Path) -> NodeLimits:
    """The demo's limits with those of a file. UnusableLimitsFile: it cannot be used."""
    return read_limits_file(path).build(DEMO_LIMITS)
