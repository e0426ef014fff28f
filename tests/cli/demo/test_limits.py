"""The demo's limits, and how a limits file changes them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rcmgr.cli import main
from rcmgr.cli.demo.limits import DEMO_LIMITS, DEMO_LIMITS_FILE, MEMORY_GROWTH, read_limits
from rcmgr.cli.limit_files import UnusableLimitsFile
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits

PARTS = ("System.Streams", "System.Conns", "System.Memory", "Transient.Streams",
         "Connections.max_pending_inbound", "Connections.max_pending_outbound",
         "Connections.max_established_inbound", "Connections.max_established_outbound",
         "Connections.max_established_per_peer", "Connections.max_established_total")


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "limits.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def named(limits: NodeLimits) -> dict[str, Any]:
    """Those of a node's limits that the demo sets, by their place in a file."""
    system, transient = limits.scopes.system, limits.scopes.transient
    values = (system.streams, system.conns, system.memory, transient.streams,
              *limits.connections.to_dict().values())
    return dict(zip(PARTS, values, strict=True))


def test_the_demo_limits_these_and_nothing_else() -> None:
    assert None not in named(DEMO_LIMITS).values()
    unlimited = DEMO_LIMITS.scopes.with_system(streams=None, conns=None, memory=None)
    transient = replace(unlimited.transient, streams=None)
    assert replace(unlimited, transient=transient) == NodeLimits().scopes
    assert replace(DEMO_LIMITS, scopes=NodeLimits().scopes) == NodeLimits(
        connections=DEMO_LIMITS.connections)


def test_defaults_can_all_be_reached() -> None:
    limits = DEMO_LIMITS.connections.to_dict()
    directions = limits["max_established_inbound"] + limits["max_established_outbound"]
    pending = limits["max_pending_inbound"] + limits["max_pending_outbound"]
    assert limits["max_established_total"] < directions
    most = DEMO_LIMITS.scopes.system.conns
    assert most < limits["max_established_total"] + pending
    assert most > limits["max_established_total"] + 1


@pytest.mark.parametrize("name", PARTS)
def test_one_limit_changes_and_the_others_stay(tmp_path: Path, name: str) -> None:
    section, key = name.split(".")
    limits = read_limits(write(tmp_path, f"[{section}]\n{key} = 7\n"))
    assert named(limits) == {**named(DEMO_LIMITS), name: 7}


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"System": {"Conns": 7}, "PeerDefault": {"Conns": 3}}')
    limits = read_limits(path)
    assert limits.scopes.peer_default.conns == 3
    assert named(limits) == {**named(DEMO_LIMITS), "System.Conns": 7}


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read_limits(write(tmp_path, "# nothing\n")) == DEMO_LIMITS


@pytest.mark.parametrize("name", PARTS)
def test_unlimited_is_no_limit(tmp_path: Path, name: str) -> None:
    section, key = name.split(".")
    limits = read_limits(write(tmp_path, f'[{section}]\n{key} = "unlimited"\n'))
    assert named(limits)[name] is None


@pytest.mark.parametrize("value", ["true", "-3", "1.5", '"12"', '"None"', "[1]", "{ a = 1 }"])
@pytest.mark.parametrize("name", [name for name in PARTS if name != "System.Memory"])
def test_a_bad_value_names_file_and_place(tmp_path: Path, name: str, value: str) -> None:
    section, key = name.split(".")
    path = write(tmp_path, f"[{section}]\n{key} = {value}\n")
    with pytest.raises(UnusableLimitsFile) as caught:
        read_limits(path)
    assert caught.value.message.startswith(f"{path}: {section}")
    assert re.search(rf"{key}\b.* must be", caught.value.message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[System]\nConn = 4", "System.Conn: unknown key; did you mean 'Conns'?"),
        ("max_pending_inbound = 4", "max_pending_inbound: unknown key; known are System, "),
        ("[limits]\nStreams = 4", "limits: unknown key; known are System, "),
    ],
)
def test_an_unknown_name_is_told_what_is_known(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnusableLimitsFile) as caught:
        read_limits(write(tmp_path, text))
    assert message in caught.value.message


@pytest.mark.parametrize(
    "text", ["[System]\nConns =", "[System]\nConns = 4\nConns = 5", b"\xff\xfe"])
def test_what_is_not_toml_names_the_file(tmp_path: Path, text: str | bytes) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UnusableLimitsFile, match=r"not TOML|not UTF-8") as caught:
        read_limits(path)
    assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.toml", "No such file or directory"), (".", "Is a directory")])
def test_what_cannot_be_read_names_the_file(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UnusableLimitsFile) as caught:
        read_limits(tmp_path / name)
    assert caught.value.message == f"{tmp_path / name}: {reason}"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "0"], "0.0 is not in the range"),
        (["--seconds", "nan"], "nan is not a finite number"),
        (["--seconds", "inf"], "inf is not a finite number"),
        (["--seconds", "soon"], "'soon' is not a valid float"),
        (["--attackers", "-1"], "-1 is not in the range"),
        (["--plain", "--json"], "exclude each other"),
        (["--limits", "no-such-file.toml"], "no-such-file.toml: No such file or directory"),
        (["now"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert complaint in result.output


def test_help_says_what_the_exit_status_means() -> None:
    text = CliRunner().invoke(main, ["demo", "--help"]).output
    assert "Exit status:" in text
    for status in ("0 ", "1 ", "2 ", "3 ", "128+n"):
        assert f"\n    {status}" in text


def test_help_shows_the_limits_as_a_file() -> None:
    text = CliRunner().invoke(main, ["demo", "--help"]).output
    file = text[text.index("    [System]"):text.index("  Without [ProcessMemory]")]
    assert LimitsFile.from_toml(file) == DEMO_LIMITS_FILE
    assert f"grow by {MEMORY_GROWTH} MiB" in text
