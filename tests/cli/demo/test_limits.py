"""The demo's limits file: what it changes, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rcmgr.cli import main
from rcmgr.cli.demo.limits import DEFAULT_LIMITS, LimitsFileError, read_limits

NAMES = list(DEFAULT_LIMITS.to_dict())


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "limits.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_are_all_limits() -> None:
    assert NAMES == [
        "max_pending_inbound",
        "max_pending_outbound",
        "max_established_inbound",
        "max_established_outbound",
        "max_established_per_peer",
        "max_established_total",
        "max_connections",
        "max_memory_mb",
        "max_streams",
        "max_transient_streams",
        "memory_growth_mb",
    ]


def test_defaults_can_all_be_reached() -> None:
    limits = DEFAULT_LIMITS.to_dict()
    directions = limits["max_established_inbound"] + limits["max_established_outbound"]
    pending = limits["max_pending_inbound"] + limits["max_pending_outbound"]
    assert limits["max_established_total"] < directions
    assert limits["max_connections"] < limits["max_established_total"] + pending
    assert limits["max_connections"] > limits["max_established_total"] + 1


@pytest.mark.parametrize("name", NAMES)
def test_one_limit_changes_and_the_others_stay(tmp_path: Path, name: str) -> None:
    limits = read_limits(write(tmp_path, f"{name} = 7\n")).to_dict()
    assert limits == {**DEFAULT_LIMITS.to_dict(), name: 7}


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read_limits(write(tmp_path, "# nothing\n")) == DEFAULT_LIMITS


def test_none_is_no_limit(tmp_path: Path) -> None:
    text = 'max_established_total = "none"\nmax_connections = "none"\n'
    limits = read_limits(write(tmp_path, text))
    assert limits.connections.max_established_total is None
    assert limits.resources.max_connections is None


@pytest.mark.parametrize("value", ["true", "-1", "1.5", '"12"', '"None"', "[1]", "{ a = 1 }"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_value_names_file_and_field(tmp_path: Path, name: str, value: str) -> None:
    path = write(tmp_path, f"{name} = {value}\n")
    with pytest.raises(LimitsFileError) as caught:
        read_limits(path)
    assert (caught.value.path, caught.value.field) == (path, name)
    assert str(path) in caught.value.message
    assert f"{name}: must be" in caught.value.message


def test_streams_need_a_number(tmp_path: Path) -> None:
    with pytest.raises(LimitsFileError, match="max_streams: must be an int, not None") as caught:
        read_limits(write(tmp_path, 'max_streams = "none"'))
    assert caught.value.field == "max_streams"


@pytest.mark.parametrize("text", ["max_conections = 4", "[limits]\nmax_streams = 4"])
def test_an_unknown_name_is_told_what_is_known(tmp_path: Path, text: str) -> None:
    with pytest.raises(LimitsFileError, match=r"unknown limit; known are .*max_streams") as caught:
        read_limits(write(tmp_path, text))
    assert caught.value.field in ("max_conections", "limits")


@pytest.mark.parametrize("text", ["max_streams =", "max_streams = 4\nmax_streams = 5", b"\xff\xfe"])
def test_what_is_not_toml_names_the_file(tmp_path: Path, text: str | bytes) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LimitsFileError, match="not a TOML file") as caught:
        read_limits(path)
    assert (caught.value.path, caught.value.field) == (path, None)


def test_a_nodes_limits_file_is_another_one(tmp_path: Path) -> None:
    with pytest.raises(LimitsFileError, match="limits files of nodes"):
        read_limits(write(tmp_path, "[System]\nConns = 7\n"))


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_what_cannot_be_read_names_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(LimitsFileError) as caught:
        read_limits(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert caught.value.reason in ("No such file or directory", "Is a directory")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "0"], "0.0 is not in the range"),
        (["--seconds", "nan"], "nan is not a number of seconds"),
        (["--seconds", "inf"], "inf is not a number of seconds"),
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
    for name, value in DEFAULT_LIMITS.to_dict().items():
        assert f"{name} = {value}" in text
