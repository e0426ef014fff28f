"""Limits on a fleet: their checks, and their place in a file."""

from __future__ import annotations

from typing import Any

import pytest

from rcmgr import FleetLimits, FleetPlaces, LimitsFile, LimitsFileError, Rate
from rcmgr.limits.node import INFINITE_LIMITS

RATE = Rate(10.0, 50)
FILE = """
[Fleet]
rate = {refill_rate = 100, burst = 20}
on_loss = "refuse"
[Fleet.Peer]
Conns = 16
[Fleet.Network]
Conns = 100
[Fleet.protocols."/x/1"]
refill_rate = 10
burst = 50
"""


def test_a_file_has_the_section() -> None:
    limits = LimitsFile.from_toml(FILE).build(INFINITE_LIMITS)
    assert limits.fleet == FleetLimits(
        rate=Rate(100, 20), on_loss="refuse", peer=FleetPlaces(connections=16),
        network=FleetPlaces(100), protocols={"/x/1": RATE})
    again = LimitsFile.from_json(LimitsFile.of(limits).to_json()).build(INFINITE_LIMITS)
    assert again == limits


@pytest.mark.parametrize(("values", "message"), [
    ({"rate": 5}, "^rate must be a Rate"),
    ({"peer_rate": Rate(1e-6, 1000)}, "^peer_rate: burst 1000 at refill_rate 1e-06 does not fit"),
    ({"protocols": [1]}, "^protocols must be rates by protocol"),
    ({"protocols": {5: RATE}}, "^protocols: a protocol must be text, not 5"),
    ({"protocol_peers": {"x": None}}, r"^protocol_peers\['x'\] must be a Rate, not None"),
    ({"peer": 16}, "^peer must be a FleetPlaces, not 16"),
    ({"network": FleetPlaces(1, 2)}, r"^network\.streams must be None, not 2"),
    ({"on_loss": "wait"}, "^on_loss must be one of local, refuse, not 'wait'"),
    ({"ipv4_prefix": 33}, "^ipv4_prefix must be 1 to 32"),
    ({"ipv6_prefix": 0}, "^ipv6_prefix must be 1 or more"),
    ({"exempt": 5}, "^exempt must be a collection of networks, not 5"),
    ({"exempt": "::1"}, "^exempt must be a collection of networks, not '::1'"),
    ({"exempt": ["x"]}, "^not an IP address or network: 'x'"),
    ({"nodes_at_start": 0}, "^nodes_at_start must be 1 or more"),
    ({"most_keys": 0}, "^most_keys must be 1 or more"),
])
def test_a_wrong_value_names_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FleetLimits(**values)


@pytest.mark.parametrize("field", ["connections", "streams"])
def test_places_are_counts(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be 0 or more"):
        FleetPlaces(**{field: -1})


def test_a_file_names_an_unknown_key() -> None:
    with pytest.raises(LimitsFileError, match=r"^Fleet\.Peer\.connections: unknown key"):
        LimitsFile.from_toml("[Fleet.Peer]\nconnections = 1")
