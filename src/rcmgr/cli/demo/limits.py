"""The demo's limits: low ones by default, or those of a TOML file."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from rcmgr.limits.checks import check_limit
from rcmgr.limits.parts import ResourceLimits
from rcmgr.limits.states import ConnectionLimits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DEFAULT_LIMITS", "Limits", "LimitsFileError", "read_limits"]

NO_LIMIT = "none"
"""What a limits file says for no limit: TOML has no null."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything that the demo's host is limited by."""

    connections: ConnectionLimits
    resources: ResourceLimits
    max_transient_streams: int | None = 44
    """Streams whose protocol is not negotiated; libp2p.rcmgr has no such limit."""
    memory_growth_mb: int = 48
    """MiB that the process may grow by under attack."""

    def __post_init__(self) -> None:
        check_limit("max_transient_streams", self.max_transient_streams)
        check_limit("memory_growth_mb", self.memory_growth_mb)
        if self.memory_growth_mb is None:
            raise TypeError("memory_growth_mb must be an int, not None")

    def changed(self, name: str, value: object) -> Limits:
        """With one limit set. KeyError: no such limit. TypeError, ValueError: no such value."""
        changes: dict[str, Any]
        for part in ("connections", "resources"):
            limits = getattr(self, part)
            if name in (field.name for field in fields(limits)):
                changes = {part: replace(limits, **{name: value})}
                return replace(self, **changes)
        if name in ("max_transient_streams", "memory_growth_mb"):
            changes = {name: value}
            return replace(self, **changes)
        raise KeyError(name)

    def to_dict(self) -> dict[str, int | None]:
        """All limits by name; None: no limit."""
        return {
            **self.connections.to_dict(),
            **asdict(self.resources),
            "max_transient_streams": self.max_transient_streams,
            "memory_growth_mb": self.memory_growth_mb,
        }


DEFAULT_LIMITS = Limits(
    ConnectionLimits(
        max_pending_inbound=12,
        max_pending_outbound=6,
        max_established_inbound=24,
        max_established_outbound=6,
        max_established_per_peer=3,
        max_established_total=28,
    ),
    ResourceLimits(max_connections=42, max_streams=46),
)
"""Low enough that the demo's attackers reach each of them within seconds; the total is less than
inbound and outbound together, and all connections less than established and pending together."""


class LimitsFileError(click.UsageError):
    """A limits file that cannot be used: `path`, `field` (None: the file as a whole), `reason`."""

    def __init__(self, path: Path, field: str | None, reason: str) -> None:
        self.path, self.field, self.reason = path, field, reason
        super().__init__(": ".join(str(part) for part in (path, field, reason) if part is not None))


def read_limits(path: Path) -> Limits:
    """The limits of a TOML file; those it does not name are the demo's.

    LimitsFileError: it cannot be read, is not TOML, or has an unknown name or a bad value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LimitsFileError(path, None, error.strerror or str(error)) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise LimitsFileError(path, None, f"not a TOML file: {error}") from error
    limits = DEFAULT_LIMITS
    for name, value in values.items():
        try:
            limits = limits.changed(name, None if value == NO_LIMIT else value)
        except KeyError:
            reason = f"unknown limit; known are {', '.join(limits.to_dict())}"
            if isinstance(value, dict):
                reason += ". The demo does not read the limits files of nodes (rcmgr limits --help)"
            raise LimitsFileError(path, name, reason) from None
        except (TypeError, ValueError) as error:
            # a limits file has a word of its own for None
            reason = str(error).removeprefix(f"{name} ").replace("None (no", f'"{NO_LIMIT}" (no')
            raise LimitsFileError(path, name, reason) from error
    return limits
