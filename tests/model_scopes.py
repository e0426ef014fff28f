"""A simple model of the ledger: a group holds the sum over the handles below it.

The model never adds to a group or takes from it, so it cannot lose count. docs/scopes.md has the
rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcmgr.counting.scope import Ledger

AMOUNTS = (
    "memory", "streams_inbound", "streams_outbound", "conns_inbound", "conns_outbound", "fd",
)
FIELDS = (*AMOUNTS, "streams", "conns")
TEXTS = {
    "memory": "memory", "streams_inbound": "inbound stream", "streams_outbound": "outbound stream",
    "conns_inbound": "inbound connection", "conns_outbound": "outbound connection",
    "fd": "file descriptor", "streams": "stream", "conns": "connection",
}
ALWAYS = 255
SINGLE_LIMITS = (
    "system", "transient", "allowlisted_system", "allowlisted_transient", "service_default",
    "service_peer_default", "protocol_default", "protocol_peer_default", "peer_default", "conn",
    "stream",
)
NAMED_LIMITS = ("service", "service_peer", "protocol", "protocol_peer", "peer")

PEER = bytes.fromhex("1220") + bytes(range(32))
PEER_TEXT = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"


def limit(**values: int | None) -> SimpleNamespace:
    """A limit as the ledger takes it: fields without a value have no limit."""
    return SimpleNamespace(**(dict.fromkeys(FIELDS) | values))


def limits(**changes: Any) -> SimpleNamespace:
    """The limits of a ledger: scopes without a value have no limit."""
    single = {name: limit() for name in SINGLE_LIMITS}
    return SimpleNamespace(**(single | {name: {} for name in NAMED_LIMITS} | changes))


def nothing_held(ledger: Ledger) -> bool:
    snapshot = ledger.snapshot()
    fixed = "system", "transient", "allowlisted_system", "allowlisted_transient"
    amounts = "memory", "streams_inbound", "streams_outbound", "conns_inbound", "fd"
    return (
        not any(snapshot[name][what] for name in fixed for what in amounts)
        and not snapshot["peers"]
        and not snapshot["protocols"]
    )


class PeerId:
    """As py-libp2p's `ID`: its bytes are in `_bytes`."""

    def __init__(self, value: bytes) -> None:
        self._bytes = value


def amounts(**values: int) -> dict[str, int]:
    return dict.fromkeys(AMOUNTS, 0) | values


@dataclass(frozen=True)
class Refused:
    scope: str
    resource: str
    current: int
    attempted: int
    limit: int
    asked_by: str | None


@dataclass(eq=False)
class Handle:
    """A leaf, a view, a span, or a stream without a handle."""

    name: str
    groups: list[str]
    own: dict[str, int] = field(default_factory=amounts)
    """Without the amounts of its spans."""
    owner: Handle | None = None
    is_leaf: bool = False
    is_open: bool = True
    allowlisted: bool = False
    peer: str | None = None
    protocol: str | None = None
    service: str | None = None
    spans: int = 0
    limit: SimpleNamespace | None = None
    """Set for a leaf or a span alone."""
    is_twin: bool = False
    """A view that exists for one span."""

    @property
    def live(self) -> bool:
        return self.is_open and (self.owner is None or self.owner.live)

    @property
    def base(self) -> Handle:
        return self if self.owner is None else self.owner.base


class ModelLedger:
    def __init__(self, limits: SimpleNamespace) -> None:
        self.limits = limits
        self.overrides: dict[str, SimpleNamespace] = {}
        self.handles: list[Handle] = []
        self.services_seen: set[str] = set()
        self.over_released = 0
        self.forgotten_streams = 0
        self.leaked = 0
        self.connections = 0
        self.streams = 0

    # -- what is held --------------------------------------------------------------------------

    def held_by(self, handle: Handle) -> dict[str, int]:
        """Its own amounts and those of its spans."""
        total = dict(handle.own)
        for span in self.handles:
            if span.owner is handle and span.live:
                for what, amount in self.held_by(span).items():
                    total[what] += amount
        return total

    def held(self, group: str) -> dict[str, int]:
        total = amounts()
        for handle in self.handles:
            if handle.owner is None and handle.live and group in handle.groups:
                for what, amount in self.held_by(handle).items():
                    total[what] += amount
        return total

    def groups(self) -> set[str]:
        found = {"system", "transient", "allowlistedSystem", "allowlistedTransient"}
        for handle in self.handles:
            if handle.live:
                found.update(handle.base.groups)
        return found | {f"service:{name}" for name in self.services_seen}

    def limit_of(self, name: str) -> SimpleNamespace:
        if name in self.overrides:
            return self.overrides[name]
        limits = self.limits
        kind, _, rest = name.partition(":")
        if kind in ("conn", "stream") or kind.startswith(("conn-", "stream-")):
            return getattr(limits, kind.partition("-")[0])  # type: ignore[no-any-return]
        if not rest:
            fixed = {
                "system": limits.system, "transient": limits.transient,
                "allowlistedSystem": limits.allowlisted_system,
                "allowlistedTransient": limits.allowlisted_transient,
            }
            return fixed[kind]
        key, peer, _ = rest.partition(".peer:")
        if peer:
            kind += "_peer"
        particular = getattr(limits, kind)
        return particular.get(key, getattr(limits, f"{kind}_default"))  # type: ignore[no-any-return]

    # -- may I? --------------------------------------------------------------------------------

    def refusal(
        self, names: list[str], held: list[dict[str, int]], ask: dict[str, int], priority: int,
        asked_by: str | None, own: dict[str, SimpleNamespace] | None = None,
    ) -> Refused | None:
        for name, have in zip(names, held, strict=True):
            limits = (own or {}).get(name) or self.limit_of(name)
            tests = [("memory", have["memory"], ask["memory"])]
            for kind in ("streams", "conns"):
                directions = f"{kind}_inbound", f"{kind}_outbound"
                tests += [(each, have[each], ask[each]) for each in directions]
                tests.append(
                    (kind, sum(have[d] for d in directions), sum(ask[d] for d in directions))
                )
            tests.append(("fd", have["fd"], ask["fd"]))
            for what, current, attempted in tests:
                most = getattr(limits, what)
                if most is None or attempted == 0:
                    continue
                allowed = most * (1 + priority) // 256 if what == "memory" else most
                if current + attempted > allowed:
                    return Refused(
                        name, TEXTS[what], current, attempted, most,
                        None if asked_by == name else asked_by,
                    )
        return None

    def charge(
        self, handle: Handle, ask: dict[str, int], priority: int = ALWAYS
    ) -> Refused | None:
        base, single, span = handle.base, [], handle
        while span.owner is not None:
            single += [span] if span.limit is not None else []
            span = span.owner
        single += [base] if base.is_leaf else []
        own = {each.name: each.limit for each in single if each.limit is not None}
        names = [*(each.name for each in single), *base.groups]
        held = [*map(self.held_by, single), *map(self.held, base.groups)]
        refused = self.refusal(names, held, ask, priority, handle.name or None, own)
        if refused is None:
            for what, amount in ask.items():
                handle.own[what] += amount
        return refused

    # -- operations ----------------------------------------------------------------------------

    def open_connection(
        self, inbound: bool, fd: bool, allowlisted: bool, peer: str | None
    ) -> Handle | Refused:
        self.connections += 1
        groups = ["transient", "system"]
        if allowlisted:
            groups = ["allowlistedTransient", "allowlistedSystem"]
        if peer is not None:
            groups[0] = f"peer:{peer}"
        conn = Handle(
            f"conn-{self.connections}", groups, is_leaf=True, allowlisted=allowlisted, peer=peer
        )
        ask = amounts(fd=int(fd))
        ask["conns_inbound" if inbound else "conns_outbound"] = 1
        return self.charge(conn, ask) or self.add(conn)

    def open_stream(self, peer: str, inbound: bool, allowlisted: bool) -> Handle | Refused:
        self.streams += 1
        groups = [f"peer:{peer}", "transient", "system"]
        if allowlisted:
            groups = [f"peer:{peer}", "allowlistedTransient", "allowlistedSystem"]
        stream = Handle(
            f"stream-{self.streams}", groups, is_leaf=True, allowlisted=allowlisted, peer=peer
        )
        ask = amounts(**{"streams_inbound" if inbound else "streams_outbound": 1})
        return self.charge(stream, ask) or self.add(stream)

    def add(self, handle: Handle) -> Handle:
        self.handles.append(handle)
        return handle

    def hand_over(self, leaf: Handle, new: list[str], groups: list[str]) -> Refused | None:
        refused = self.refusal(
            new, [self.held(name) for name in new], self.held_by(leaf), ALWAYS, None
        )
        if refused is None:
            leaf.groups = groups
        return refused

    def set_peer(self, conn: Handle, peer: str, allowlisted: bool | None) -> Refused | None:
        allowed = conn.allowlisted if allowlisted is None else allowlisted
        system = "allowlistedSystem" if allowed else "system"
        new = [f"peer:{peer}"]
        if allowed != conn.allowlisted:
            new += [system] if allowed else [system, "transient"]
        refused = self.hand_over(conn, new, [f"peer:{peer}", system])
        if refused is None:
            conn.peer = peer
            conn.allowlisted = allowed
        return refused

    def set_protocol(self, stream: Handle, protocol: str) -> Refused | None:
        member = f"protocol:{protocol}.peer:{stream.peer}"
        group = f"protocol:{protocol}"
        system = stream.groups[-1]
        refused = self.hand_over(
            stream, [group, member], [f"peer:{stream.peer}", member, group, system]
        )
        if refused is None:
            stream.protocol = protocol
        return refused

    def set_service(self, stream: Handle, service: str) -> Refused | None:
        self.services_seen.add(service)
        peer, protocol_peer, protocol, system = stream.groups
        member, group = f"service:{service}.peer:{stream.peer}", f"service:{service}"
        refused = self.hand_over(
            stream, [group, member], [peer, protocol_peer, member, protocol, group, system]
        )
        if refused is None:
            stream.service = service
        return refused

    def view(self, name: str) -> Handle:
        kind, _, rest = name.partition(":")
        groups = [name]
        if ".peer:" in rest:
            groups.append(name.partition(".peer:")[0])
        if kind == "service":
            self.services_seen.add(rest.partition(".peer:")[0])
        if kind not in ("system", "allowlistedSystem"):
            groups.append("allowlistedSystem" if kind == "allowlistedTransient" else "system")
        return self.add(Handle(name, groups))

    def begin_span(self, owner: Handle) -> Handle:
        owner.spans += 1
        name = f"{owner.name}.span-{owner.spans}"
        if owner.owner is None and not owner.is_leaf:
            owner = self.add(Handle(owner.name, owner.groups, is_twin=True))
        return self.add(Handle(name, [], owner=owner))

    def release_memory(self, handle: Handle, size: int) -> None:
        given = min(size, handle.own["memory"])
        handle.own["memory"] -= given
        self.over_released += size - given

    def acquire_stream(self, peer: str, inbound: bool, allowlisted: bool) -> Refused | None:
        self.streams += 1
        system = "allowlistedSystem" if allowlisted else "system"
        stream = Handle("", [f"peer:{peer}", system], allowlisted=allowlisted, peer=peer)
        ask = amounts(**{"streams_inbound" if inbound else "streams_outbound": 1})
        refused = self.charge(stream, ask)
        if refused is None:
            self.add(stream)
        return refused

    def release_stream(self, peer: str, inbound: bool) -> bool:
        what = "streams_inbound" if inbound else "streams_outbound"
        for handle in sorted(self.handles, key=lambda handle: handle.allowlisted):
            if handle.name == "" and handle.peer == peer and handle.own[what] and handle.is_open:
                handle.is_open = False
                return True
        if self.forgotten_streams:
            self.forgotten_streams -= 1
        else:
            self.over_released += 1
        return False

    def close(self, handle: Handle) -> None:
        if handle.owner is not None and handle.owner.is_twin:
            handle.owner.is_open = False
        handle.is_open = False

    def drop(self, handle: Handle) -> None:
        """Its last reference is gone."""
        if handle.live and any(self.held_by(handle).values()):
            self.leaked += 1
        self.close(handle)

    def set_limits(self, limits: SimpleNamespace) -> None:
        self.limits = limits
        # scopes that exist once take the new limits, others keep their own
        self.overrides = {name: said for name, said in self.overrides.items() if ":" in name}

    def has_allowlisted_connection(self, peer: str) -> bool:
        return any(
            handle.live and handle.is_leaf and handle.allowlisted and handle.peer == peer
            and handle.name.startswith("conn-") for handle in self.handles
        )

    def clear(self, keep: Handle | None = None) -> None:
        for handle in self.handles:
            if handle is not keep:
                self.forgotten_streams += handle.name == "" and handle.live
                handle.is_open = False
        self.services_seen.clear()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return {name: self.held(name) for name in self.groups()}
