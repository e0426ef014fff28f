"""TOML that people edit: its comments, sizes and escapes."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from rcmgr.limits.descriptions import KEYS, LIMITS, SECTIONS
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.penalties import PenaltyBox
from rcmgr.limits.rates import PeerRates, Rate
from rcmgr.limits.toml_writer import to_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_each_section_and_key_has_a_comment() -> None:
    text = LimitsFile.of(NodeLimits(
        subnets=SubnetLimits(), rates=AddressRates(overall=Rate(1, 1)),
        peer_rates=PeerRates(Rate(1, 1)), penalties=PenaltyBox(), fleet=FleetLimits(),
    )).to_toml()
    lines = text.splitlines()
    for section in (*KEYS, "System", "Stream"):
        assert f"[{section}] # {SECTIONS[section]}" in lines
    for section, keys in {"System": LIMITS, **KEYS}.items():
        part = text[text.index(f"[{section}]"):]
        for key, comment in keys.items():
            [line] = [line for line in part.splitlines()
                      if line.startswith((f"{key} =", f"[{section}.{key}]"))][:1]
            assert line.endswith(f" # {comment}")


def test_only_the_first_scope_explains_its_keys() -> None:
    text = to_toml({"Transient": {"Streams": 1}, "PeerDefault": {"Streams": 2}})
    assert text == (
        f"[Transient] # {SECTIONS['Transient']}\nStreams = 1 # {LIMITS['Streams']}\n\n"
        f"[PeerDefault] # {SECTIONS['PeerDefault']}\nStreams = 2\n")


def test_values_that_are_left_out_are_comments() -> None:
    lines = to_toml({"ProcessMemory": {"max_bytes": 2048}}).splitlines()
    assert lines[1] == f"max_bytes = \"2KiB\" # {KEYS['ProcessMemory']['max_bytes']}"
    assert f"# hysteresis = 0.02 # {KEYS['ProcessMemory']['hysteresis']}" in lines
    uncommented = "\n".join(line.removeprefix("# ") for line in lines)
    assert LimitsFile.from_toml(uncommented).build(NodeLimits()).memory.max_bytes == 2048


def test_a_word_for_a_section_stands_above_all_tables() -> None:
    tree = {"System": {"FD": 1}, "Rates": "unlimited", "Subnets": {"overrides": {"::1": 5}}}
    assert tomllib.loads(to_toml(tree)) == tree
    assert to_toml(tree).startswith('Rates = "unlimited" # ')


@pytest.mark.parametrize(
    "name", ["a b", "", "x.y", 'x"y', "x\\y", "\x7f\n", "\u2028", "'", "\U0001f600"])
def test_names_are_escaped(name: str) -> None:
    tree: dict[str, Any] = {
        "Protocol": {name: {"FD": 1}, "other": {"FD": 2}}, "Service": {name: {}}}
    assert tomllib.loads(to_toml(tree)) == tree


def test_a_line_stays_short_with_many_networks() -> None:
    """A reader refuses long lines."""
    networks = {f"10.{i // 256}.{i % 256}.0/24": Rate(1, i + 1) for i in range(2000)}
    node = NodeLimits(
        subnets=SubnetLimits(tuple((i, i) for i in range(33)), tuple((i, i) for i in range(129))),
        rates=AddressRates(ipv6=tuple((i, Rate(1, 1)) for i in range(129)), overrides=networks),
        penalties=PenaltyBox(exempt=frozenset(networks)))
    assert LimitsFile.from_toml(LimitsFile.of(node).to_toml()).build(NodeLimits()) == node
