"""Call every compiled type with everything: `python fuzz_types.py SEED CALLS [THREADS]`.

It may raise any exception but SystemError, and it must not crash. Some arguments run code while a
type compares, hashes, converts, calls or drops them, and that code calls the same objects again.
"""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import operator
import os
import pickle
import random
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import rcmgr
from rcmgr import _library

COMPILED = sorted(_library.NAMES)
MAX_OBJECTS = 60
MAX_ITERATORS = 20
MAX_BYTES = 4 << 30
# they would open sockets, end an object that still has references, or repeat a text for gigabytes
SKIPPED = {"__class__", "__del__", "__mul__", "__rmul__", "serve_metrics", "serve_status"}
# the questions of Python's own functions
OPERATIONS: list[Callable[[Any], Any]] = [
    hash, len, bool, repr, str, list, dict, set, iter, dir, reversed, sorted, copy.copy,
    copy.deepcopy, operator.index, weakref.ref, lambda each: pickle.loads(pickle.dumps(each)),
    lambda each: each(), lambda each: each.__reduce_ex__(4), lambda each: each.__sizeof__(),
    lambda each: each.__getstate__(), lambda each: each.__enter__(),
    lambda each: each.__exit__(None, None, None),
]
PAIRS: list[Callable[[Any, Any], Any]] = [
    operator.eq, operator.lt, operator.contains, operator.getitem, operator.delitem, operator.add,
    operator.or_, operator.and_, operator.sub, isinstance, delattr,
]


def compiled_types() -> list[type]:
    found = []
    for name in COMPILED:
        module = importlib.import_module(name)
        found += [
            each for each in vars(module).values()
            if isinstance(each, type) and each.__module__ == name
            and not issubclass(each, BaseException)]
    return found


def parameters() -> dict[str, list[str]]:
    """The names of all arguments, by qualified name. Asking in a thread could confuse CPython."""
    found = {}
    for kind in compiled_types():
        for each in (kind, *(getattr(kind, name) for name in dir(kind))):
            with suppress(TypeError, ValueError, AttributeError):
                found[each.__qualname__] = list(inspect.signature(each).parameters)
    return found


def subclasses(types: list[type]) -> Iterator[type]:
    """Subclasses of all types that allow it, with and without a constructor and a dictionary."""
    for kind in types:
        try:
            yield type(f"Sub{kind.__name__}", (kind,), {})
            yield type(f"Slotted{kind.__name__}", (kind,), {"__slots__": ()})
            yield type(
                f"Silent{kind.__name__}", (kind,),
                {"__init__": lambda self, *_, **__: None,
                 "__new__": lambda cls, *_, kind=kind, **__: kind.__new__(cls)})
        except (TypeError, AttributeError):
            pass  # it is final, or an enum


def used_manager() -> Any:
    manager = rcmgr.ResourceManager(
        connection_limits=rcmgr.ConnectionLimits(2, 2, 3, 3, 2, 5), denials_kept=3,
        connection_rate_limits=rcmgr.ConnectionRateLimits(per_peer=rcmgr.Rate(1.0, 3)))
    manager.kept = [
        manager.open_connection(b"peer"), manager.open_connection(None, "192.0.2.1"),
        manager.open_stream(b"peer", "inbound")]
    return manager


def used_tracker() -> Any:
    tracker = rcmgr.ConnectionTracker(max_connections=6)
    for number in range(3):
        tracker.add_pending_inbound(number, b"peer")
        tracker.move_to_established_inbound(number, b"peer")
    return tracker


def used_ledger() -> Any:
    ledger = rcmgr.Ledger(rcmgr.ConcreteLimits(
        system=rcmgr.Limit(*[5] * 8), protocol_default=rcmgr.Limit(streams=2)))
    ledger.protocol("/proto/1").begin_span()
    return ledger


# programs close objects, so new ones come all the time
FRESH: list[Callable[[], Any]] = [
    used_manager, used_tracker, used_ledger, rcmgr.ResourceManager,
    lambda: rcmgr.TokenBucket(10, 1.0), lambda: rcmgr.BucketTable(10, 1.0, max_peers=4),
    lambda: rcmgr.DenialLog(4), lambda: rcmgr.MemoryConnectionLimits(1),
    lambda: rcmgr.Ledger().try_open_stream(b"peer", True),
    lambda: rcmgr.Ledger().try_open_connection(True, peer=b"peer"),
    lambda: rcmgr.Ledger().service("service").begin_span(),
    lambda: used_manager().open_connection(None), lambda: rcmgr.Ledger().peer(b"peer"),
]


PARAMETERS = parameters()


class Fuzzer:
    def __init__(self, seed: int, objects: list[Any] | None = None) -> None:
        self.random = random.Random(seed)
        self.types = compiled_types()
        self.types += list(subclasses(self.types))
        self.depth = 0
        self.iterators: list[Any] = []
        self.objects: list[Any] = [make() for make in FRESH] if objects is None else objects

    def call_again(self) -> None:
        if self.depth < 2:
            self.depth += 1
            try:
                self.call_any()
            finally:
                self.depth -= 1

    def odd(self) -> Any:
        """A value that a conversion may return, or an exception that it may raise."""
        value = self.random.choice([
            None, -1, 0, 1, 2**70, b"peer", 1.5, "text", True, (), [],
            KeyError("odd"), ValueError(), RuntimeError(), MemoryError()])
        if isinstance(value, Exception):
            raise value
        return value

    def value(self) -> Any:
        fuzzer = self

        def meddle(_: Any, *__: Any, **___: Any) -> Any:
            fuzzer.call_again()
            return fuzzer.odd()

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
                return fuzzer.random.choice([None, -1, 1, 2**70, b"peer", 1.5, meddle])

        class Converting(Meddling):
            """Its conversions do the same, and return or raise anything."""

            __index__ = __int__ = __float__ = __str__ = __bool__ = __len__ = __call__ = meddle
            __iter__ = __next__ = __lt__ = __getitem__ = __contains__ = __format__ = meddle
            __bytes__ = __repr__ = __add__ = __mul__ = __sub__ = __enter__ = __exit__ = meddle
            __setattr__ = __hash__ = __eq__ = meddle

            def __init__(self, number: int) -> None:
                self.__dict__["number"] = number

        class Text(str):
            __slots__ = ()
            __hash__ = __eq__ = __str__ = meddle

        class Bytes(bytes):
            __hash__ = __eq__ = __bytes__ = meddle

        class Number(int):
            __index__ = __hash__ = __eq__ = __lt__ = __int__ = meddle

        choose = self.random.choice
        return choose([
            lambda: None, lambda: choose([0, 1, 2, -1, 7, 2**31, 2**63 - 1, 2**63, -(2**64)]),
            lambda: choose([0.0, 1.5, -1.0, 254.9, float("inf"), float("nan")]),
            lambda: choose(["", "inbound", "peer", "/proto/1", "x" * 300, "\ud800", "192.0.2.1"]),
            lambda: choose(["/ip4/1.2.3.4", "/", "::1", "1.2.3.4/8", "pending_inbound", "rss"]),
            lambda: choose([b"", b"peer", bytes(38), b"\x00\x25" + bytes(36), b"x" * 5000]),
            lambda: choose([True, False]), lambda: choose([(), [], {}, set(), {"a": 1}, [1, 2]]),
            lambda: Meddling(self.random.randrange(3)), lambda: Meddling(self.random.randrange(3)),
            lambda: Converting(self.random.randrange(3)), lambda: Text("peer"),
            lambda: Bytes(b"peer"), lambda: Number(1), lambda: meddle,
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

    def arguments(self, function: Any) -> tuple[list[Any], dict[str, Any]]:
        given = [self.value() for _ in range(self.random.randrange(5))]
        if self.random.random() < 0.5:
            return given, {}
        names = PARAMETERS.get(getattr(function, "__qualname__", ""), [])
        chosen = self.random.sample(names, self.random.randrange(len(names) + 1))
        return given[:1], {name: self.value() for name in chosen}

    def call_any(self) -> None:
        chance = self.random.random()
        if chance < 0.2:
            kind = self.random.choice(self.types)
            given, named = self.arguments(kind)
            self.attempt(
                lambda: kind.__new__(kind) if self.random.random() < 0.3 else kind(*given, **named))
            return
        if chance < 0.24:
            self.attempt(self.random.choice(FRESH))
            return
        target = self.random.choice(self.objects)
        if chance < 0.3:
            self.attempt(lambda: self.random.choice(OPERATIONS)(target))
        elif chance < 0.35:
            self.attempt(lambda: self.random.choice(PAIRS)(target, self.value()))
        elif chance < 0.36:
            gc.collect(0)
        elif chance < 0.42:
            self.iterate(target)
        else:
            self.use(target)

    def iterate(self, target: Any) -> None:
        """Begin an iteration, or continue an older one, whose object may have changed."""
        iterators = self.iterators
        self.attempt(lambda: iterators.append(iter(target)))
        del iterators[:-MAX_ITERATORS]
        if iterators:
            each = self.random.choice(iterators)
            self.attempt(lambda: list(zip(range(self.random.randrange(9)), each, strict=False)))

    def use(self, target: Any) -> None:
        names = [each for each in dir(type(target)) if each not in SKIPPED]
        name = self.random.choice(names)
        if not callable(getattr(type(target), name, None)):
            self.attempt(lambda: getattr(target, name))
            if self.random.random() < 0.5:
                self.attempt(lambda: setattr(target, name, self.value()))
            return
        self.attempt(lambda: self.call(getattr(target, name)))

    def call(self, function: Any) -> Any:
        given, named = self.arguments(function)
        return function(*given, **named)


def run(fuzzer: Fuzzer, calls: int) -> None:
    for _ in range(calls):
        fuzzer.call_any()


def limit_memory() -> None:
    """An argument may ask for more memory than the machine has. Then it gets a MemoryError.

    AddressSanitizer needs terabytes of addresses. scripts/sanitize gives it another limit.
    """
    if sys.platform == "linux" and "ASAN_OPTIONS" not in os.environ:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))


def main(seed: int, calls: int, count: int = 1) -> None:
    warnings.simplefilter("ignore")
    limit_memory()
    first = Fuzzer(seed)
    fuzzers = [first, *(Fuzzer(seed + 1000 * number, first.objects) for number in range(1, count))]
    failed: list[BaseException] = []

    def guarded(fuzzer: Fuzzer) -> None:
        try:
            run(fuzzer, calls // count)
        except BaseException as error:
            failed.append(error)
            raise

    if count > 1:
        sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=guarded, args=(each,)) for each in fuzzers[1:]]
    for thread in threads:
        thread.start()
    guarded(first)
    for thread in threads:
        thread.join()
    if not failed:
        print("done")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
