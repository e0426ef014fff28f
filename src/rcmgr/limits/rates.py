"""Rates of requests and connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from rcmgr.limits.checks import bucket_ticks, check_count, check_names, check_table
from rcmgr.limits.names import suggests_arguments

__all__ = ["PeerRates", "Rate", "RateLimits", "check_rate"]

_TABLE_SCALE = 1 << 16  # the scale of `BucketTable`, which is coarser than that of `TokenBucket`


@suggests_arguments
@dataclass(frozen=True, slots=True)
class Rate:
    """`refill_rate` requests per second in the long run, and `burst` at once.

    refill_rate: above 0; inf: no limit. burst: 1 or more.
    TypeError, ValueError: a bucket cannot count this rate.
    """

    refill_rate: float
    burst: int

    def __post_init__(self) -> None:
        bucket_ticks(self.burst, self.refill_rate, _TABLE_SCALE, capacity_name="burst")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rate:
        """From {"refill_rate": ..., "burst": ...}. ValueError: a name is missing or unknown."""
        check_names("a rate", values, [f.name for f in fields(cls)], required=True)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Both fields by name, ready for JSON (an infinite rate is inf)."""
        return {"refill_rate": self.refill_rate, "burst": self.burst}


@suggests_arguments
@dataclass(frozen=True, slots=True)
class RateLimits:
    """The rates of a `RateLimiter` or `ProtocolRateLimiter`.

    default: the rate of every resource or operation that is not in `overrides`; None: no limit.
    overrides: rates of resources or operations by name; None: no limit.
    overall: one rate for all requests together, in addition to the others; None: no limit.
    costs: tokens that a request takes, by name of its operation, 0 or more. The default is 1.
    max_peers, on_full: the size of each table of buckets; see `BucketTable`.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    default: Rate | None = None
    overrides: Mapping[str, Rate | None] = field(default_factory=dict)
    overall: Rate | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    max_peers: int = 100_000
    on_full: str = "evict_fullest"

    def __post_init__(self) -> None:
        check_rate("default", self.default)
        check_rate("overall", self.overall)
        for name, rate in self.overrides.items():
            check_rate(f"overrides[{name!r}]", rate)
        for name, cost in self.costs.items():
            check_count(f"costs[{name!r}]", cost)
        check_table("max_peers", self.max_peers, self.on_full)
        # the mappings must be frozen too
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))
        object.__setattr__(self, "costs", MappingProxyType(dict(self.costs)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RateLimits:
        """The inverse of `to_dict`. Names that `values` leaves out have their defaults.

        ValueError: an unknown name, or as the constructor. TypeError: as the constructor.
        """
        check_names("rate limits", values, [f.name for f in fields(cls)])
        rates: dict[str, Any] = {
            name: _rate_from(name, values[name])
            for name in ("default", "overall")
            if name in values
        }
        if "overrides" in values:
            if not isinstance(values["overrides"], Mapping):
                raise TypeError(f"overrides must be a table, not {values['overrides']!r}")
            rates["overrides"] = {
                name: _rate_from(f"overrides[{name!r}]", rate)
                for name, rate in values["overrides"].items()
            }
        return cls(**{**values, **rates})

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON (an infinite rate is inf)."""
        return {
            "default": _rate_to(self.default),
            "overrides": {name: _rate_to(rate) for name, rate in self.overrides.items()},
            "overall": _rate_to(self.overall),
            "costs": dict(self.costs),
            "max_peers": self.max_peers,
            "on_full": self.on_full,
        }


@suggests_arguments
@dataclass(frozen=True, slots=True)
class PeerRates:
    """How often one peer may connect. The rate is asked after the handshake.

    max_peers, on_full: the size of the table of buckets; see `BucketTable`.
    """

    rate: Rate
    max_peers: int = 100_000
    on_full: str = "evict_fullest"

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise TypeError(f"rate must be a Rate, not {self.rate!r}")
        check_table("max_peers", self.max_peers, self.on_full)


def _rate_from(name: str, value: Any) -> Rate | None:
    if value is None or isinstance(value, Rate):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a table of refill_rate and burst, not {value!r}")
    try:
        return Rate.from_dict(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _rate_to(rate: Rate | None) -> dict[str, Any] | None:
    return None if rate is None else rate.to_dict()


def check_rate(name: str, value: object) -> None:
    if value is not None and not isinstance(value, Rate):
        raise TypeError(f"{name} must be a Rate or None (no limit), not {value!r}")
