"""The modules in the library of a wheel are found, and only those."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from rcmgr import _library

PACKAGE = Path(_library.__file__).parent
SOURCE = Path(__file__).parents[1] / "src" / "rcmgr"


@pytest.mark.parametrize("name", sorted(_library.NAMES))
def test_every_compiled_module_has_a_stub_and_a_file(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert module.__file__.endswith(sysconfig.get_config_var("EXT_SUFFIX"))
    assert PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".pyi").exists()


@pytest.mark.skipif(not SOURCE.exists(), reason="needs a checkout")
def test_the_names_are_those_of_the_sources() -> None:
    sources = {
        ".".join(("rcmgr", *path.relative_to(SOURCE).with_suffix("").parts))
        for path in SOURCE.rglob("*.pyx")}
    assert sources == _library.NAMES


def test_a_name_that_is_not_compiled_is_left_to_others() -> None:
    assert _library.Library.find_spec("rcmgr.manager") is None
    with pytest.raises(ModuleNotFoundError, match=r"rcmgr\.nonsense"):
        importlib.import_module("rcmgr.nonsense")


def test_the_library_is_asked_for_a_module_without_a_file() -> None:
    spec = _library.Library.find_spec("rcmgr.peers")
    assert spec is not None
    assert spec.name == "rcmgr.peers"
    assert spec.origin == _library.library()
    assert spec.has_location


def test_without_the_library_a_compiled_module_is_not_found(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "library", lambda: None)
    assert _library.Library.find_spec("rcmgr.peers") is None


def test_python_asks_once_and_last() -> None:
    before = list(sys.meta_path)
    _library.use()
    assert sys.meta_path == before
    assert before.count(_library.Library) == 1
    code = (
        "import sys; from rcmgr._library import Library; print(sys.meta_path[-1] is Library)")
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout == "True\n"
