from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rcmgr.cli.limit_commands import LIBP2P_HIGH_WATERMARK, _shown, limits
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.scaling_files import read_scaling_limits
from rcmgr.limits.scopes import autoscale

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MACHINE = "--memory", "64GiB", "--fds", "32768"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(limits, [str(each) for each in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "limits.json"
    path.write_text(
        '{"Protocol": {"/x": {"Streams": 7}}, "System": {"Conns": 100, "ConnsInbound": 90,'
        ' "ConnsOutbound": 90}, "Transient": {"Conns": 50, "ConnsInbound": 50,'
        ' "ConnsOutbound": 50},'
        ' "Connections": {"max_pending_inbound": 9}}'
    )
    return path


def test_show_says_where_each_limit_comes_from(file: Path) -> None:
    result = run("show", file, *MACHINE)
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()}
    assert lines["system"] == [
        "9216+", "18432+", "18432+", "90*", "90*", "100*", "16384+", "8.125", "GiB+",
    ]
    assert lines["conn"] == ["0", "0", "0", "1", "1", "1", "1", "32", "MiB"]
    assert lines["protocol[/x]"][2] == "7*"
    assert 'Connections (file): {"max_pending_inbound": 9' in result.output
    assert "Subnets (default)" in result.output


def test_the_table_fits_80_columns() -> None:
    table = run("show", *MACHINE).output.partition("+ scaled")[0].splitlines()
    assert len(table) > 60
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize("fds", ["1024", "1048576"])
@pytest.mark.parametrize("memory", ["100MiB", "64GiB", "100TiB"])
@pytest.mark.parametrize("text", ["", """
    [System]
    Streams = "unlimited"
    StreamsInbound = "unlimited"
    StreamsOutbound = 9223372036854775806
    Conns = "unlimited"
    ConnsInbound = "unlimited"
    ConnsOutbound = "unlimited"
    FD = 9999999
    Memory = 9223372036854775806
    [Protocol."/a-name/that/is/much/longer/than/a/line/of/eighty/columns/can/be/1.0.0\\n"]
    Streams = 4
    [Subnets.overrides]
    "10.0.0.0/8" = "unlimited"
    "2001:db8:1234:5678:9abc:def0:1234:5678/128" = 4
    [PeerRates]
    rate = { refill_rate = 1, burst = 5 }
"""])
def test_no_line_of_show_is_longer_than_80(
    text: str, memory: str, fds: str, tmp_path: Path
) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    result = run("show", path, "--memory", memory, "--fds", fds)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    if text:
        assert {"-*", "9.2e+18*", "9999999*", "TiB*"} <= set(result.output.split())


def test_show_as_json(file: Path) -> None:
    shown = json.loads(run("show", file, *MACHINE, "--json").output)
    assert (shown["memory"], shown["fds"]) == (64 << 30, 32768)
    system = shown["scopes"]["system"]
    assert system["conns"] == {"limit": 100, "origin": "file"}
    assert system["fd"] == {"limit": 16384, "origin": "scaled"}
    assert shown["scopes"]["peer_default"]["conns"] == {"limit": 8, "origin": "default"}


@pytest.mark.parametrize(("options", "has_all"), [
    ([], True), (["--all"], True), (["--toml"], False), (["--toml", "--all"], True)])
def test_scale_writes_a_file_that_is_read_again(
    options: list[str], has_all: bool, tmp_path: Path
) -> None:
    result = run("scale", *MACHINE, *options)
    path = tmp_path / ("limits.toml" if "--toml" in options else "limits.json")
    path.write_text(result.output)
    expected = NodeLimits.default(memory=64 << 30, fds=32768)
    assert LimitsFile.read(path).build(expected) == expected
    assert (LimitsFile.read(path).build(NodeLimits()) == expected) == has_all
    assert run("diff", path, *MACHINE).output == "no differences\n"
    assert run("check", path, *MACHINE).output == "no conflicts\n"


def test_scale_writes_what_people_edit() -> None:
    text = run("scale", *MACHINE, "--toml").stdout
    sections = [line.split()[0] for line in text.splitlines() if line.startswith("[")]
    assert [name for name in sections if "." not in name] == [
        "[System]", "[Transient]", "[PeerDefault]", "[Connections]", "[ProcessMemory]",
        "[Subnets]", "[Rates]"]
    assert '# max_pending_inbound = "unlimited" # handshakes that peers began' in text
    assert tomllib.loads(text)["Connections"] == {}  # the defaults of install() stay in place
    assert "PeerRates" in tomllib.loads(text)
    assert len(text.splitlines()) < 90
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(
        "# Limits of a node on a machine with 64 GiB of memory and 32768 file descriptors.\n")
    assert 'Memory = "8320MiB" # bytes' in text


@pytest.mark.parametrize("memory", ["100MiB", "1000000000", "7777777777", "1TiB"])
@pytest.mark.parametrize("option", ["--all", "--toml"])
def test_what_scale_writes_for_any_machine_is_its_default(
    memory: str, option: str, tmp_path: Path
) -> None:
    machine = "--memory", memory, "--fds", "4096"
    path = tmp_path / "limits.toml"
    path.write_text(run("scale", *machine, "--toml", option).stdout)
    assert run("diff", path, *machine).output == "no differences\n"


@pytest.mark.parametrize("options", [["--toml"], ["--toml", "--all"], []])
def test_scale_with_a_configuration(options: list[str], tmp_path: Path) -> None:
    config = tmp_path / "scaling.toml"
    config.write_text("""
        [SystemBaseLimit]
        Conns = 10
        [SystemLimitIncrease]
        Conns = 4
        [ConnBaseLimit]
        Memory = "1MiB"
        [ProtocolLimits."/my".BaseLimit]
        Streams = 3
    """)
    result = run("scale", *MACHINE, "--config", config, *options)
    assert result.exit_code == 0, result.output
    path = tmp_path / ("limits.toml" if options else "limits.json")
    path.write_text(result.stdout)
    default = NodeLimits.default(memory=64 << 30, fds=32768)
    expected = replace(default, scopes=autoscale(
        read_scaling_limits(config), memory=64 << 30, fds=32768))
    assert expected.scopes.system.conns == 10 + 4 * 8
    assert LimitsFile.read(path).build(default) == expected
    assert run("scale", "--config", tmp_path / "none").exit_code == 2


def test_a_name_without_limits_of_its_own_has_those_of_its_class(file: Path) -> None:
    file.write_text('{"ProtocolDefault": {"Streams": 9}, "Protocol": {"/x": {"FD": 7}}}')
    scopes = json.loads(run("show", file, *MACHINE, "--json").output)["scopes"]
    assert scopes["protocol[/x]"]["streams"] == {"limit": 9, "origin": "file"}
    assert scopes["protocol[/x]"]["fd"] == {"limit": 7, "origin": "file"}
    assert scopes["protocol[/x]"]["memory"]["origin"] == "scaled"
    assert scopes["protocol[/ipfs/ping/1.0.0]"]["streams"]["origin"] == "scaled"


def test_check(file: Path) -> None:
    assert run("check", *MACHINE).exit_code == 0
    result = run("check", file, *MACHINE, "--high-watermark", "200")
    assert result.exit_code == 1
    assert "high watermark: 200 is above system.conns, 100" in result.output


def test_check_knows_when_py_libp2p_never_trims(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    for text, admitted in (
        ("[System]\nConns = 299", "system.conns admit 299"),
        ("[Connections]\nmax_established_total = 200",
         "connections.max_established_total admit 200"),
    ):
        path.write_text(text)
        result = run("check", path, *MACHINE)
        assert (result.exit_code, result.stdout) == (0, "no conflicts\n")
        assert f"trims above 300 connections by default, and {admitted}" in result.stderr
        assert run("check", path, *MACHINE, "--high-watermark", "100").stderr == ""
    path.write_text("[System]\nConns = 300")
    assert run("check", path, *MACHINE).stderr == ""


@pytest.mark.libp2p
def test_the_high_watermark_is_that_of_py_libp2p() -> None:
    config = pytest.importorskip("libp2p.network.config")
    assert config.HIGH_WATERMARK == LIBP2P_HIGH_WATERMARK


def test_diff(file: Path, tmp_path: Path) -> None:
    result = run("diff", file, *MACHINE)
    assert "System.Conns: 1152 -> 100" in result.output.splitlines()
    assert "Protocol./x.Streams: 6144 -> 7" in result.output.splitlines()
    assert "Protocol./x.Memory" not in result.output  # as of every protocol before
    assert "Connections.max_pending_inbound: unlimited -> 9" in result.output.splitlines()
    other = tmp_path / "other.toml"
    other.write_text("[System]\nConns = 99\n")
    lines = run("diff", file, other, *MACHINE).output.splitlines()
    assert "System.Conns: 100 -> 99" in lines
    assert "Protocol./x.Streams: 7 -> 6144" in lines
    other.write_text("""[Subnets.overrides]
        '10.0.0.0/8' = 3
        '127.0.0.0/8' = 'default'
        '::1' = 7
    """)
    lines = run("diff", other, *MACHINE).output.splitlines()
    assert lines == [
        "Subnets.overrides.127.0.0.0/8: unlimited -> default",
        "Subnets.overrides.::1/128: unlimited -> not there",
        "Subnets.overrides.10.0.0.0/8: not there -> 3",
        "Subnets.overrides.::1: not there -> 7",
    ]


def test_a_bad_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"system": {"Conns": 5}}')
    result = run("show", path)
    assert result.exit_code == 2
    assert "system: unknown key; did you mean 'System'?" in result.output
    assert run("show", path, "--lenient").exit_code == 0
    assert run("show", tmp_path / "none.json").exit_code == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 << 30), ("8 gib", 8 << 30), ("8G", 8 << 30), ("8GB", 8 * 10**9), ("5", 5),
     ("5B", 5), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert json.loads(run("show", "--json", "--memory", text, "--fds", 1).output)["memory"] == size


@pytest.mark.parametrize("text", ["", "GiB", "-5", "5X", "1.5GiB", "9" * 16])
def test_no_sizes(text: str) -> None:
    result = run("show", "--memory", text)
    assert result.exit_code == 2
    assert "is not a size such as 8GiB" in result.output


def test_this_machine_by_default() -> None:
    assert run("show").exit_code == 0
    assert run("scale").exit_code == 0


@pytest.mark.parametrize(("field", "value", "text"), [
    ("conns", None, "-"), ("memory", None, "-"), ("conns", 10**7 - 1, "9999999"),
    ("conns", 10**7, "1e+07"), ("conns", 1 << 30, "1.1e+09"), ("memory", 1023, "1023"),
    ("memory", (1 << 20) - 1, "1048575"), ("memory", 1 << 20, "1 MiB"),
    ("memory", (1 << 30) - (1 << 20), "1023 MiB"), ("memory", 1 << 30, "1 GiB"),
    ("memory", 3 << 39, "1.5 TiB"),
])
def test_a_number_is_short(field: str, value: int | None, text: str) -> None:
    assert _shown(field, value) == text
