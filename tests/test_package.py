from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rcmgr
from rcmgr import _library

FOLDER = Path(rcmgr.__file__).parent
MODULES = sorted(
    {
        ".".join((*path.relative_to(FOLDER).parent.parts, path.name.split(".")[0]))
        for path in FOLDER.rglob("*")
        if path.suffix == ".py" and not path.name.startswith("_")
        and not {"cli", "libp2p"} & set(path.relative_to(FOLDER).parts)
    }
    | {name.removeprefix("rcmgr.") for name in _library.NAMES}
)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_next_to_nothing() -> None:
    """Not libp2p, which takes over half a second, and not even our own modules."""
    out = run(
        "import sys; before = set(sys.modules); import rcmgr; "
        "print(*sorted(set(sys.modules) - before))"
    )
    ours = {name for name in out.split() if name.startswith("rcmgr")}
    assert ours == {"rcmgr", "rcmgr._library"}
    assert not {"libp2p", "trio", "multiaddr", "base58", "psutil"} & set(out.split())


def test_no_module_imports_libp2p() -> None:
    run(
        "import importlib, sys\n"
        f"for name in {MODULES}:\n"
        "    importlib.import_module(f'rcmgr.{name}')\n"
        "    assert not {'libp2p', 'trio', 'multiaddr'} & set(sys.modules), name"
    )


def test_using_every_public_name_does_not_import_libp2p() -> None:
    run(
        "import sys, rcmgr; [getattr(rcmgr, name) for name in rcmgr.__all__]; "
        "rcmgr.ResourceManager().open_connection(b'peer').close(); "
        "assert 'libp2p' not in sys.modules"
    )


@pytest.mark.parametrize("name", rcmgr.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(rcmgr, name)
    home = importlib.import_module(value.__module__)
    assert getattr(home, name) is value
    assert name in home.__all__
    assert name in dir(rcmgr)
    assert rcmgr.__dict__[name] is value  # the second use costs no look-up
    assert value.__doc__


def test_dir_shows_the_public_names_only() -> None:
    assert dir(rcmgr) == sorted([*rcmgr.__all__, "__version__"])


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'rcmgr' has no attribute 'nonsense'"):
        rcmgr.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(rcmgr, "__wrapped__")


def test_star_import() -> None:
    out = run("from rcmgr import *; print(*sorted(n for n in dir() if not n.startswith('__')))")
    assert out.split() == rcmgr.__all__


def test_the_stub_says_the_same() -> None:
    tree = ast.parse((FOLDER / "__init__.pyi").read_text())
    imported: dict[str, str] = {}
    listed: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign):
            listed = ast.literal_eval(node.value)
    assert sorted(listed) == rcmgr.__all__
    assert set(imported) == set(listed)
    for name, module in imported.items():
        assert getattr(importlib.import_module(module), name) is getattr(rcmgr, name)


def test_every_compiled_module_has_a_stub_with_its_public_names() -> None:
    for name in MODULES:
        module = importlib.import_module(f"rcmgr.{name}")
        if str(module.__file__).endswith(".py"):
            continue
        stub = ast.parse(FOLDER.joinpath(*name.split(".")).with_suffix(".pyi").read_text())
        [listed] = [
            ast.literal_eval(node.value)
            for node in stub.body
            if isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == ["__all__"]
        ]
        assert listed == module.__all__ == sorted(listed)


def test_typed() -> None:
    assert (FOLDER / "py.typed").exists()
