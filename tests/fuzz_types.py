"""Call every compiled type with everything: `python fuzz_types.py SEED CALLS`.

It may raise any exception but SystemError, and it must not crash. Some arguments run code while a
table compares, hashes or drops them, and that code calls the same objects again.
"""

from __future__ import annotations

import importlib
import inspect
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rcmgr

FOLDER = Path(rcmgr.__file__).parent
COMPILED = sorted(
    ".".join(("rcmgr", *path.relative_to(FOLDER).parent.parts, path.name.partition(".")[0]))
    for path in FOLDER.rglob("*") if path.suffix in (".so", ".pyd"))
MAX_OBJECTS = 60
# they would open sockets, end an object that still has references, or repeat a text for gigabytes
SKIPPED = {"__class__", "__del__", "__mul__", "__rmul__", "serve_metrics", "serve_status"}


def compiled_types() -> list[type]:
    found = []
    for name in COMPILED:
        module = importlib.import_module(name)
        found += [
            each for each in vars(module).values()
            if isinstance(each, type) and each.__module__ == name
            and not issubclass(each, BaseException)]
    return found


class Fuzzer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.types = compiled_types()
        self.depth = 0
        self.objects: list[Any] = [
            rcmgr.ResourceManager(), rcmgr.ConnectionTracker(), rcmgr.Ledger(),
            rcmgr.TokenBucket(10, 1.0), rcmgr.BucketTable(10, 1.0, max_peers=4)]

    def call_again(self) -> None:
        if self.depth < 2:
            self.depth += 1
            try:
                self.call_any()
            finally:
                self.depth -= 1

    def value(self) -> Any:
        fuzzer = self

        class Meddling:
            """Its hash, comparison, key and end call the objects again."""

            def __init__(self, number: int) -> None:
                self.number = number

            def __hash__(self) -> int:
                fuzzer.call_again()
                return self.number

            def __eq__(self, other: object) -> bool:
                fuzzer.call_again()
                return isinstance(other, Meddling) and other.number == self.number

            def __del__(self) -> None:
                fuzzer.call_again()

            def __getattr__(self, name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                fuzzer.call_again()
                return fuzzer.random.choice([None, -1, 1, 2**70, b"peer", 1.5])

        choose = self.random.choice
        return choose([
            lambda: None, lambda: choose([0, 1, 2, -1, 7, 2**31, 2**63 - 1, 2**63, -(2**64)]),
            lambda: choose([0.0, 1.5, -1.0, 254.9, float("inf"), float("nan")]),
            lambda: choose(["", "inbound", "peer", "/proto/1", "x" * 300, "\ud800"]),
            lambda: choose([b"", b"peer", bytes(38), b"\x00\x25" + bytes(36), b"x" * 5000]),
            lambda: choose([True, False]), lambda: choose([(), [], {}, set(), {"a": 1}, [1, 2]]),
            lambda: Meddling(self.random.randrange(3)), lambda: Meddling(self.random.randrange(3)),
            lambda: choose(self.objects), lambda: choose(self.types), object,
            lambda: rcmgr.ConnectionLimits(*[choose([None, 0, 1, 3])] * 6),
            lambda: rcmgr.ConcreteLimits(), lambda: rcmgr.Limit(conns=choose([None, 0, 2])),
        ])()

    def keep(self, value: Any) -> None:
        if type(value) in self.types or type(value).__module__.startswith("rcmgr"):
            if len(self.objects) >= MAX_OBJECTS:
                self.objects[self.random.randrange(len(self.objects))] = value
            else:
                self.objects.append(value)
        elif inspect.iscoroutine(value):
            value.close()

    def attempt(self, action: Callable[[], Any]) -> None:
        try:
            self.keep(action())
        except SystemError:
            raise
        except Exception:  # noqa: BLE001
            pass  # bad arguments are errors, and any error will do

    def call_any(self) -> None:
        arguments = [self.value() for _ in range(self.random.randrange(5))]
        if self.random.random() < 0.2:
            kind = self.random.choice(self.types)
            self.attempt(
                lambda: kind.__new__(kind) if self.random.random() < 0.3 else kind(*arguments))
            return
        target = self.random.choice(self.objects)
        names = [each for each in dir(type(target)) if each not in SKIPPED]
        name = self.random.choice(names)
        if not callable(getattr(type(target), name, None)):
            self.attempt(lambda: getattr(target, name))
            if arguments:
                self.attempt(lambda: setattr(target, name, arguments[0]))
            return
        self.attempt(lambda: getattr(target, name)(*arguments))
        self.attempt(lambda: list(zip(range(50), iter(target), strict=False)))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fuzzer = Fuzzer(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        fuzzer.call_any()
    print("done")
