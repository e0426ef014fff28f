"""The order of the rooms: imports point down only, and each module has its test file.

The modules are read, not imported: Python by its syntax tree, Cython by its import and cimport
lines. An import inside a function or under TYPE_CHECKING counts as an import too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rcmgr

TREE = Path(__file__).parents[1]
SOURCE = TREE / "src" / "rcmgr"
TESTS = TREE / "tests"

# From the top down. A module imports from its own room, and from rooms below its line.
ROOMS = [
    {"__main__", "metrics", "otel", "pytest_plugin"},  # each is a second name of a module below
    {"cli"},
    {"libp2p", "replay"},
    {"manager"},
    {"report", "events", "fleet", "record"},
    {"admission"},
    {"gates"},
    {"counting"},
    {"limits"},
    {"errors", "extras"},
    {"peers"},
    {""},  # the package itself
    {"_library"},
]
LEVEL = {room: len(ROOMS) - number for number, rooms in enumerate(ROOMS) for room in rooms}
STACK = {"libp2p", "trio", "multiaddr", "anyio"}
"""Packages that take long to import, and that only a node needs."""

# a module without a test file of its name in its room, and the reason
TESTED_ELSEWHERE = {
    "rcmgr": "test_package.py",
    "rcmgr.__main__": "cli/test_help.py: one line that calls cli",
    "rcmgr.metrics": "report/test_metrics.py: another name of report.metrics",
    "rcmgr.otel": "report/test_otel.py: another name of report.otel",
    "rcmgr.pytest_plugin": "libp2p/test_pytest_plugin.py: another name of libp2p.pytest_plugin",
}

pytestmark = pytest.mark.skipif(not SOURCE.exists(), reason="needs a checkout")


def module_of(path: Path) -> str:
    parts = ("rcmgr", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[:len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def cython_imports(text: str) -> Iterator[str]:
    text = re.sub(r"#.*", "", text)
    pattern = r"^\s*from +([\w.]+) +c?import +(?:\(([^)]*)\)|(.*))"
    for module, in_parentheses, on_line in re.findall(pattern, text, re.MULTILINE):
        for name in (in_parentheses or on_line).split(","):
            if name.strip():
                yield f"{module}.{name.split()[0]}"
    for names in re.findall(r"^\s*c?import +(.+)", text, re.MULTILINE):
        yield from (name.split()[0] for name in names.split(","))


def imports_of(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.suffix != ".py":
        return cython_imports(text)
    package = ".".join(("rcmgr", *path.relative_to(SOURCE).parent.parts))
    return python_imports(ast.parse(text), package)


PATHS = sorted(path for path in SOURCE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))
MODULES = {module_of(path) for path in PATHS}
TESTED = [
    path for path in PATHS
    if path.suffix != ".pxd" and path.name != "__init__.py"
    and module_of(path) not in TESTED_ELSEWHERE
]


def home(name: str) -> str:
    """The module of an imported name: `rcmgr.Ledger` is in `rcmgr.counting.scope`."""
    if name in MODULES:
        return name
    module, _, attribute = name.rpartition(".")
    if module == "rcmgr" and attribute in rcmgr._HOME:
        return f"rcmgr.{rcmgr._HOME[attribute]}"
    assert module in MODULES, f"no module of ours: {name}"
    return module


def graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {module: set() for module in MODULES}
    for path in PATHS:
        module = module_of(path)
        ours = {home(name) for name in imports_of(path) if name.split(".")[0] == "rcmgr"}
        found[module] |= ours - {module, "rcmgr"}  # the package itself imports nothing
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circles(edges: dict[str, set[str]]) -> list[str]:
    """The modules in circles, and between two circles. Drops the ends and beginnings of paths."""
    left = set(edges)
    while True:
        targets = {target for module in left for target in edges[module]}
        inner = {module for module in left & targets if edges[module] & left}
        if inner == left:
            return sorted(left)
        left = inner


def test_imports_point_down() -> None:
    up = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if room(target) != room(module) and LEVEL[room(target)] >= LEVEL[room(module)]
    ]
    assert up == []


def test_there_is_no_circle_between_modules() -> None:
    assert circles(graph()) == []


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}
    assert circles(edges) == ["b", "c"]


def test_imports_are_found_in_both_languages() -> None:
    names = ["a.b.c", "a.b.d", "e.f", "g", "h.i"]
    python = (
        "from a.b import (\n    c as x,\n    d,\n)\nimport g\n"
        "if TYPE_CHECKING:\n    from e import f\ndef now():\n    import h.i\n"
    )
    cython = python.replace("import (", "cimport (").replace("import g", "cimport g  # a, b")
    assert sorted(python_imports(ast.parse(python))) == names
    assert sorted(cython_imports(cython)) == names
    relative = ast.parse("from .c import d\nfrom . import e\nfrom ..f import g")
    assert list(python_imports(relative, "a.b")) == ["a.b.c.d", "a.b.e", "a.f.g"]


@pytest.mark.parametrize(
    "path", [path for path in PATHS if room(module_of(path)) not in ("libp2p", "cli")],
    ids=module_of,
)
def test_only_libp2p_and_cli_import_the_stack_of_a_node(path: Path) -> None:
    """At import time: an import inside a function may do it."""
    if path.suffix == ".py":
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            ):
                node.body = [ast.Pass()]
        found = python_imports(tree)
    else:
        found = cython_imports(re.sub(r"^ .*", "", path.read_text(), flags=re.MULTILINE))
    assert not {name.split(".")[0] for name in found} & STACK


@pytest.mark.parametrize("path", TESTED, ids=module_of)
def test_each_module_has_its_test_file(path: Path) -> None:
    """tests/ROOM/test_NAME.py, or tests/e2e/test_NAME.py if the test needs a host.

    A leading underscore is no part of the name. The __init__ of a room holds no code to test.
    """
    folder, name = path.relative_to(SOURCE).parent, f"test_{path.stem.lstrip('_')}.py"
    places = [TESTS / folder / name]
    if folder.parts[:1] == ("libp2p",):
        places.append(TESTS / "e2e" / name)
    assert any(place.exists() for place in places)


def test_each_c_file_has_its_test() -> None:
    files = list((TREE / "ext").iterdir())
    names = {path.stem.partition("_")[0] if path.suffix == ".c" else path.stem for path in files}
    tests = {path.stem.removeprefix("test_") for path in TESTS.glob("ext/*.c")}
    assert names <= tests
    assert tests <= names | {path.stem for path in files}  # a system's file may have its own


def test_exceptions_are_in_use() -> None:
    for module, place in TESTED_ELSEWHERE.items():
        assert module in MODULES
        assert (TESTS / place.partition(":")[0]).exists()


def needs_libp2p(path: Path) -> bool:
    """Whether importing this file of tests/ imports libp2p, itself or through another file."""
    for node in ast.parse(path.read_text()).body:  # imports in a `try` may fail
        names = ({alias.name for alias in node.names} if isinstance(node, ast.Import)
                 else {str(node.module)} if isinstance(node, ast.ImportFrom) else set())
        if {"libp2p", "multiaddr"} & {name.partition(".")[0] for name in names}:
            return True
        helpers = (TESTS / f"{name}.py" for name in names)
        if any(needs_libp2p(helper) for helper in helpers if helper.exists()):
            return True
    return False


def test_without_libp2p_every_other_test_file_imports() -> None:
    tests = {
        path.relative_to(TESTS).as_posix(): path for path in TESTS.rglob("test_*.py")
        if not any(path.is_relative_to(TESTS / folder) for folder in ("cli/demo", "e2e", "libp2p"))
    }
    assert [name for name, path in tests.items() if needs_libp2p(path)] == []
