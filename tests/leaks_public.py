"""One call of each public function, class and method. `python leaks_public.py ROOM` measures them.

The output is the number of bytes that a call leaves behind, by name. A name is that of the class
which defines the method: `Scope.close` covers the scopes of all kinds. A call that takes something
gives it back. test_leaks.py compares the names with those of rcmgr.
"""

from __future__ import annotations

import gc
import inspect
import json
import socketserver
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

import trio
from bytes_left import NUMBERS, Cycle, bytes_left
from leaks import NO_LIMITS, NOTHING
from swarm import finish

import rcmgr
from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLifecycleHandler,
    ConnectionLifecycleManager,
    ConnectionLimits,
    ConnectionTracker,
    DenialLog,
    Ledger,
    Limit,
    LimitsFile,
    NodeLimits,
    PartialLimit,
    PartialLimits,
    Rate,
    RateLimits,
    ResourceLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.gates.addresses import parse_entry
from rcmgr.gates.bans import Bans
from rcmgr.limits.rates import PeerRates
from rcmgr.report.canonical_log import CanonicalLog

Calls = dict[str, Cycle]

MOST, LEAST, SECONDS = 1_000, 30, 0.005
"""How many calls a round has. Between these numbers, as many as these seconds have room for."""
SLOW = 0.02
"""Seconds. A slower call runs five times a round."""
SLACK = 8.0
"""Bytes that a call may leave. The smallest object has 16."""
NONE = Limit(0, 0, 0, 0, 0, 0, 0, 0)
FILE = LimitsFile.of(NodeLimits(
    connections=ConnectionLimits(5), scopes=ConcreteLimits(system=Limit(conns=5))))


def counting() -> Calls:
    return {**tracker(), **scopes(), **buckets(), **memory_and_denials()}


def tracker() -> Calls:
    now = [0]
    tracker = ConnectionTracker(clock=lambda: now[0])
    full = ConnectionTracker(max_connections=0)
    denial: Any = full.admit_pending_inbound("c", NO_LIMITS)

    def record(i: int) -> Any:
        tracker.add_pending_inbound(i)
        return tracker.get_connection(i)

    def reconcile(i: int) -> None:
        tracker.move_to_established_inbound(i, b"peer")
        now[0] += 10**9
        assert tracker.reconcile((), 0.5) == 1

    def clear(i: int) -> None:
        tracker.add_pending_inbound(i)
        tracker.clear()

    return {
        "ConnectionTracker": lambda i: ConnectionTracker(max_connections=i),
        "ConnectionKind": lambda i: rcmgr.ConnectionKind("pending_inbound"),
        "ConnectionRecord": lambda i: tracker.remove(record(i)),
        "Denial": lambda i: full.admit_pending_inbound(i, NO_LIMITS),
        "Denial.to_error": lambda i: denial.to_error(i, b"peer %d" % i),
        "ConnectionTracker.records": lambda i: (record(i), tracker.records(), tracker.clear()),
        "ConnectionTracker.add_pending_inbound": lambda i: (
            tracker.add_pending_inbound(i, b"%d" % i), tracker.remove_connection(i)),
        "ConnectionTracker.add_pending_outbound": lambda i: (
            tracker.add_pending_outbound(i, b"%d" % i), tracker.remove_connection(i)),
        "ConnectionTracker.admit_pending_inbound": lambda i: (
            tracker.admit_pending_inbound(i, NO_LIMITS), tracker.remove_connection(i)),
        "ConnectionTracker.admit_pending_outbound": lambda i: (
            tracker.admit_pending_outbound(i, NO_LIMITS), tracker.remove_connection(i)),
        "ConnectionTracker.move_to_established_inbound": lambda i: (
            tracker.move_to_established_inbound(i, b"%d" % i), tracker.remove_connection(i)),
        "ConnectionTracker.move_to_established_outbound": lambda i: (
            tracker.move_to_established_outbound(i, b"%d" % i), tracker.remove_connection(i)),
        "ConnectionTracker.admit_established_inbound": lambda i: (
            tracker.admit_established_inbound(i, b"%d" % i, NO_LIMITS),
            tracker.remove_connection(i)),
        "ConnectionTracker.admit_established_outbound": lambda i: (
            tracker.admit_established_outbound(i, b"%d" % i, NO_LIMITS),
            tracker.remove_connection(i)),
        "ConnectionTracker.admit": lambda i: (
            tracker.admit(i, b"%d" % i, True, NO_LIMITS), tracker.remove_connection(i)),
        "ConnectionTracker.get_connection": lambda i: tracker.get_connection(i),
        "ConnectionTracker.holds": lambda i: tracker.remove(record(i)) or tracker.holds(record(i)),
        "ConnectionTracker.remove": lambda i: tracker.remove(record(i), only_pending=True),
        "ConnectionTracker.rename": lambda i: (
            tracker.rename(record(i), ("new", i)), tracker.remove_connection(("new", i))),
        "ConnectionTracker.remove_connection": lambda i: (
            tracker.add_pending_inbound(i), tracker.remove_connection(i, b"%d" % i)),
        "ConnectionTracker.add_bypass_peer": lambda i: (
            tracker.add_bypass_peer(b"%d" % i), tracker.remove_bypass_peer(b"%d" % i)),
        "ConnectionTracker.remove_bypass_peer": lambda i: tracker.remove_bypass_peer(b"%d" % i),
        "ConnectionTracker.is_bypassed": lambda i: tracker.is_bypassed(b"%d" % i),
        "ConnectionTracker.get_connection_count": lambda i: tracker.get_connection_count(
            "pending_inbound"),
        "ConnectionTracker.get_peer_connection_count": lambda i: (
            tracker.get_peer_connection_count(b"%d" % i)),
        "ConnectionTracker.denied_by_direction": lambda i: full.denied_by_direction(),
        "ConnectionTracker.denied_count": lambda i: full.denied_count("established_total"),
        "ConnectionTracker.snapshot": lambda i: tracker.snapshot(),
        "TrackerSnapshot": lambda i: replace(tracker.snapshot(), total_denied=i),
        "ConnectionTracker.reconcile": reconcile,
        "ConnectionTracker.clear": clear,
    }


def scopes() -> Calls:
    ledger = Ledger(ConcreteLimits(), debug=False)
    full = Ledger(ConcreteLimits(system=NONE))
    refusal: Any = full.try_open_connection()
    system, of_peer = ledger.system(), ledger.peer(b"peer")
    limits = ConcreteLimits(peer_default=Limit(conns=5))

    def name(i: int) -> bytes:
        return b"peer %d" % i

    def of_connection(call: Callable[[Any], object]) -> Cycle:
        def cycle(i: int) -> None:
            with ledger.open_connection() as scope:
                call(scope)

        return cycle

    def of_stream(call: Callable[[Any], object]) -> Cycle:
        def cycle(i: int) -> None:
            with ledger.open_stream(name(i)) as scope:
                call(scope)

        return cycle

    def set_service(scope: Any) -> None:
        scope.set_protocol("/x")
        scope.set_service("s")

    def try_set_service(scope: Any) -> None:
        scope.set_protocol("/x")
        assert scope.try_set_service("s")

    def take_and_clear(i: int) -> None:
        other = Ledger(limits)
        other.open_connection()
        other.clear()

    return {
        "Ledger": lambda i: Ledger(limits),
        "Refusal": lambda i: full.try_open_stream(name(i)),
        "Refusal.to_error": lambda i: refusal.to_error(i, name(i)),
        "Priority": lambda i: rcmgr.Priority(101),
        "Scope": lambda i: ledger.system(),
        "ScopeView": lambda i: ledger.peer(name(i)).close(),
        "ScopeStat": lambda i: rcmgr.ScopeStat(*system.stat()),
        "ConnScope": lambda i: ledger.open_connection().close(),
        "StreamScope": lambda i: ledger.open_stream(name(i)).close(),
        "Span": lambda i: system.begin_span().close(),
        "Scope.stat": lambda i: system.stat(),
        "Scope.begin_span": lambda i: system.begin_span().close(),
        "Scope.close": lambda i: ledger.open_connection(False).close(),
        "Scope.reserve_memory": lambda i: (system.reserve_memory(i), system.release_memory(i)),
        "Scope.try_reserve_memory": lambda i: (
            system.try_reserve_memory(i), system.release_memory(i)),
        "Scope.release_memory": lambda i: (system.reserve_memory(i), system.release_memory(i)),
        "ConnScope.close": lambda i: ledger.open_connection(fd=False).close(),
        "Scope.set_limit": of_connection(lambda scope: scope.set_limit(Limit(memory=5))),
        "ScopeView.set_limit": lambda i: (
            of_peer.set_limit(Limit(memory=i)), of_peer.set_limit(None)),
        "ConnScope.set_peer": lambda i: of_connection(lambda scope: scope.set_peer(name(i)))(i),
        "ConnScope.try_set_peer": lambda i: of_connection(
            lambda scope: scope.try_set_peer(name(i)))(i),
        "StreamScope.set_protocol": of_stream(lambda scope: scope.set_protocol("/x")),
        "StreamScope.try_set_protocol": of_stream(lambda scope: scope.try_set_protocol("/x")),
        "StreamScope.set_service": of_stream(set_service),
        "StreamScope.try_set_service": of_stream(try_set_service),
        "Ledger.open_connection": lambda i: ledger.open_connection(peer=name(i)).close(),
        "Ledger.try_open_connection": lambda i: full.try_open_connection(peer=name(i)),
        "Ledger.open_stream": lambda i: ledger.open_stream(name(i), False).close(),
        "Ledger.try_open_stream": lambda i: full.try_open_stream(name(i), False),
        "Ledger.acquire_stream": lambda i: (
            ledger.acquire_stream(name(i), True), ledger.release_stream(name(i), True)),
        "Ledger.release_stream": lambda i: (
            ledger.acquire_stream(name(i), False), ledger.release_stream(name(i), False)),
        "Ledger.system": lambda i: ledger.system().close(),
        "Ledger.transient": lambda i: ledger.transient().close(),
        "Ledger.allowlisted_system": lambda i: ledger.allowlisted_system().close(),
        "Ledger.allowlisted_transient": lambda i: ledger.allowlisted_transient().close(),
        "Ledger.peer": lambda i: ledger.peer(name(i)).close(),
        "Ledger.protocol": lambda i: ledger.protocol(f"/{i}").close(),
        "Ledger.service": lambda i: ledger.service("s").close(),
        "Ledger.protocol_peer": lambda i: ledger.protocol_peer(f"/{i}", name(i)).close(),
        "Ledger.service_peer": lambda i: ledger.service_peer("s", name(i)).close(),
        "Ledger.set_limits": lambda i: ledger.set_limits(limits),
        "Ledger.has_allowlisted_connection": lambda i: ledger.has_allowlisted_connection(name(i)),
        "Ledger.inbound_streams_of": lambda i: ledger.inbound_streams_of(name(i)),
        "Ledger.peers": lambda i: ledger.peers(),
        "Ledger.largest_peers": lambda i: ledger.largest_peers(),
        "Ledger.protocols": lambda i: ledger.protocols(),
        "Ledger.services": lambda i: ledger.services(),
        "Ledger.snapshot": lambda i: ledger.snapshot(),
        "Ledger.peer_stats": lambda i: ledger.peer_stats(),
        "Ledger.fullest": lambda i: ledger.fullest(),
        "Ledger.clear": take_and_clear,
    }


def buckets() -> Calls:
    bucket = rcmgr.TokenBucket(10**6, 10**6)
    table = rcmgr.BucketTable(5, 1.0, max_peers=100)

    def key(i: int) -> bytes:
        return b"peer %d" % i

    async def wait(i: int) -> None:
        await bucket.wait()

    return {
        "TokenBucket": lambda i: rcmgr.TokenBucket(5, 1.0),
        "TokenBucket.try_consume": lambda i: bucket.try_consume(2),
        "TokenBucket.consume_up_to": lambda i: bucket.consume_up_to(5),
        "TokenBucket.get_available_tokens": lambda i: bucket.get_available_tokens(),
        "TokenBucket.time_until": lambda i: bucket.time_until(3),
        "TokenBucket.set_rate": lambda i: bucket.set_rate(10**6, 10.0**6),
        "TokenBucket.reset": lambda i: bucket.reset(),
        "TokenBucket.refill": lambda i: bucket.refill(),
        "TokenBucket.wait": wait,
        "BucketTable": lambda i: rcmgr.BucketTable(5, 1.0),
        "BucketTable.try_consume": lambda i: table.try_consume(key(i), 3),
        "BucketTable.try_consume_both": lambda i: table.try_consume_both(key(i), bucket),
        "BucketTable.get_available_tokens": lambda i: table.get_available_tokens(key(i)),
        "BucketTable.time_until": lambda i: table.time_until(key(i)),
        "BucketTable.get_denials": lambda i: table.get_denials(key(i)),
        "BucketTable.most_denied": lambda i: table.most_denied(),
        "BucketTable.forget": lambda i: (table.try_consume(key(i)), table.forget(key(i))),
    }


def memory_and_denials() -> Calls:
    cache, log, reported = rcmgr.MemoryStatsCache(), DenialLog(16), DenialLog(16)
    refusal: Any = Ledger(ConcreteLimits(system=NONE)).try_open_connection()
    error = refusal.to_error()

    def add(i: int) -> None:
        log.add(refusal, i, b"peer %d" % (i % 50), True, f"192.0.2.{i % 50}")

    def report(i: int) -> None:
        reported.report_to(getLogger("rcmgr.leaks"), lambda summary: None, lambda error: None)
        reported.add(refusal, i)

    for i in range(100):
        add(i)
    return {
        "MemoryStatsCache": lambda i: rcmgr.MemoryStatsCache(),
        "MemoryStatsCache.get_memory_usage": lambda i: cache.get_memory_usage(),
        "MemoryStatsCache.refresh_if_needed": lambda i: cache.refresh_if_needed(),
        "MemoryStatsCache.force_refresh": lambda i: cache.force_refresh(),
        "MemoryStatsCache.forget": lambda i: cache.forget(),
        "DenialLog": lambda i: DenialLog(4),
        "DenialLog.add": add,
        "DenialLog.report_to": report,
        "DenialLog.flush": lambda i: (reported.add(refusal, i), reported.flush()),
        "DenialLog.most_denied": lambda i: log.most_denied(),
        "DenialLog.most_denied_addresses": lambda i: log.most_denied_addresses(),
        "DenialLog.entries": lambda i: log.entries(),
        "DenialLog.latest_entries": lambda i: log.latest_entries(3),
        "DenialLog.of_connection": lambda i: log.of_connection(i),
        "DenialLog.by_code": lambda i: log.by_code(),
        "DenialEntry": lambda i: rcmgr.DenialEntry(error, 1.0, True),
        "DenialSummary": lambda i: rcmgr.DenialSummary(error, i, 1.0, None, 0),
    }


def limits() -> Calls:
    states, scaling = ConnectionLimits(5), rcmgr.ScalingLimits()
    concrete, partial = ConcreteLimits(system=Limit(5)), PartialLimits(system=PartialLimit(5))
    rate, node = Rate(5.0, 9), NodeLimits(connections=ConnectionLimits(5))
    rates = RateLimits(default=rate)
    text, toml = FILE.to_json(), FILE.to_toml()
    path = Path(tempfile.mkdtemp()) / "limits.json"
    path.write_text(text)
    go = path.with_name("scaling.json")
    go.write_text("{}")
    asked = rcmgr.Limiter()
    return {
        "ConnectionLimits": lambda i: ConnectionLimits(i),
        "DryRun": lambda i: rcmgr.DryRun(frozenset({"rate", "stream.peer"})),
        "ConnectionLimits.from_dict": lambda i: ConnectionLimits.from_dict(
            {"max_pending_inbound": i}),
        "ConnectionLimits.to_dict": lambda i: states.to_dict(),
        "ConnectionLimits.with_max_pending_inbound": lambda i: (
            states.with_max_pending_inbound(i)),
        "ConnectionLimits.with_max_pending_outbound": lambda i: (
            states.with_max_pending_outbound(i)),
        "ConnectionLimits.with_max_established_inbound": lambda i: (
            states.with_max_established_inbound(i)),
        "ConnectionLimits.with_max_established_outbound": lambda i: (
            states.with_max_established_outbound(i)),
        "ConnectionLimits.with_max_established_per_peer": lambda i: (
            states.with_max_established_per_peer(i)),
        "ConnectionLimits.with_max_established_total": lambda i: (
            states.with_max_established_total(i)),
        "ConcreteLimits": lambda i: ConcreteLimits(system=Limit(i)),
        "ConcreteLimits.to_partial": lambda i: concrete.to_partial(),
        "ConcreteLimits.with_system": lambda i: concrete.with_system(conns=i),
        "LimitTree.scopes": lambda i: list(concrete.scopes()),
        "Limit": lambda i: Limit(i),
        "Limit.to_dict": lambda i: Limit(i).to_dict(),
        "Limit.to_partial": lambda i: Limit(i).to_partial(),
        "LimitIncrease": lambda i: rcmgr.LimitIncrease(i),
        "PartialLimit": lambda i: PartialLimit(i),
        "PartialLimit.build": lambda i: PartialLimit(i).build(Limit(5)),
        "PartialLimits": lambda i: PartialLimits(system=PartialLimit(i)),
        "PartialLimits.build": lambda i: partial.build(concrete),
        "ScalingLimit": lambda i: rcmgr.ScalingLimit(Limit(i)),
        "ScalingLimit.scale": lambda i: rcmgr.ScalingLimit().scale(2**30, i),
        "ScalingLimits": lambda i: rcmgr.ScalingLimits(),
        "ScalingLimits.scale": lambda i: scaling.scale(2**30, i),
        "ScalingLimits.with_entries": lambda i: scaling.with_entries(
            "protocol", {f"/{i}": rcmgr.ScalingLimit()}),
        "autoscale": lambda i: rcmgr.autoscale(scaling, memory=2**30, fds=i),
        "read_scaling_limits": lambda i: rcmgr.read_scaling_limits(go),
        "NodeLimits": lambda i: NodeLimits(connections=states),
        "NodeLimits.default": lambda i: NodeLimits.default(memory=2**30, fds=1024),
        "LimitsFile": lambda i: LimitsFile(),
        "LimitsFile.build": lambda i: FILE.build(node),
        "LimitsFile.from_json": lambda i: LimitsFile.from_json(text),
        "LimitsFile.from_toml": lambda i: LimitsFile.from_toml(toml),
        "LimitsFile.of": lambda i: LimitsFile.of(node),
        "LimitsFile.read": lambda i: LimitsFile.read(path),
        "LimitsFile.to_dict": lambda i: FILE.to_dict(),
        "LimitsFile.to_json": lambda i: FILE.to_json(),
        "LimitsFile.to_toml": lambda i: FILE.to_toml(),
        "LimitsFileError": lambda i: str(rcmgr.LimitsFileError("/a", f"{i}")),
        "ResourceLimits": lambda i: ResourceLimits(i),
        "ResourceLimits.applied_to": lambda i: ResourceLimits(i).applied_to(node),
        "ResourceLimits.of": lambda i: ResourceLimits.of(node),
        "ConnectionRateLimits": lambda i: rcmgr.ConnectionRateLimits(per_peer=rate),
        "ConnectionRateLimits.applied_to": lambda i: rcmgr.ConnectionRateLimits(
            per_peer=rate).applied_to(node),
        "ConnectionRateLimits.of": lambda i: rcmgr.ConnectionRateLimits.of(node),
        "Rate": lambda i: Rate(i, 5),
        "Rate.from_dict": lambda i: Rate.from_dict({"refill_rate": i, "burst": 5}),
        "Rate.to_dict": lambda i: rate.to_dict(),
        "RateLimits": lambda i: RateLimits(default=rate),
        "RateLimits.from_dict": lambda i: RateLimits.from_dict(rates.to_dict()),
        "RateLimits.to_dict": lambda i: rates.to_dict(),
        "PeerRates": lambda i: PeerRates(rate),
        "AddressRates": lambda i: AddressRates(),
        "AddressRates.for_streams": lambda i: AddressRates.for_streams(rate),
        "SubnetLimits": lambda i: SubnetLimits(overrides={"10.0.0.0/8": i}),
        "Eviction": lambda i: rcmgr.Eviction(),
        "FleetLimits": lambda i: rcmgr.FleetLimits(rate=rate),
        "FleetPlaces": lambda i: rcmgr.FleetPlaces(connections=i),
        "PenaltyBox": lambda i: rcmgr.PenaltyBox(),
        "ProcessMemoryLimits": lambda i: rcmgr.ProcessMemoryLimits(i),
        "memory_pressure": lambda i: rcmgr.memory_pressure(),
        "total_memory": lambda i: rcmgr.total_memory(),
        "Limiter": lambda i: rcmgr.Limiter(),
        "Limiter.system_limits": lambda i: asked.system_limits(),
        "Limiter.transient_limits": lambda i: asked.transient_limits(),
        "Limiter.allowlisted_system_limits": lambda i: asked.allowlisted_system_limits(),
        "Limiter.allowlisted_transient_limits": lambda i: asked.allowlisted_transient_limits(),
        "Limiter.conn_limits": lambda i: asked.conn_limits(),
        "Limiter.stream_limits": lambda i: asked.stream_limits(),
        "Limiter.peer_limits": lambda i: asked.peer_limits(b"%d" % i),
        "Limiter.protocol_limits": lambda i: asked.protocol_limits(f"/{i}"),
        "Limiter.protocol_peer_limits": lambda i: asked.protocol_peer_limits("/x", i),
        "Limiter.service_limits": lambda i: asked.service_limits(f"{i}"),
        "Limiter.service_peer_limits": lambda i: asked.service_peer_limits("s", i),
    }


def errors() -> Calls:
    """Each error, and what each says for a reader and for a program."""
    kind = rcmgr.ConnectionLimitKind.PENDING_INBOUND
    error = rcmgr.Banned("192.0.2.1", "spam", 5.0)
    scope = ("peer:A", "stream", 1, 2, 2)
    tracker = ConnectionTracker()
    memory = rcmgr.MemoryConnectionLimits(2**40)
    builder = rcmgr.ErrorContextBuilder(tracker, NO_LIMITS, memory)
    limited = rcmgr.ErrorContextBuilder(tracker, NOTHING, memory)
    return {
        "AddressLimitExceeded": lambda i: str(
            rcmgr.AddressLimitExceeded("192.0.2.1", "192.0.2.0/24", i, i)),
        "Banned": lambda i: str(rcmgr.Banned("192.0.2.1", "spam", i)),
        "ConnectionEvicted": lambda i: str(rcmgr.ConnectionEvicted("pending", i)),
        "ConnectionLimitExceeded": lambda i: str(rcmgr.ConnectionLimitExceeded(i, i, kind)),
        "ConnectionLimitKind": lambda i: rcmgr.ConnectionLimitKind(kind.value),
        "MemoryReservationExceeded": lambda i: str(
            rcmgr.MemoryReservationExceeded("system", "memory", 1, i, 2)),
        "MemoryUsageLimitExceeded": lambda i: str(rcmgr.MemoryUsageLimitExceeded(i, 1, 50.0)),
        "RateLimitExceeded": lambda i: str(rcmgr.RateLimitExceeded("/x", "request", b"p", i)),
        "ResourceLimitExceeded": lambda i: str(rcmgr.ResourceLimitExceeded(f"{i}")),
        "ResourceLimitExceeded.to_dict": lambda i: error.to_dict(),
        "ResourceLimitExceeded.explained": lambda i: rcmgr.Banned(
            "192.0.2.1", "spam", i).explained("192.0.2.1"),
        "ResourceScopeClosed": lambda i: str(rcmgr.ResourceScopeClosed(f"{i}")),
        "ScopeLimitExceeded": lambda i: str(rcmgr.ScopeLimitExceeded(*scope)),
        "FleetLimitExceeded": lambda i: str(rcmgr.FleetLimitExceeded("rate", f"{i}", 5)),
        "StreamLimitExceeded": lambda i: str(rcmgr.StreamLimitExceeded(*scope)),
        "ErrorContextBuilder": lambda i: rcmgr.ErrorContextBuilder(tracker, NO_LIMITS),
        "ErrorContextBuilder.build_connection_limit_error": lambda i: (
            limited.build_connection_limit_error(kind, i)),
        "ErrorContextBuilder.build_memory_limit_error": lambda i: (
            builder.build_memory_limit_error()),
        "ErrorContextBuilder.get_connection_stats": lambda i: builder.get_connection_stats(),
        "ErrorContextBuilder.get_memory_stats": lambda i: builder.get_memory_stats(),
        "memory_report": lambda i: rcmgr.memory_report(),
    }


def events() -> Calls:
    handler = ConnectionLifecycleHandler()
    handler.register_handler(rcmgr.DialFailedEvent, lambda event: None)
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(), NO_LIMITS)
    admission = ResourceManager()._admission
    kinds = [
        rcmgr.ConnectionClosedEvent, rcmgr.ConnectionDeniedEvent, rcmgr.ConnectionLifecycleEvent,
        rcmgr.ConnectionWouldBeDeniedEvent,
        rcmgr.DialFailedEvent, rcmgr.EstablishedInboundConnectionEvent,
        rcmgr.EstablishedOutboundConnectionEvent, rcmgr.ListenFailedEvent,
        rcmgr.PendingInboundConnectionEvent, rcmgr.PendingOutboundConnectionEvent,
    ]

    def handle(i: int) -> None:
        handler.handle_event(rcmgr.PendingInboundConnectionEvent(connection_id=i))
        handler.handle_event(rcmgr.ConnectionClosedEvent(connection_id=i))

    return {
        **{kind.__name__: made_event(kind) for kind in kinds},
        "Endpoint": lambda i: rcmgr.Endpoint("listener"),
        "ConnectionLifecycleHandler": lambda i: ConnectionLifecycleHandler(),
        "ConnectionLifecycleHandler.handle_event": handle,
        "Observers.notify": lambda i: handler.notify(
            rcmgr.DialFailedEvent(connection_id=i)),
        "Observers.register_handler": lambda i: handler.register_handler(
            rcmgr.ConnectionClosedEvent, lambda event: None)(),
        "Observers.wants": lambda i: handler.wants(rcmgr.DialFailedEvent),
        "Observers.watch": lambda i: handler.watch(lambda: None)(),
        "ConnectionLifecycleManager": lambda i: ConnectionLifecycleManager(
            ConnectionTracker(), NO_LIMITS),
        "ConnectionLifecycleManager.of_admission": lambda i: (
            ConnectionLifecycleManager.of_admission(admission, NO_LIMITS)),
        "ConnectionLifecycleManager.handle_pending_inbound_connection": lambda i: (
            finish(lifecycle.handle_pending_inbound_connection(i)),
            lifecycle.notify_connection_closed(i)),
        "ConnectionLifecycleManager.handle_pending_outbound_connection": lambda i: (
            finish(lifecycle.handle_pending_outbound_connection(i)),
            lifecycle.notify_connection_closed(i)),
        "ConnectionLifecycleManager.handle_established_inbound_connection": lambda i: (
            finish(lifecycle.handle_established_inbound_connection(i, b"%d" % i)),
            lifecycle.notify_connection_closed(i)),
        "ConnectionLifecycleManager.handle_established_outbound_connection": lambda i: (
            finish(lifecycle.handle_established_outbound_connection(i, b"%d" % i)),
            lifecycle.notify_connection_closed(i)),
        "ConnectionLifecycleManager.handle_connection_closed": lambda i: finish(
            lifecycle.handle_connection_closed(i)),
        "ConnectionLifecycleManager.handle_dial_failure": lambda i: finish(
            lifecycle.handle_dial_failure(i)),
        "ConnectionLifecycleManager.handle_listen_failure": lambda i: finish(
            lifecycle.handle_listen_failure(i)),
        "ConnectionLifecycleManager.notify_connection_closed": lambda i: (
            lifecycle.notify_connection_closed(i)),
        "ConnectionLifecycleManager.reconcile_live_connections": lambda i: (
            lifecycle.reconcile_live_connections([])),
    }


def made_event(kind: type[Any]) -> Cycle:
    return lambda i: kind(connection_id=i)


def gates() -> Calls:
    allowlist = rcmgr.Allowlist()
    gate = rcmgr.AddressGate(SubnetLimits(), AddressRates(max_networks=100), allowlist)
    subnets, other = rcmgr.SubnetLimiter(), rcmgr.SubnetLimiter()
    address_rates = rcmgr.AddressRateLimiter(AddressRates(max_networks=100))
    refusal = rcmgr.AddressRefusal(None, None, 1.0, "192.0.2.1")
    memory = rcmgr.MemoryConnectionLimits(2**40)
    process = rcmgr.ProcessMemoryLimits(2**40)
    rates = RateLimits(default=Rate(1.0, 5), max_peers=100)
    limiter, requests = rcmgr.RateLimiter(rates), rcmgr.ProtocolRateLimiter("/x", rates)
    manager = ResourceManager(NodeLimits(penalties=rcmgr.PenaltyBox()))
    penalties: Any = manager.penalties

    def address(i: int) -> str:
        return f"/ip4/10.0.0.{i % 50}/tcp/4001"  # each new text stays in a cache for a while

    def ip(i: int) -> bytes:
        return bytes([10, i >> 16 & 255, i >> 8 & 255, i & 255])

    def enter(i: int) -> None:
        entered: Any = gate.try_enter(address(i), True, exempt=False)
        if entered:
            entered.close()

    def allow_from(i: int) -> None:
        network: Any = parse_entry("10.0.0.0/8")[0]
        allowlist.allow_from(network, b"%d" % i)
        assert allowlist.disallow_from(network, b"%d" % i)

    async def request(i: int) -> None:
        async with requests.request(b"exempt"):
            pass

    requests.add_exempt_peer(b"exempt")
    return {
        "AddressGate": lambda i: rcmgr.AddressGate(SubnetLimits()),
        "AddressGate.try_enter": enter,
        "AddressGate.set_limits": lambda i: gate.set_limits(SubnetLimits(), None),
        "AddressGate.clear": lambda i: gate.clear(),
        "AddressGate.connections_of_network": lambda i: gate.connections_of_network(ip(i)),
        "AddressGate.set_fleet": lambda i: gate.set_fleet(None, (32, 56)),
        "AddressGate.verify_source_address": lambda i: gate.verify_source_address(address(i)),
        "AddressRateLimiter": lambda i: rcmgr.AddressRateLimiter(),
        "AddressRateLimiter.try_take": lambda i: address_rates.try_take(ip(i)),
        "AddressRefusal": lambda i: rcmgr.AddressRefusal(None, None, i, "192.0.2.1"),
        "AddressRefusal.to_error": lambda i: refusal.to_error(i, b"%d" % i),
        "Allowlist": lambda i: rcmgr.Allowlist([address(i)]),
        "Allowlist.of": lambda i: rcmgr.Allowlist.of([address(i)]),
        "Allowlist.add": lambda i: (
            allowlist.add(address(i)), allowlist.remove(address(i))),
        "Allowlist.remove": lambda i: (
            allowlist.add(address(i)), allowlist.remove(address(i))),
        "Allowlist.add_peer": lambda i: (
            allowlist.add_peer(b"%d" % i), allowlist.remove_peer(b"%d" % i)),
        "Allowlist.remove_peer": lambda i: allowlist.remove_peer(b"%d" % i),
        "Allowlist.allow_from": allow_from,
        "Allowlist.disallow_from": allow_from,
        "Allowlist.allows": lambda i: allowlist.allows(b"%d" % i, address(i)),
        "Allowlist.allows_address": lambda i: allowlist.allows_address(ip(i)),
        "Allowlist.allows_all_at": lambda i: allowlist.allows_all_at(ip(i)),
        "Allowlist.allows_at": lambda i: allowlist.allows_at(b"%d" % i, ip(i)),
        "SubnetLimiter": lambda i: rcmgr.SubnetLimiter(),
        "SubnetLimiter.try_add": lambda i: (subnets.try_add(ip(i)), subnets.remove(ip(i))),
        "SubnetLimiter.remove": lambda i: (subnets.try_add(ip(i)), subnets.remove(ip(i))),
        "SubnetLimiter.also_count": lambda i: other.also_count((32, 56)),
        "SubnetLimiter.count": lambda i: other.count(ip(i)),
        "SubnetLimiter.allows_few": lambda i: subnets.allows_few(ip(i)),
        "SubnetLimiter.full": lambda i: subnets.full(ip(i)),
        "SubnetLimiter.fullest": lambda i: subnets.fullest(5),
        "SubnetLimiter.under": lambda i: subnets.under(SubnetLimits(ipv4=((32, i + 1),))),
        "SubnetLimiter.clear": lambda i: (other.try_add(ip(i)), other.clear()),
        "MemoryConnectionLimits": lambda i: rcmgr.MemoryConnectionLimits(2**40),
        "MemoryConnectionLimits.of": lambda i: rcmgr.MemoryConnectionLimits.of(process),
        "MemoryConnectionLimits.excess": lambda i: memory.excess(),
        "MemoryGate.check_limit": lambda i: memory.check_limit(),
        "MemoryGate.is_fine": lambda i: memory.is_fine(),
        "MemoryConnectionLimits.refresh_memory_stats_if_needed": lambda i: (
            memory.refresh_memory_stats_if_needed()),
        "MemoryConnectionLimits.with_limits": lambda i: memory.with_limits(process),
        "MemoryConnectionLimits.with_max_bytes": lambda i: memory.with_max_bytes(2**41),
        "MemoryConnectionLimits.with_max_percentage": lambda i: memory.with_max_percentage(0.5),
        "Offence": lambda i: rcmgr.Offence(next(iter(rcmgr.Offence)).value),
        "Ban": lambda i: rcmgr.Ban("192.0.2.1", i, "", "operator", 1),
        "Penalties": lambda i: rcmgr.Penalties(
            rcmgr.PenaltyBox(), Bans(), allowlist, CanonicalLog()),
        "Penalties.charge": lambda i: penalties.charge(
            next(iter(rcmgr.Offence)), b"%d" % (i % 50), f"192.0.2.{i % 50}"),
        "Penalties.denied": lambda i: penalties.denied(
            refusal, b"%d" % (i % 50), f"192.0.2.{i % 50}"),
        "Penalties.forgive": lambda i: penalties.forgive(b"%d" % i),
        "Penalties.handshake_failed": lambda i: penalties.handshake_failed(f"192.0.2.{i % 50}"),
        "RateLimiter": lambda i: rcmgr.RateLimiter(rates),
        "RateLimiter.check_rate_limit": lambda i: limiter.check_rate_limit("resource"),
        "RateLimiter.get_rate_limit_status": lambda i: limiter.get_rate_limit_status("resource"),
        "ProtocolRateLimiter": lambda i: rcmgr.ProtocolRateLimiter("/x", rates),
        "ProtocolRateLimiter.add_exempt_peer": lambda i: (
            requests.add_exempt_peer(b"%d" % i), requests.remove_exempt_peer(b"%d" % i)),
        "ProtocolRateLimiter.remove_exempt_peer": lambda i: (
            requests.add_exempt_peer(b"%d" % i), requests.remove_exempt_peer(b"%d" % i)),
        "ProtocolRateLimiter.check_peer_rate_limit": lambda i: (
            requests.check_peer_rate_limit(b"%d" % i)),
        "ProtocolRateLimiter.counts": lambda i: requests.counts(),
        "ProtocolRateLimiter.get_protocol_stats": lambda i: requests.get_protocol_stats(),
        "ProtocolRateLimiter.refusal": lambda i: requests.refusal(),
        "ProtocolRateLimiter.request": request,
        "ProtocolRateLimiter.retry_after": lambda i: requests.retry_after(b"%d" % i),
    }


def manager() -> Calls:
    manager = ResourceManager()
    folder = Path(tempfile.mkdtemp())
    limiter = manager.add_protocol_rate_limiter("/x", RateLimits(default=Rate(1.0, 5)))

    def peer(i: int) -> bytes:
        return b"peer %d" % i

    def opened(open_one: Callable[..., Any]) -> Cycle:
        def cycle(i: int) -> None:
            scope = open_one(peer(i))
            assert scope is not None
            scope.close()

        return cycle

    async def dial(i: int) -> None:
        async with manager.dial_slot(peer(i)):
            pass

    async def wait_for_room(i: int) -> None:
        await manager.wait_for_room()

    def scope_by_hand(i: int) -> None:
        tracker = manager.connection_tracker
        tracker.add_pending_inbound(i)
        record: Any = tracker.get_connection(i)
        rcmgr.ConnectionScope(tracker, record, only_pending=True).close()

    def close_one(i: int) -> None:
        ResourceManager().close()

    def metrics(i: int) -> None:
        from rcmgr.metrics import MetricsServer

        MetricsServer(manager, 0).close()

    from rcmgr.metrics import MetricsCollector

    collector = MetricsCollector(manager)
    # seconds: close() waits until the server looks for it the next time
    socketserver.BaseServer.serve_forever.__defaults__ = (0.001,)
    return {
        "ResourceManager": lambda i: ResourceManager(),
        "ResourceManager.close": close_one,
        "ConnectionScope": scope_by_hand,
        "ConnectionScope.close": opened(lambda peer: manager.open_connection(peer)),
        "ManagerBase.open_connection": opened(lambda peer: manager.open_connection(peer)),
        "ManagerBase.reserve_dial": opened(lambda peer: manager.reserve_dial(peer)),
        "ManagerBase.accept_connection": opened(
            lambda peer: manager.accept_connection("192.0.2.1")),
        "ManagerBase.acquire_connection": lambda i: (
            manager.acquire_connection(peer(i)), manager.release_connection(peer(i))),
        "ManagerBase.release_connection": lambda i: (
            manager.acquire_connection(peer(i)), manager.release_connection(peer(i))),
        "ManagerBase.acquire_stream": lambda i: (
            manager.acquire_stream(peer(i), "inbound"), manager.release_stream(peer(i), "inbound")),
        "ManagerBase.release_stream": lambda i: (
            manager.acquire_stream(peer(i), "inbound"), manager.release_stream(peer(i), "inbound")),
        "ManagerBase.open_stream": opened(lambda peer: manager.open_stream(peer, "inbound")),
        "ResourceManager.acquire_scoped_stream": lambda i: (
            manager.acquire_scoped_stream(peer(i), "inbound", "/x"),
            manager.release_scoped_stream(peer(i), "inbound", "/x")),
        "ResourceManager.release_scoped_stream": lambda i: (
            manager.acquire_scoped_stream(peer(i), "outbound", "/x"),
            manager.release_scoped_stream(peer(i), "outbound", "/x")),
        "ResourceManager.acquire_memory": lambda i: (
            manager.acquire_memory(5), manager.release_memory(5)),
        "ResourceManager.release_memory": lambda i: (
            manager.acquire_memory(5), manager.release_memory(5)),
        "ResourceManager.add_allowed_peer": lambda i: (
            manager.add_allowed_peer(peer(i)), manager.remove_allowed_peer(peer(i))),
        "ResourceManager.remove_allowed_peer": lambda i: manager.remove_allowed_peer(peer(i)),
        "ResourceManager.is_allowed_peer": lambda i: manager.is_allowed_peer(peer(i)),
        "ResourceManager.is_exempt_peer": lambda i: manager.is_exempt_peer(peer(i)),
        "ResourceManager.add_protocol_rate_limiter": lambda i: manager.add_protocol_rate_limiter(
            "/y", limiter.limits),
        "ResourceManager.check_protocol_rate_limit": lambda i: manager.check_protocol_rate_limit(
            "/z", peer(i)),
        "ResourceManager.ban": lambda i: (
            manager.ban(f"10.0.0.{i % 200}", 60), manager.unban(f"10.0.0.{i % 200}")),
        "ResourceManager.unban": lambda i: manager.unban("10.0.0.1"),
        "ResourceManager.bans": lambda i: manager.bans(),
        "ResourceManager.denied_by_fleet": lambda i: manager.denied_by_fleet(),
        "ResourceManager.fleet_use": lambda i: manager.fleet_use(),
        "ResourceManager.denied_by_limit": lambda i: manager.denied_by_limit(),
        "ResourceManager.dial_slot": dial,
        "ResourceManager.wait_for_room": wait_for_room,
        "ResourceManager.evictions": lambda i: manager.evictions(),
        "ResourceManager.explain": lambda i: manager.explain(),
        "ResourceManager.change_limits": lambda i: manager.change_limits(lambda limits: limits),
        "ResourceManager.usages_above": lambda i: manager.usages_above(),
        "ResourceManager.get_stats": lambda i: manager.get_stats(),
        "ResourceManager.record": lambda i: (
            manager.record(folder / "record").close(), (folder / "record").unlink()),
        "ResourceManager.serve_metrics": lambda i: manager.serve_metrics(0).close(),
        "ResourceManager.serve_status": lambda i: manager.serve_status(folder / "s").close(),
        "ResourceManager.set_memory_limits": lambda i: manager.set_memory_limits(2**40),
        "ResourceManager.set_protocol_peer_stream_limit": lambda i: (
            manager.set_protocol_peer_stream_limit("/x", i)),
        "ResourceManager.set_protocol_stream_limit": lambda i: (
            manager.set_protocol_stream_limit("/x", i)),
        "ResourceManager.set_service_peer_stream_limit": lambda i: (
            manager.set_service_peer_stream_limit("s", i)),
        "ResourceManager.set_service_stream_limit": lambda i: (
            manager.set_service_stream_limit("s", i)),
        "ResourceManager.verify_source_address": lambda i: (
            manager.verify_source_address(f"10.0.0.{i % 200}")),
        "MetricsCollector": lambda i: MetricsCollector(manager),
        "MetricsCollector.collect": lambda i: list(collector.collect()),
        "MetricsCollector.describe": lambda i: list(collector.describe()),
        "MetricsServer": metrics,
        "MetricsServer.close": metrics,
    }


def libp2p() -> Calls:
    from libp2p import new_host

    from rcmgr import libp2p

    manager, handler = ResourceManager(), ConnectionLifecycleHandler()
    host = new_host(resource_manager=manager)  # type: ignore[arg-type]

    async def grant(i: int) -> None:
        scoped = libp2p.scope_streams(host, manager)
        assert scoped.grant(b"%d" % i, "inbound")
        granted: Any = scoped.take_granted()
        scoped.end(granted)
        scoped.undo()

    def guard(protocol: object, stream: object) -> bool:
        return True

    def installed(i: int) -> None:
        with libp2p.installed():
            pass

    def install(i: int) -> None:
        libp2p.install()
        libp2p.uninstall()

    return {
        "Guarding": lambda i: libp2p.Guarding(host.multiselect, guard).undo(),
        "Guarding.undo": lambda i: libp2p.guard_handlers(host, guard).undo(),
        "guard_handlers": lambda i: libp2p.guard_handlers(host, guard).undo(),
        "limit_protocols": lambda i: libp2p.limit_protocols(host, manager).undo(),
        "Hardening": lambda i: libp2p.Hardening(host).undo(),
        "Hardening.undo": lambda i: libp2p.harden(host).undo(),
        "harden": lambda i: libp2p.harden(host).undo(),
        "HostObserver": lambda i: libp2p.HostObserver(host.get_network(), handler).undo(),
        "HostObserver.undo": lambda i: libp2p.observe(host, handler).undo(),
        "observe": lambda i: libp2p.observe(host).undo(),
        "RemoteAddresses": lambda i: libp2p.RemoteAddresses().undo(),
        "report_remote_addresses": lambda i: libp2p.report_remote_addresses().undo(),
        "ScopedStreams": lambda i: libp2p.ScopedStreams(host, manager, {}).undo(),
        "ScopedStreams.undo": lambda i: libp2p.scope_streams(host, manager).undo(),
        "ScopedStreams.grant": grant,
        "ScopedStreams.take_granted": grant,
        "ScopedStreams.end": grant,
        "scope_streams": lambda i: libp2p.scope_streams(host, manager).undo(),
        "manager_of": lambda i: libp2p.manager_of(host),
        "Libp2pMismatch": lambda i: libp2p.Libp2pMismatch(f"{i}"),
        "UnverifiedLibp2pWarning": lambda i: libp2p.UnverifiedLibp2pWarning(f"{i}"),
        "is_installed": lambda i: libp2p.is_installed(),
        "install": install,
        "uninstall": install,
        "installed": installed,
    }


def fleet() -> Calls:
    """A fleet whose engine does not answer."""
    from rcmgr.fleet.engine import EngineError

    manager = ResourceManager()
    alone = rcmgr.Fleet("valkey://127.0.0.1:1", timeout=0.05)
    limits = rcmgr.FleetLimits(rate=Rate(5.0, 9))

    def join(i: int) -> None:
        fleet = rcmgr.Fleet("valkey://127.0.0.1:1", timeout=0.05)
        fleet.claim(manager)
        fleet.join(manager)
        fleet.close()

    def asked(ask: Callable[[], object]) -> Cycle:
        def cycle(i: int) -> None:
            try:
                ask()
            except EngineError:
                return
            raise AssertionError("an engine answers")

        return cycle

    return {
        "Fleet": lambda i: rcmgr.Fleet("valkey://127.0.0.1:1"),
        "Fleet.claim": join,
        "Fleet.join": join,
        "Fleet.close": join,
        "Fleet.apply": lambda i: alone.apply(
            limits, manager.connection_tracker, manager.ledger, lambda key: 0),
        "Fleet.status": lambda i: alone.status(),
        "Fleet.nodes": asked(lambda: alone.nodes()),
        "Fleet.bans": asked(lambda: alone.bans()),
    }


ROOMS: dict[str, Callable[[], Calls]] = {
    room.__name__: room
    for room in (counting, limits, errors, events, gates, manager, libp2p, fleet)}


def left_behind(calls: Calls) -> Iterator[tuple[str, float]]:
    """Each name with the bytes that one call leaves behind."""
    for name, call in calls.items():
        if inspect.iscoroutinefunction(call):
            # one run for all rounds, because each run leaves something in trio's caches
            yield name, trio.run(measure, call)
        else:
            yield name, finish(measure(call))


async def measure(call: Cycle) -> float:
    for _ in range(2):  # the first calls import modules
        start = time.perf_counter()
        for _ in range(2):
            done = call(next(NUMBERS))
            if inspect.isawaitable(done):
                await done
        took = (time.perf_counter() - start) / 2
    count = min(MOST, max(LEAST, int(SECONDS / took))) if took < SLOW else 5
    return await bytes_left(call, count, SLACK)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    calls = ROOMS[sys.argv[1]]()
    gc.freeze()
    print(json.dumps(dict(left_behind(calls))))
