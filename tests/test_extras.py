"""If an optional package is missing, one line says what to install, and the rest works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from libp2p_values import ID, Direction, LikeDirection, LikeID, LikeMultiaddr, Multiaddr

from rcmgr.extras import require

LIBP2P = ("libp2p", "multiaddr", "trio")


def run(code: str, *missing: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status and output of code that cannot import the packages `missing`."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + code, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )
    return done.returncode, done.stdout


COMMAND = "import runpy; runpy.run_module('rcmgr', run_name='__main__')"


@pytest.mark.parametrize(("missing", "arguments", "line", "status"), [
    (("click",), (), "rcmgr needs click: pip install 'rcmgr[cli]'", 1),
    (("rich",), ("top",), "rcmgr needs rich: pip install 'rcmgr[cli]'", 1),
    (("tomlkit",), ("limits", "show"), "rcmgr needs tomlkit: pip install 'rcmgr[cli]'", 1),
    (LIBP2P, ("demo",), "rcmgr demo needs libp2p: pip install 'rcmgr[cli]'", 3),
], ids=["click", "rich", "tomlkit", "demo"])
def test_a_command_without_its_packages(
    missing: tuple[str, ...], arguments: tuple[str, ...], line: str, status: int
) -> None:
    assert run(COMMAND, *missing, arguments=arguments) == (status, f"{line}\n")


def test_a_folder_of_that_name_is_not_libp2p(tmp_path: Path) -> None:
    (tmp_path / "a_folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(ImportError, match=r"x needs a_folder: pip install 'rcmgr\[y\]'"):
            require("a_folder", "x", "y")
    require("pytest", "x", "y")


def test_rcmgr_run_without_libp2p() -> None:
    code = "import runpy; runpy.run_module('rcmgr.libp2p.run', run_name='__main__')"
    assert run(code, *LIBP2P, arguments=("node.py",)) == (
        2, "rcmgr run: rcmgr.install needs libp2p: pip install 'rcmgr[libp2p]'\n")


@pytest.mark.parametrize(("code", "missing", "line"), [
    ("import rcmgr; rcmgr.install()", LIBP2P,
     "rcmgr.install needs libp2p: pip install 'rcmgr[libp2p]'"),
    ("import rcmgr; rcmgr.LimitsFile().to_toml()", ("tomlkit",),
     "LimitsFile.to_toml needs tomlkit: pip install 'rcmgr[toml]'"),
    ("from rcmgr.libp2p.dropin.manager import ResourceManager", LIBP2P,
     "rcmgr.libp2p.dropin needs libp2p: pip install 'rcmgr[libp2p]'"),
    ("from rcmgr.libp2p import report_remote_addresses; report_remote_addresses()", LIBP2P,
     "rcmgr.libp2p.report_remote_addresses needs libp2p: pip install 'rcmgr[libp2p]'"),
    ("import rcmgr.metrics", ("prometheus_client",),
     "rcmgr.metrics needs prometheus_client: pip install 'rcmgr[metrics]'"),
    ("import rcmgr.otel", ("opentelemetry",),
     "rcmgr.otel needs opentelemetry: pip install 'rcmgr[otel]'"),
    ("import rcmgr; rcmgr.ResourceManager().serve_metrics(0)", ("prometheus_client",),
     "rcmgr.metrics needs prometheus_client: pip install 'rcmgr[metrics]'"),
], ids=["install", "toml", "dropin", "addresses", "metrics", "otel", "serve_metrics"])
def test_a_call_without_its_packages(code: str, missing: tuple[str, ...], line: str) -> None:
    status, output = run(code, *missing)
    assert status == 1
    assert output.splitlines()[-1] == f"ImportError: {line}"


def test_the_pytest_plugin_without_libp2p() -> None:
    code = "import pytest; raise SystemExit(pytest.main(['-p', 'rcmgr.pytest_plugin', '--co']))"
    status, output = run(code, "libp2p", "multiaddr")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert output.strip() == "ERROR: rcmgr.pytest_plugin needs libp2p: pip install 'rcmgr[libp2p]'"


def test_all_public_names_work_without_the_optional_packages() -> None:
    assert run(
        "from rcmgr import *; import rcmgr.libp2p; assert not is_installed()\n"
        "manager = ResourceManager(); uninstall()\n"
        "with manager.open_connection(b'peer'): print(manager.get_stats()['connections'])\n"
        .replace("is_installed", "rcmgr.libp2p.is_installed"),
        *LIBP2P, "click", "rich", "prometheus_client",
    ) == (0, "1\n")


def test_waiting_needs_no_trio() -> None:
    code = "import asyncio, rcmgr; asyncio.run(rcmgr.TokenBucket(9, 9).wait()); print('done')"
    assert run(code, *LIBP2P) == (0, "done\n")


@pytest.mark.libp2p
def test_the_look_alikes_of_libp2ps_values() -> None:
    data = b"\x12\x20" + b"p" * 32
    ours, theirs = LikeID(data), ID(data)
    assert type(theirs) is not LikeID
    for get in (str, repr, hash, ID.to_bytes, lambda peer: peer.to_base58()):
        assert get(ours) == get(theirs)
    for other in (data, data[1:], theirs.to_base58(), "other", 5):
        assert (ours == other) is (theirs == other)
    text = "/ip4/1.2.3.4/tcp/5"
    our_address, their_address = LikeMultiaddr(text), Multiaddr(text)
    assert type(their_address) is not LikeMultiaddr
    assert str(our_address) == str(their_address)
    assert our_address.value_for_protocol("ip4") == their_address.value_for_protocol("ip4")
    assert type(our_address.to_bytes()) is type(their_address.to_bytes())
    assert [(str(each), each) for each in LikeDirection] == [
        (str(each), each) for each in Direction]
