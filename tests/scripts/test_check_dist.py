"""Each rule of check_dist rejects a release that breaks it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from load_script import load_script

check_dist = load_script("check_dist")

SOURCES = {
    "CHANGELOG.md": "", "LICENSE-APACHE": "", "LICENSE-MIT": "", "README.md": "", "setup.py": "",
    "ext/rss.c": "", "ext/rss.h": "", "tests/test_manager.py": "",
    "src/rcmgr/__init__.py": "", "src/rcmgr/py.typed": "",
    "src/rcmgr/counting/scope.pyx": "", "src/rcmgr/counting/scope.pxd": "",
    "src/rcmgr/counting/scope.pyi": "",
}
LIBRARY = "rcmgr/_cython.cpython-311-x86_64-linux-gnu.so"
METADATA = "rcmgr-1.2.0.dist-info/METADATA"
FILES = {
    METADATA: "Metadata-Version: 2.4\nName: rcmgr\nVersion: 1.2.0\nRequires-Dist: psutil\n",
    "rcmgr/__init__.py": "", "rcmgr/py.typed": "", "rcmgr/include/rss.h": "",
    "rcmgr/counting/scope.pxd": "", "rcmgr/counting/scope.pyi": "",
    LIBRARY: "PyInit__cython\0PyInit_scope\0",
}
SDIST, WHEEL = "rcmgr-1.2.0.tar.gz", "rcmgr-1.2.0-cp311-cp311-manylinux_2_28_x86_64.whl"


def make_sdist(folder: Path, files: dict[str, str], name: str = SDIST) -> None:
    with tarfile.open(folder / name, "w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{name.removesuffix('.tar.gz')}/{path}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def make_wheel(folder: Path, files: dict[str, str], name: str = WHEEL) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def complaints(folder: Path, version: str | None = "1.2.0") -> list[str]:
    return list(check_dist.complaints(folder, version))


def without(files: dict[str, str], name: str) -> dict[str, str]:
    return {path: text for path, text in files.items() if path != name}


def test_what_keeps_every_rule_has_no_complaint(tmp_path: Path) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, FILES)
    windows = {
        path.replace(".cpython-311-x86_64-linux-gnu.so", ".cp314t-win_amd64.pyd"): text
        for path, text in FILES.items()}
    make_wheel(tmp_path, windows, "rcmgr-1.2.0-cp314-cp314t-win_amd64.whl")
    assert complaints(tmp_path) == []


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {
    "src/rcmgr/__init__.py", "src/rcmgr/py.typed", "src/rcmgr/counting/scope.pyi"}))
def test_a_file_is_missing_in_the_sdist(tmp_path: Path, name: str) -> None:
    make_sdist(tmp_path, without(SOURCES, name))
    make_wheel(tmp_path, FILES)
    assert any(each.startswith(f"{SDIST}: holds no ") for each in complaints(tmp_path))


def test_generated_c_is_in_the_sdist(tmp_path: Path) -> None:
    make_sdist(tmp_path, {**SOURCES, "src/rcmgr/counting/scope.c": ""})
    make_wheel(tmp_path, FILES)
    assert complaints(tmp_path) == [
        f"{SDIST}: holds generated files: src/rcmgr/counting/scope.c"]


@pytest.mark.parametrize("name", sorted(FILES.keys() - {METADATA}))
def test_a_file_is_missing_in_a_wheel(tmp_path: Path, name: str) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, without(FILES, name))
    [complaint] = complaints(tmp_path)
    assert complaint.startswith(f"{WHEEL}: ")
    assert ("not one" if name == LIBRARY else name) in complaint


def test_a_module_is_missing_in_the_library(tmp_path: Path) -> None:
    make_sdist(tmp_path, {**SOURCES, "src/rcmgr/peers.pyx": ""})
    make_wheel(tmp_path, FILES)
    assert complaints(tmp_path) == [f"{WHEEL}: lacks in {LIBRARY}: peers"]


def test_a_module_has_a_file_of_its_own(tmp_path: Path) -> None:
    scope = "rcmgr/counting/scope.cpython-311-x86_64-linux-gnu.so"
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, {**FILES, scope: FILES[LIBRARY]})
    assert complaints(tmp_path) == [
        f"{WHEEL}: has 2 compiled files, not one: {LIBRARY}, {scope}",
        f"{WHEEL}: has {scope}, which is not rcmgr/_cython for CPython"]


@pytest.mark.parametrize("name", [
    "rcmgr/counting/scope.pyx", "rcmgr/counting/scope.c", "rcmgr/gcra.h"])
def test_a_source_is_in_a_wheel(tmp_path: Path, name: str) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, {**FILES, name: ""})
    assert complaints(tmp_path) == [f"{WHEEL}: holds sources: {name}"]


def test_a_wheel_is_too_large(tmp_path: Path) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, {**FILES, "rcmgr/data.txt": "x" * check_dist.MOST_BYTES})
    [complaint] = complaints(tmp_path)
    assert f"not under {check_dist.MOST_BYTES}" in complaint


def test_a_module_is_for_another_abi_than_the_name_says(tmp_path: Path) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, FILES, "rcmgr-1.2.0-cp313-cp313t-manylinux_2_28_x86_64.whl")
    assert [each.partition(": ")[2] for each in complaints(tmp_path)] == [
        "has rcmgr/_cython for cp311, but its name says cp313t"]


def test_libp2p_is_needed_without_an_extra(tmp_path: Path) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, {**FILES, METADATA: FILES[METADATA] + "Requires-Dist: libp2p>=0.8.1\n"})
    assert complaints(tmp_path) == [f"{WHEEL}: needs libp2p without an extra"]
    extra = "Requires-Dist: libp2p>=0.8.1; extra == 'libp2p'\n"
    make_wheel(tmp_path, {**FILES, METADATA: FILES[METADATA] + extra})
    assert complaints(tmp_path) == []


def test_versions_differ(tmp_path: Path) -> None:
    make_sdist(tmp_path, SOURCES)
    assert complaints(tmp_path) == [f"{tmp_path}: no wheels"]
    make_wheel(tmp_path, FILES)
    assert complaints(tmp_path, "1.3.0") == [f"{SDIST}: version 1.3.0 is to be released"]
    make_wheel(tmp_path, FILES, WHEEL.replace("1.2.0", "1.2.1"))
    assert complaints(tmp_path) == [
        f"{WHEEL.replace('1.2.0', '1.2.1')}: not the version of {SDIST}",
        f"{WHEEL.replace('1.2.0', '1.2.1')}: says in its metadata that it is version 1.2.0"]
    make_sdist(tmp_path, SOURCES, SDIST.replace("1.2.0", "1.2.1"))
    assert complaints(tmp_path) == [f"{tmp_path}: 2 source distributions, not one"]


def test_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sdist(tmp_path, SOURCES)
    make_wheel(tmp_path, FILES)
    monkeypatch.setattr("sys.argv", ["check_dist", str(tmp_path), "--version", "1.2.0"])
    assert check_dist.main() == 0
    monkeypatch.setattr("sys.argv", ["check_dist", str(tmp_path), "--version", "9"])
    assert check_dist.main() == 1
