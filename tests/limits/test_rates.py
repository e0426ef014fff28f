"""Rates and their settings."""

from __future__ import annotations

import json
import math

import pytest

from rcmgr.limits.rates import PeerRates, Rate, RateLimits

LIMITS = RateLimits(
    default=Rate(1.0, 3),
    overrides={"dear": Rate(0.5, 2), "free": None},
    overall=Rate(10.0, 8),
    costs={"bulk": 3, "ping": 0},
    max_peers=50,
    on_full="deny_new",
)


def test_a_change_of_the_arguments_changes_no_limits() -> None:
    overrides: dict[str, Rate | None] = {"dear": Rate(0.5, 2)}
    costs = {"bulk": 5}
    limits = RateLimits(overrides=overrides, costs=costs)
    overrides["dear"] = None
    costs["bulk"] = -1
    assert limits == RateLimits(overrides={"dear": Rate(0.5, 2)}, costs={"bulk": 5})


def test_settings_there_and_back() -> None:
    written = json.loads(json.dumps(LIMITS.to_dict()))
    assert RateLimits.from_dict(written) == LIMITS
    assert written["overrides"] == {"dear": {"refill_rate": 0.5, "burst": 2}, "free": None}
    assert RateLimits.from_dict({}) == RateLimits()
    with pytest.raises(TypeError):
        LIMITS.costs["bulk"] = 1  # type: ignore[index]
    assert hash(Rate(1.0, 3)) == hash(Rate(1.0, 3))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"defualt": None}, ValueError, "unknown name 'defualt' in rate limits: known are default"),
        ({"default": 5}, TypeError, "default must be a table of refill_rate and burst, not 5"),
        ({"default": {"burst": 1}}, ValueError, "default: a rate needs 'refill_rate'"),
        (
            {"default": {"refill_rate": 1, "burst": 1, "per": "day"}},
            ValueError,
            "default: unknown name 'per' in a rate",
        ),
        (
            {"overrides": {"op": {"refill_rate": 0, "burst": 1}}},
            ValueError,
            r"overrides\['op'\]: refill_rate must be above 0 tokens per second, not 0",
        ),
        ({"overall": {"refill_rate": 1, "burst": 0}}, ValueError, "overall: burst must be from 1"),
        ({"overrides": 1}, TypeError, "overrides must be a table"),
        ({"costs": {"op": -1}}, ValueError, r"costs\['op'\] must be 0 or more, not -1"),
        ({"costs": {"op": 1.5}}, TypeError, r"costs\['op'\] must be an int, not 1.5"),
        ({"max_peers": 0}, ValueError, "max_peers must be 1 or more, not 0"),
        ({"on_full": "x"}, ValueError, "on_full must be one of evict_fullest, deny_new, not 'x'"),
    ],
)
def test_bad_settings(values: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RateLimits.from_dict(values)


@pytest.mark.parametrize(
    ("refill_rate", "burst", "error", "message"),
    [
        (0, 1, ValueError, "refill_rate must be above 0"),
        (math.nan, 1, ValueError, "refill_rate must be above 0"),
        ("1", 1, TypeError, "refill_rate must be a float or an int"),
        (1, 0, ValueError, "burst must be from 1"),
        (1, 1.5, TypeError, "burst must be an int"),
        (1e-9, 100, ValueError, "burst 100 at refill_rate 1e-09 takes more than 50 years to fill"),
        (5e11 / 3, 2**40, ValueError, "does not fit"),
    ],
)
def test_rates_are_checked(
    refill_rate: float, burst: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Rate(refill_rate, burst)


def test_peer_rates_are_checked() -> None:
    assert PeerRates(Rate(1, 2)) == PeerRates(Rate(1, 2), 100_000, "evict_fullest")
    with pytest.raises(TypeError, match="rate must be a Rate, not 5"):
        PeerRates(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_peers must be 1 or more, not 0"):
        PeerRates(Rate(1, 2), 0)
    with pytest.raises(ValueError, match="on_full must be one of"):
        PeerRates(Rate(1, 2), on_full="x")
