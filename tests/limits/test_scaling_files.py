"""Files that say how limits grow with the machine."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.scaling_files import read_scaling_limits
from rcmgr.limits.scope_values import FIELDS, MAPPINGS, SCOPES
from rcmgr.limits.scopes import (
    DEFAULT_LIMITS,
    Limit,
    LimitIncrease,
    ScalingLimit,
    ScalingLimits,
)
from rcmgr.peers import peer_text

PEER_TEXT = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"
PEER = bytes.fromhex("1220") + bytes(range(32))
INCREASES = {"streams": "Streams", "streams_inbound": "StreamsInbound",
             "streams_outbound": "StreamsOutbound", "conns": "Conns",
             "conns_inbound": "ConnsInbound", "conns_outbound": "ConnsOutbound",
             "memory": "Memory", "fd_fraction": "FDFraction"}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def in_gos_words(limits: ScalingLimits) -> dict[str, Any]:
    """The JSON of Go's encoder for this configuration, except that zeros stay."""
    def base(limit: Limit) -> dict[str, int]:
        return {key: getattr(limit, name) for key, name in FIELDS.items()}

    def increase(limit: LimitIncrease) -> dict[str, float]:
        return {INCREASES[each.name]: getattr(limit, each.name) for each in fields(limit)}

    tree: dict[str, Any] = {}
    for key, name in SCOPES.items():
        limit = getattr(limits, name)
        tree[f"{key.removesuffix('Default')}BaseLimit"] = base(limit.base)
        tree[f"{key.removesuffix('Default')}LimitIncrease"] = increase(limit.increase)
    for key, name in MAPPINGS.items():
        tree[f"{key}Limits"] = {
            peer_text(entry): {"BaseLimit": base(limit.base),
                               "BaseLimitIncrease": increase(limit.increase)}
            for entry, limit in getattr(limits, name).items()}
    return tree


def test_gos_whole_configuration(tmp_path: Path) -> None:
    limits = DEFAULT_LIMITS.with_entries("peer", {PEER: ScalingLimit(
        Limit(*range(8)), LimitIncrease(*range(7), fd_fraction=0.5))})
    path = written(tmp_path / "scaling.json", json.dumps(in_gos_words(limits)))
    nothing = ScalingLimits()
    assert read_scaling_limits(path, nothing) == limits
    assert read_scaling_limits(path, nothing, lenient=True) == limits


def test_what_a_file_leaves_open_is_the_default(tmp_path: Path) -> None:
    path = written(tmp_path / "scaling.toml", f"""
        [ProtocolLimits."/my".BaseLimit]
        Streams = 3
        Memory = "2MiB"
        [ProtocolLimits."/ipfs/ping/1.0.0".BaseLimitIncrease]
        Streams = 9
        [PeerLimits.{PEER_TEXT}.BaseLimit]
        Conns = "unlimited"
        [SystemBaseLimit]
        FD = "blockAll"
        [SystemLimitIncrease]
        Memory = "1GiB"
        FDFraction = 0.25
        [ProtocolBaseLimit]
        StreamsInbound = 5
    """)
    found, default = read_scaling_limits(path), DEFAULT_LIMITS
    assert found.system == ScalingLimit(
        replace(default.system.base, fd=0),
        replace(default.system.increase, memory=1 << 30, fd_fraction=0.25))
    protocol = default.protocol_default
    of_class = replace(protocol.base, streams_inbound=5)
    assert found.protocol_default == replace(protocol, base=of_class)
    assert found.protocol["/my"] == replace(
        protocol, base=replace(of_class, streams=3, memory=2 << 20))
    ping = default.protocol["/ipfs/ping/1.0.0"]
    assert found.protocol["/ipfs/ping/1.0.0"] == replace(
        ping, increase=replace(ping.increase, streams=9))
    assert found.peer[PEER].base == replace(default.peer_default.base, conns=None)
    assert (found.transient, found.service) == (default.transient, default.service)
    assert read_scaling_limits(written(path, "")) == default
    assert found.scale(4 << 30, 1000).protocol["/my"].streams == 3 + 4 * 512


@pytest.mark.parametrize(("text", "message"), [
    ('{"System": {}}', "System: unknown key; known are SystemBaseLimit, TransientBaseLimit, "),
    ('{"SystemLimit": {}}', "SystemLimit: unknown key; did you mean 'System"),
    ('{"SystemBaseLimit": {"Conn": 1}}', "SystemBaseLimit.Conn: unknown key; did you mean"),
    ('{"SystemLimitIncrease": {"FD": 1}}', "SystemLimitIncrease.FD: unknown key"),
    ('{"SystemLimitIncrease": {"Conns": -1}}', "SystemLimitIncrease: conns must be 0 or more"),
    ('{"SystemLimitIncrease": {"Conns": 1.5}}', "SystemLimitIncrease: conns must be an int"),
    ('{"SystemLimitIncrease": {"Conns": "unlimited"}}', "SystemLimitIncrease: conns must be an"),
    ('{"SystemLimitIncrease": {"FDFraction": 2}}', "SystemLimitIncrease: fd_fraction must be 0"),
    ('{"SystemLimitIncrease": {"FDFraction": "x"}}', "SystemLimitIncrease: fd_fraction must be a"),
    ('{"SystemLimitIncrease": {"Memory": "2 giga"}}', "SystemLimitIncrease.Memory: must be a size"),
    ('{"ProtocolLimits": {"/x": {"Base": {}}}}', "ProtocolLimits./x.Base: unknown key; did you"),
    ('{"PeerLimits": {"x": {}}}', "PeerLimits.x: not a peer id"),
    ("[]", "must be an object, not an array"),
    ("{", "line 1, column 2: not JSON"),
])
def test_errors_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LimitsFileError) as caught:
        read_scaling_limits(written(tmp_path / "scaling.json", text))
    assert str(caught.value).startswith(message)


def test_lenient_reads_like_go(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.json", '{"systembaselimit": {"conns": 5}, "x": 1, "PeerLimits": null}')
    assert read_scaling_limits(path, lenient=True).system.base.conns == 5


PAGE = Path(__file__).parents[2] / "docs" / "limits-file.md"


@pytest.mark.skipif(not PAGE.exists(), reason="only in a checkout")
def test_the_file_in_the_docs_is_read(tmp_path: Path) -> None:
    text = PAGE.read_text().partition("<!-- scaling -->\n```toml\n")[2].partition("```")[0]
    found = read_scaling_limits(written(tmp_path / "scaling.toml", text))
    assert found.protocol["/my/1.0.0"].base.streams == 8
    assert found.system.increase.fd_fraction == 0.5
