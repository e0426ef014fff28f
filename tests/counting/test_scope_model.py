"""The ledger agrees with a simple model: every operation, in any order (hypothesis)."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_scopes import AMOUNTS, FIELDS, SINGLE_LIMITS, Handle, ModelLedger, Refused, limit

from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import Ledger
from rcmgr.errors import ResourceScopeClosed

# this test gives back too much thousands of times, on purpose
logging.getLogger("rcmgr.counting.scope").setLevel(logging.ERROR)

PEERS = st.sampled_from(["A", "B", "C"])
PROTOCOLS = st.sampled_from(["/x", "/y"])
SERVICES = st.sampled_from(["s", "t"])
GROUPS = st.sampled_from([
    "system", "transient", "allowlistedSystem", "allowlistedTransient", "peer:A", "peer:B",
    "protocol:/x", "service:s", "protocol:/x.peer:A", "service:s.peer:B",
])
COUNTS = st.sampled_from([None, None, 0, 1, 2, 3])
BYTES = st.sampled_from([None, None, 0, 100, 1000])
LIMITS = st.builds(
    limit, **{name: BYTES if name == "memory" else COUNTS for name in FIELDS}
)
OFTEN_NONE = st.one_of(st.just(limit()), LIMITS)
SIZES = st.one_of(st.integers(0, 400), st.just(2**63 - 1))
PICKS = st.integers(0, 1_000_000)


def concrete(draw: Any) -> SimpleNamespace:
    # sometimes without limits: refusals would keep histories of memory short
    limits = draw(st.sampled_from([OFTEN_NONE, st.just(limit())]))
    return SimpleNamespace(
        **{name: draw(limits) for name in SINGLE_LIMITS},
        service={"t": draw(OFTEN_NONE)}, service_peer={"s": draw(OFTEN_NONE)},
        protocol={"/y": draw(OFTEN_NONE)}, protocol_peer={"/x": draw(OFTEN_NONE)},
        peer={"C": draw(OFTEN_NONE)},
    )


def flat(snapshot: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By the names of scopes."""
    fixed = {
        "system": "system", "transient": "transient", "allowlisted_system": "allowlistedSystem",
        "allowlisted_transient": "allowlistedTransient",
    }
    rows = {name: snapshot[key] for key, name in fixed.items()}
    rows |= {f"peer:{peer}": row for peer, row in snapshot["peers"].items()}
    for kind in ("service", "protocol"):
        for name, row in snapshot[f"{kind}s"].items():
            rows[f"{kind}:{name}"] = row
            for peer, member in row["peers"].items():
                rows[f"{kind}:{name}.peer:{peer}"] = member
    return {name: {what: row[what] for what in AMOUNTS} for name, row in rows.items()}


def as_model(refusal: Refusal) -> Refused:
    asked_by = None if refusal.asked_by == refusal.scope else refusal.asked_by
    if refusal.resource != "memory":
        assert refusal.priority == 255
    return Refused(
        refusal.scope, refusal.resource, refusal.current, refusal.attempted, refusal.limit, asked_by
    )


class Scopes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # (the real handle, the model's)
        self.pairs: list[tuple[Any, Handle]] = []

    @initialize(data=st.data())
    def start(self, data: Any) -> None:
        limits = concrete(data.draw)
        self.ledger = Ledger(limits, debug=False)
        self.model = ModelLedger(limits)

    def both(self, real: Any, model: Any) -> None:
        """Both answers are the same. Keep new handles."""
        if isinstance(model, Refused):
            assert not real
            assert as_model(real) == model
        elif isinstance(model, Handle):
            assert real.name == model.name
            self.pairs.append((real, model))
        else:
            assert real is True
            assert model is None

    def pick(self, pick: int, kind: str = "") -> tuple[Any, Handle] | None:
        found = [pair for pair in self.pairs if pair[1].name.startswith(kind)]
        if kind:
            found = [pair for pair in found if pair[1].owner is None]
        return found[pick % len(found)] if found else None

    @rule(inbound=st.booleans(), fd=st.booleans(), allowlisted=st.booleans(),
          peer=st.one_of(st.none(), PEERS))
    def open_connection(
        self, inbound: bool, fd: bool, allowlisted: bool, peer: str | None
    ) -> None:
        real = self.ledger.try_open_connection(
            inbound, fd=fd, allowlisted=allowlisted, peer=peer)
        self.both(real, self.model.open_connection(inbound, fd, allowlisted, peer))

    @rule(peer=PEERS, inbound=st.booleans(), allowlisted=st.booleans())
    def open_stream(self, peer: str, inbound: bool, allowlisted: bool) -> None:
        real = self.ledger.try_open_stream(peer, inbound, allowlisted=allowlisted)
        self.both(real, self.model.open_stream(peer, inbound, allowlisted))

    def attach(self, pair: tuple[Any, Handle], call: str, argument: str, ready: bool, **more: Any
               ) -> None:
        real, model = pair
        try:
            result = getattr(real, f"try_{call}")(argument, **more)
        except ResourceScopeClosed:
            assert not model.live
        except RuntimeError:
            assert model.live
            assert not ready
        else:
            assert model.live
            assert ready
            self.both(result, getattr(self.model, call)(model, argument, *more.values()))

    @rule(pick=PICKS, peer=PEERS, allowlisted=st.sampled_from([None, True, False]))
    def set_peer(self, pick: int, peer: str, allowlisted: bool | None) -> None:
        pair = self.pick(pick, "conn-")
        if pair is not None:
            self.attach(pair, "set_peer", peer, pair[1].peer is None, allowlisted=allowlisted)

    @rule(pick=PICKS, protocol=PROTOCOLS)
    def set_protocol(self, pick: int, protocol: str) -> None:
        pair = self.pick(pick, "stream-")
        if pair is not None:
            self.attach(pair, "set_protocol", protocol, pair[1].protocol is None)

    @rule(pick=PICKS, service=SERVICES)
    def set_service(self, pick: int, service: str) -> None:
        pair = self.pick(pick, "stream-")
        if pair is not None:
            model = pair[1]
            ready = model.protocol is not None and model.service is None
            self.attach(pair, "set_service", service, ready)

    @rule(peer=PEERS, inbound=st.booleans(), protocol=PROTOCOLS, service=SERVICES)
    def open_served_stream(self, peer: str, inbound: bool, protocol: str, service: str) -> None:
        """A whole life in one rule: single rules seldom reach a service."""
        before = len(self.pairs)
        self.open_stream(peer, inbound, allowlisted=False)
        if len(self.pairs) == before:
            return
        pair = self.pairs[-1]
        for call, argument in (("set_protocol", protocol), ("set_service", service)):
            model = pair[1]
            ready = model.live and (model.protocol is None) == (call == "set_protocol")
            self.attach(pair, call, argument, ready and model.service is None)

    @rule(name=GROUPS)
    def view(self, name: str) -> None:
        self.both(self.real_view(name), self.model.view(name))

    def real_view(self, name: str) -> Any:
        kind, _, rest = name.partition(":")
        group, _, peer = rest.partition(".peer:")
        if not rest:
            method = {"allowlistedSystem": "allowlisted_system",
                      "allowlistedTransient": "allowlisted_transient"}.get(kind, kind)
            return getattr(self.ledger, method)()
        if peer:
            return getattr(self.ledger, f"{kind}_peer")(group, peer)
        return getattr(self.ledger, kind)(rest)

    @rule(pick=PICKS, size=SIZES, priority=st.sampled_from([0, 101, 152, 203, 255]))
    def reserve_memory(self, pick: int, size: int, priority: int) -> None:
        pair = self.pick(pick)
        if pair is None:
            return
        real, model = pair
        if model.live and size > 2**62:
            # the ledger refuses sums of more than 64 bits; the model's ints have no end
            if self.model.held_by(model.base)["memory"] == 0:
                return
            assert not real.try_reserve_memory(size, priority)
            return
        try:
            result = real.try_reserve_memory(size, priority)
        except ResourceScopeClosed:
            assert not model.live
        else:
            assert model.live
            assert result is True or result.priority == priority
            self.both(result, self.model.charge(model, dict.fromkeys(AMOUNTS, 0) | {"memory": size},
                                                priority))

    @rule(pick=PICKS, size=st.one_of(st.none(), st.integers(0, 400)))
    def release_memory(self, pick: int, size: int | None) -> None:
        pair = self.pick(pick)
        if pair is not None:
            real, model = pair
            if size is None:  # exactly what it has
                size = model.own["memory"]
            real.release_memory(size)
            if model.live:
                self.model.release_memory(model, size)

    @rule(pick=PICKS)
    def begin_span(self, pick: int) -> None:
        pair = self.pick(pick)
        if pair is None:
            return
        real, model = pair
        try:
            span = real.begin_span()
        except ResourceScopeClosed:
            assert not model.live
        else:
            assert model.live
            self.both(span, self.model.begin_span(model))

    @rule(peer=PEERS, inbound=st.booleans(), allowlisted=st.booleans())
    def acquire_stream(self, peer: str, inbound: bool, allowlisted: bool) -> None:
        real = self.ledger.acquire_stream(peer, inbound, allowlisted)
        self.both(real, self.model.acquire_stream(peer, inbound, allowlisted))

    @rule(peer=PEERS, inbound=st.booleans())
    def release_stream(self, peer: str, inbound: bool) -> None:
        real = self.ledger.release_stream(peer, inbound)
        assert real is self.model.release_stream(peer, inbound)

    @rule(name=GROUPS, new=st.one_of(st.none(), LIMITS))
    def set_limit(self, name: str, new: SimpleNamespace | None) -> None:
        if new is None and ":" not in name:
            return
        with self.real_view(name) as view:
            view.set_limit(new)
        if name.startswith("service:"):
            self.model.services_seen.add(name.partition(":")[2].partition(".peer:")[0])
        if new is None:
            self.model.overrides.pop(name, None)
        else:
            self.model.overrides[name] = new

    @rule(pick=PICKS, new=st.one_of(st.none(), LIMITS))
    def set_own_limit(self, pick: int, new: SimpleNamespace | None) -> None:
        pair = self.pick(pick)
        if pair is None or not (pair[1].is_leaf or pair[1].owner is not None):
            return
        real, model = pair
        try:
            real.set_limit(new)
        except ResourceScopeClosed:
            assert not model.live
        else:
            assert model.live
            model.limit = new

    @rule(data=st.data())
    def set_limits(self, data: Any) -> None:
        limits = concrete(data.draw)
        self.ledger.set_limits(limits)
        self.model.set_limits(limits)

    @rule(pick=PICKS)
    def close(self, pick: int) -> None:
        pair = self.pick(pick)
        if pair is not None:
            pair[0].close()
            self.model.close(pair[1])

    @rule(pick=PICKS)
    def drop(self, pick: int) -> None:
        """Drop the last reference, unless a span refers to the scope."""
        pair = self.pick(pick)
        if pair is None or any(model.owner is pair[1] for _, model in self.pairs):
            return
        self.pairs.remove(pair)
        self.model.drop(pair[1])

    @precondition(lambda self: len(self.pairs) > 10)
    @rule(pick=st.one_of(st.none(), PICKS))
    def clear(self, pick: int | None) -> None:
        views = [pair for pair in self.pairs if pair[1].name == "system"]
        if pick is None or not views:
            self.ledger.clear()
            self.model.clear()
        else:
            real, model = views[pick % len(views)]
            self.ledger.clear(keep=real)
            self.model.clear(model)

    @invariant()
    def the_memory_of_connections(self) -> None:
        if not hasattr(self, "ledger"):
            return
        held = [
            self.model.held_by(model)["memory"] for _, model in self.pairs
            if model.live and model.owner is None and model.name.startswith("conn-")]
        total, counts = self.ledger.connection_memory
        assert total == sum(held)
        expected = Counter((size - 1).bit_length() for size in held if size)
        assert {n: count for n, count in enumerate(counts) if count} == expected

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "ledger"):
            return
        snapshot = flat(self.ledger.snapshot())
        assert snapshot == self.model.snapshot()
        assert self.ledger.leaked == self.model.leaked
        assert self.ledger.over_released == self.model.over_released
        for peer in "ABC":
            exempt = self.model.has_allowlisted_connection(peer)
            assert self.ledger.has_allowlisted_connection(peer) is exempt
        for real, model in self.pairs:
            assert real.closed is not model.live
            if model.live and (model.is_leaf or model.owner is not None):
                assert real.stat()._asdict() == self.model.held_by(model)
            elif model.live:
                assert real.stat()._asdict() == snapshot[model.name]
                assert real.held_memory == model.own["memory"]
            else:
                assert not any(real.stat())

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for real, model in self.pairs:
            real.close()
            self.model.close(model)
        for peer in "ABC":
            for inbound in (True, False):
                while self.ledger.release_stream(peer, inbound):
                    self.model.release_stream(peer, inbound)
        left = flat(self.ledger.snapshot())
        assert not any(any(held.values()) for held in left.values())
        assert self.ledger.peers() == self.ledger.protocols() == []


Scopes.TestCase.settings = settings(max_examples=300, stateful_step_count=60)
TestScopes = Scopes.TestCase
