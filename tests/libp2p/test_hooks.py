"""Hooks replace functions of py-libp2p and put them back; our docstrings name the right lines."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libp2p
import pytest

import rcmgr.libp2p
from rcmgr.libp2p import hooks
from rcmgr.libp2p.hooks import (
    Hook,
    Libp2pMismatch,
    SharedHooks,
    Undo,
    UnverifiedLibp2pWarning,
    hook_new,
    place_all,
)


class Base:
    def inherited(self) -> str:
        return "base"


class Thing(Base):
    number = 3

    def greet(self, name: str) -> str:
        """Says hello."""
        return f"hello {name}"


def louder(original: Callable[..., str], *args: Any) -> str:
    return original(*args) + "!"


def test_a_class_is_hooked_and_put_back() -> None:
    before = vars(Thing)["greet"]
    hook = Hook(Thing, "greet", louder)
    assert Thing().greet("a") == "hello a!"
    assert Thing.greet.__doc__ == "Says hello."
    hook.undo()
    hook.undo()
    assert vars(Thing)["greet"] is before


@pytest.mark.parametrize("owner", [Thing, Thing()], ids=["class", "object"])
def test_a_call_goes_around_the_original(owner: Any) -> None:
    def around(original: Callable[..., str], *args: Any, name: str) -> str:
        return original(*args, name=name) + f" {len(args)}"

    hook = Hook(owner, "greet", around)
    is_class = isinstance(owner, type)
    assert (owner() if is_class else owner).greet(name="a") == f"hello a {int(is_class)}"
    hook.undo()
    assert Thing().greet("a") == "hello a"


def test_an_object_is_hooked_alone() -> None:
    thing, other = Thing(), Thing()
    hook = Hook(thing, "greet", louder)
    assert thing.greet("a") == "hello a!"
    assert other.greet("a") == "hello a"
    hook.undo()
    assert not vars(thing)


def test_an_inherited_attribute_is_inherited_again() -> None:
    hook = Hook(Thing, "inherited", louder)
    assert (Thing().inherited(), Base().inherited()) == ("base!", "base")
    hook.undo()
    assert "inherited" not in vars(Thing)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_hooks_are_undone_in_any_order(order: tuple[int, int]) -> None:
    thing = Thing()
    both = [Hook(thing, "greet", louder), Hook(thing, "greet", louder)]
    assert thing.greet("a") == "hello a!!"
    both[order[0]].undo()
    assert thing.greet("a") == "hello a!"
    both[order[1]].undo()
    assert thing.greet("a") == "hello a"


@pytest.mark.parametrize("attribute", ["absent", "number"])
def test_a_hook_on_nothing_callable_fails_at_once(attribute: str) -> None:
    with pytest.raises(Libp2pMismatch, match=rf"no Thing\.{attribute} to hook.*0\.8\.1"):
        Hook(Thing, attribute, louder)


def test_an_unverified_libp2p_is_a_warning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "version", lambda _: "9.9.9")
    monkeypatch.setattr(hooks, "_warned", set())
    thing = Thing()
    with pytest.warns(UnverifiedLibp2pWarning, match=r"Thing\.greet.*0\.8\.1, not with 9\.9\.9"):
        Hook(thing, "greet", louder).undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Hook(thing, "greet", louder).undo()


def test_new_instances_are_reported_once_they_are_initialised() -> None:
    class Made:
        def __init__(self, number: int) -> None:
            self.number = number

    numbers: list[int] = []
    hook = hook_new(Made, lambda made: numbers.append(made.number))
    assert Made(3).number == 3
    hook.undo()
    Made(4)
    assert numbers == [3]


class Placed:
    """Steps that each place something, and note the order in which all of it is removed."""

    def __init__(self) -> None:
        self.here: list[int] = []
        self.removed: list[int] = []
        self.fails = False

    def step(self, number: int) -> Undo:
        self.here.append(number)

        def undo() -> None:
            self.here.remove(number)
            self.removed.append(number)

        return undo

    def placing(self) -> Iterator[Undo]:
        yield self.step(1)
        yield self.step(2)
        if self.fails:
            raise Libp2pMismatch
        yield self.step(3)


def test_hooks_that_are_placed_together_are_removed_together() -> None:
    placed = Placed()
    undo = place_all(placed.placing())
    assert placed.here == [1, 2, 3]
    undo()
    undo()
    assert (placed.here, placed.removed) == ([], [3, 2, 1])
    placed.fails = True
    with pytest.raises(Libp2pMismatch):
        place_all(placed.placing())
    assert placed.here == []


def test_shared_hooks_are_placed_for_the_first_user_and_removed_after_the_last() -> None:
    placed = Placed()
    hooks = SharedHooks(placed.placing)
    first, second = hooks.use(), hooks.use()
    assert placed.here == [1, 2, 3]
    first()
    first()
    assert placed.here == [1, 2, 3]
    second()
    assert placed.here == []
    third = hooks.use()
    first()
    assert placed.here == [1, 2, 3]
    third()
    placed.fails = True
    with pytest.raises(Libp2pMismatch):
        hooks.use()
    assert placed.here == []
    placed.fails = False
    hooks.use()
    assert placed.here == [1, 2, 3]


# -- lines of libp2p 0.8.1 that our docstrings name ----------------------------------------------

OURS = Path(rcmgr.libp2p.__file__).parent
THEIRS = Path(libp2p.__file__).parent
REFERENCE = re.compile(r"(?:(?P<file>[\w/]+\.py) )?lines? (?P<line>\d+)(?:, `(?P<name>\w+)`)?")


def references() -> Iterator[tuple[str, int, str | None]]:
    """(file of py-libp2p, line, name on that line), from our docstrings that name 0.8.1."""
    for path in sorted(OURS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            text = " ".join((ast.get_docstring(node) or "").split())
            _, found, text = text.partition("libp2p 0.8.1: ")
            file = None
            for match in REFERENCE.finditer(text) if found else ():
                file = match["file"] or file
                assert file is not None, text
                yield file, int(match["line"]), match["name"]


def test_docstrings_name_the_right_lines_of_libp2p() -> None:
    found = list(references())
    assert len(found) > 15
    wrong = []
    for file, line, name in found:
        lines = (THEIRS / file).read_text(encoding="utf-8").splitlines()
        here = lines[line - 1]
        # a reference without a name: the line has code, at least
        if not (re.search(rf"\b{name}\b", here) if name else here.strip()):
            wrong.append(f"{file} line {line}: {here.strip()!r}, not {name}")
    assert wrong == []
