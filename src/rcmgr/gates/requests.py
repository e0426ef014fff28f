"""Rates of requests: by the name of a resource, or by peer and operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.denials import DenialLog
from rcmgr.errors import RateLimitExceeded, shortened
from rcmgr.gates.addresses import ip_from_any
from rcmgr.gates.buckets import Clock, bucket_of, table_of
from rcmgr.gates.fleet import FleetProtocol, FleetRefusal
from rcmgr.gates.networks import AddressRateLimiter
from rcmgr.limits.networks import AddressRates
from rcmgr.limits.rates import Rate, RateLimits
from rcmgr.peers import bounded_name, peer_key, peer_text

__all__ = ["STREAM", "ProtocolRateLimiter", "RateLimiter", "RateRefusal"]

STREAM = "stream"
"""The operation of opening a stream."""


class RateRefusal(NamedTuple):
    """A refusal by a rate. Falsy."""

    protocol: str
    operation: str
    retry_after_s: Callable[[Any], float]
    """Called with the peer: seconds until it may come again; inf: never."""
    rate: Rate | None
    limited_by: str = ""
    """The field of `RateLimits` with the rate that refused, or "network 192.0.2.0/24". Empty:
    another limit."""
    address: str | None = None
    """Where a request above the rate of its network comes from."""

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def code(self) -> str:
        """The code of its error."""
        if self.protocol == "connections":
            return "rate.peer"
        return "rate.address" if self.protocol.startswith("network ") else "rate.protocol"

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> RateLimitExceeded:
        rate = self.rate
        return RateLimitExceeded(
            self.protocol, self.operation, peer_id, self.retry_after_s(peer_id), self.address,
            refill_rate=None if rate is None else rate.refill_rate,
            burst=None if rate is None else rate.burst,
            limited_by=self.limited_by,
            connection_id=connection_id,
        )


class _Buckets:
    """The buckets of `RateLimits`: tables by name, each with a bucket per key, and one overall.

    separate: names that share no bucket with other names of the default rate.
    """

    def __init__(
        self, limits: RateLimits, clock: Clock | None, separate: Iterable[str] = ()
    ) -> None:
        self.limits = limits
        self.default = self._table(limits.default, clock)
        rates = {**dict.fromkeys(separate, limits.default), **limits.overrides}
        self.tables = {name: self._table(rate, clock) for name, rate in rates.items()}
        self.overall = bucket_of(limits.overall, clock)

    def _table(self, rate: Rate | None, clock: Clock | None) -> BucketTable | None:
        if rate is None:
            return None
        return table_of(rate, self.limits.max_peers, self.limits.on_full, clock)

    def table(self, name: str) -> BucketTable | None:
        """The buckets of this name; None: only the overall limit applies."""
        return self.tables.get(name, self.default)

    def take(self, name: str, key: Hashable, tokens: int) -> str | None:
        """Take tokens from both buckets. If "key" or "overall" refuses, take nothing."""
        table, overall = self.tables.get(name, self.default), self.overall
        if table is None:
            return None if overall is None or overall.try_consume(tokens) else "overall"
        if overall is None:
            return None if table.try_consume(key, tokens) else "key"
        return table.try_consume_both(key, overall, tokens)

    def allows(self, name: str, key: Hashable, tokens: int) -> bool:
        """Whether `take` would take them now."""
        table, overall = self.table(name), self.overall
        return (table is None or table.get_available_tokens(key) >= tokens) and (
            overall is None or overall.get_available_tokens() >= tokens)

    def wait(self, name: str, key: Hashable) -> float:
        """Seconds until both buckets grant the key again; inf: never."""
        table, tokens = self.table(name), self.cost(name)
        return max(
            0.0 if table is None else table.time_until(key, tokens),
            0.0 if self.overall is None else self.overall.time_until(tokens),
        )

    def cost(self, name: str) -> int:
        return self.limits.costs.get(name, 1)

    def rate(self, name: str) -> Rate | None:
        return self.limits.overrides.get(name, self.limits.default)

    def field(self, name: str) -> str:
        """The field of `RateLimits` with the rate of this name."""
        return "overrides" if name in self.limits.overrides else "default"


class RateLimiter:
    """Limits how often a named resource may be used.

    Every resource has a separate bucket, with its rate in `limits.overrides` or the default rate.
    Without either it is unlimited. `limits.overall`, if set, must agree too.

    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).
    O(1), under a microsecond; thread safe. Strangers may choose names: the limiter remembers at
    most `limits.max_peers` resources of the default rate (see `BucketTable`).
    """

    def __init__(self, limits: RateLimits, *, clock: Callable[[], int] | None = None) -> None:
        self.limits = limits
        self._buckets = _Buckets(limits, clock)

    def check_rate_limit(self, resource: str, tokens: int | None = None) -> bool:
        """Use `resource` if its rate allows it. False: denied, and no token is taken.

        tokens: how many to take; None: its cost in `limits.costs`, or 1. ValueError: negative.
        """
        if tokens is None:
            tokens = self._buckets.cost(resource)
        return self._buckets.take(resource, resource, tokens) is None

    def get_rate_limit_status(self, resource: str) -> dict[str, Any]:
        """The state of `resource`.

        "limit": refill_rate and burst; None: unlimited. "available": tokens now; None: unlimited.
        "retry_after_s": seconds until the next use, 0 if it may be used now.
        "allowed", "denied": requests so far. A resource without an override shares these counts
        with all resources of the default rate.
        """
        rate, table = self._buckets.rate(resource), self._buckets.table(resource)
        return {
            "limit": None if rate is None else rate.to_dict(),
            "available": None if table is None else table.get_available_tokens(resource),
            "retry_after_s": self._buckets.wait(resource, resource),
            "allowed": 0 if table is None else table.allowed,
            "denied": 0 if table is None else table.denied,
        }


class ProtocolRateLimiter:
    """Limits how often a peer may make requests of a protocol.

    Every peer has a bucket for each operation in `limits.overrides`, and one of the default rate
    for all other operations. The operation "stream" (`rcmgr.libp2p.limit_protocols`) always has its
    own bucket, so that a stream does not cost a request. Without a rate operations are unlimited.
    `limits.overall`, if set, is one bucket for all peers and operations. Both buckets must agree,
    and a denial takes from neither.

    networks: how often the peers of one network may make requests together, of any operation.
        A stranger may have many ids, but few networks. `AddressRates.for_streams` has lengths of
        prefixes for it. None: no limit. It applies to requests whose address the caller gives.
    exempt_peers: peers without limits, which take no tokens.
    is_exempt: tells whether another peer is exempt too; default: it is not.
    denials: a log for each denial; the manager's log for a limiter of a manager.
    only_reports: tells by the code of a limit whether this limit refuses nothing. Its would-be
        refusals go to `would_deny`. Default: every limit refuses.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).

    Peers are `ID`s, their bytes or base58 text. O(1), under a microsecond; thread safe. At most
    `limits.max_peers` peers use memory (see `BucketTable`), even if a peer makes up many peer ids.
    """

    def __init__(
        self,
        protocol: str,
        limits: RateLimits,
        *,
        networks: AddressRates | None = None,
        exempt_peers: Iterable[Hashable] = (),
        is_exempt: Callable[[Hashable], bool] | None = None,
        denials: DenialLog | None = None,
        would_deny: DenialLog | None = None,
        only_reports: Callable[[str], bool] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.protocol = protocol
        self.limits = limits
        self._buckets = _Buckets(limits, clock, separate=(STREAM,))
        self.networks = None if networks is None else AddressRateLimiter(networks, clock=clock)
        """Decides about networks; None: no limit."""
        self.fleet: FleetProtocol | None = None
        """Decides for all nodes of a fleet; None: no limit. The manager sets it."""
        self._exempt = {peer_key(peer) for peer in exempt_peers}
        self._is_exempt = is_exempt
        self._denials = denials
        self._would_deny = would_deny
        self._only_reports = only_reports
        self._exempted = 0
        self._denied_overall = self._denied_by_network = self._denied_by_fleet = 0
        self._would_deny_by_tables = 0

    def add_exempt_peer(self, peer_id: Hashable) -> None:
        """Let requests of this peer pass without a count."""
        self._exempt.add(peer_key(peer_id))

    def remove_exempt_peer(self, peer_id: Hashable) -> None:
        """Limit this peer again. Nothing happens if it was not exempt."""
        self._exempt.discard(peer_key(peer_id))

    def check_peer_rate_limit(
        self, peer_id: Hashable, operation: str = "request", address: object = None
    ) -> bool:
        """Take one request of the peer, if the rates of the peer and its network and the overall
        rate allow it. False: denied.

        address: the peer's, for `networks`: an IP address, a multiaddr, or the address of a
        socket. None, and an address without an IP (relayed): no limit on its network. TypeError,
        ValueError: not an address.
        """
        return self._ask(peer_key(peer_id), operation, address) is None

    def _ask(
        self, peer: Hashable, operation: str, address: object
    ) -> RateRefusal | FleetRefusal | None:
        refusal = self._decide(peer, operation, address)
        ring = None if self._denials is None else self._denials.ring
        if ring is not None:
            ring.note_rate(
                self.protocol, bounded_name(operation), peer, address,
                None if refusal is None else refusal.code)
        if refusal is not None and self._denials is not None:
            self._denials.add(refusal, None, peer, True, refusal.address)
        return refusal

    def _decide(
        self, peer: Hashable, operation: str, address: object
    ) -> RateRefusal | FleetRefusal | None:
        if self._is_exempted(peer):
            self._exempted += 1
            return None
        tokens = self._buckets.cost(operation)
        refusal: RateRefusal | FleetRefusal | None = None
        if self.networks is not None and address is not None:
            refusal = self._ask_network(self.networks, peer, operation, tokens, address)
        if refusal is None and self.fleet is not None and self._buckets.allows(
                operation, peer, tokens):
            refusal = self.fleet.refusal(peer, tokens)
        if refusal is None:
            refused = self._buckets.take(operation, peer, tokens)
            if refused is None:
                return None
            refusal = self.refusal(operation, by_overall=refused == "overall")
            if self._passes(refusal, peer):
                # the tables have counted it as a denial
                self._would_deny_by_tables += self._buckets.table(operation) is not None
                return None
            self._denied_overall += refused == "overall"
        elif self._passes(refusal, peer):
            return None
        elif isinstance(refusal, RateRefusal):
            self._denied_by_network += 1
        else:
            self._denied_by_fleet += 1
        return refusal

    def _passes(self, refusal: RateRefusal | FleetRefusal, peer: Hashable) -> bool:
        """Whether this limit refuses nothing. Then a log gets what it would have refused."""
        if self._only_reports is None or not self._only_reports(refusal.code):
            return False
        if self._would_deny is not None:
            self._would_deny.add(refusal, None, peer, True, refusal.address)
        return True

    def _ask_network(
        self, networks: AddressRateLimiter, peer: Hashable, operation: str, tokens: int,
        address: object,
    ) -> RateRefusal | None:
        """Take a token of the network, unless the peer has used up its rate."""
        ip = ip_from_any(address)
        if ip is None or not self._buckets.allows(operation, peer, tokens):
            return None
        late = networks.try_take(ip)
        if late is None:
            return None
        network, seconds = late
        return RateRefusal(
            self.protocol, bounded_name(operation), lambda peer: seconds, None,
            f"network {network}", shortened(address))

    def retry_after(self, peer_id: Hashable, operation: str = "request") -> float:
        """Seconds until the peer may make this request, 0 if it may now; inf: never."""
        peer = peer_key(peer_id)
        return 0.0 if self._is_exempted(peer) else self._buckets.wait(operation, peer)

    def refusal(self, operation: str = "request", *, by_overall: bool = False) -> RateRefusal:
        """The entry of a denial in the log. Making its error computes the waiting time.

        by_overall: whether `limits.overall` refused, and not the rate of the peer.
        """
        rate, field = self._buckets.rate(operation), self._buckets.field(operation)
        if by_overall:
            rate, field = self.limits.overall, "overall"
        operation = bounded_name(operation)
        return RateRefusal(
            self.protocol, operation, partial(self.retry_after, operation=operation), rate, field)

    @asynccontextmanager
    async def request(
        self, peer_id: Hashable, operation: str = "request", address: object = None
    ) -> AsyncIterator[None]:
        """`async with limiter.request(peer_id, "op"):` around the work of one request.

        Arguments and errors as for `check_peer_rate_limit`. RateLimitExceeded: denied, before the
        work begins.
        """
        refusal = self._ask(peer_key(peer_id), operation, address)
        if refusal is not None:
            raise refusal.to_error(peer_id=peer_id)
        yield

    def counts(self) -> dict[str, int]:
        """The totals of `get_protocol_stats`. O(slots): see `len` of a `BucketTable`."""
        tables = [table for _, table in self._tables()]
        return {
            "allowed": sum(table.allowed for table in tables),
            "denied": sum(table.denied for table in tables) - self._would_deny_by_tables,
            "denied_overall": self._denied_overall,
            "denied_by_network": self._denied_by_network,
            "denied_by_fleet": self._denied_by_fleet,
            "exempted": self._exempted,
            "tracked_peers": sum(len(table) for table in tables),
            "evictions": sum(table.evictions for table in tables),
            "denied_new": sum(table.denied_new for table in tables),
        }

    def get_protocol_stats(self) -> dict[str, Any]:
        """Totals, and the peers with the most denials; ready for JSON. O(tracked peers).

        "most_denied": ten peers with the most denials since their bucket was last full. Each is the
        base58 text, the operation (None: the default rate) and the number of denials.
        """
        most_denied = [
            (peer_text(peer), operation, denials)
            for operation, table in self._tables()
            for peer, denials in table.most_denied(10)
        ]
        most_denied.sort(key=lambda entry: entry[2], reverse=True)
        return {"protocol": self.protocol, **self.counts(), "most_denied": most_denied[:10]}

    def _tables(self) -> list[tuple[str | None, BucketTable]]:
        """Every table with its operation; None: the default rate."""
        named = [
            (name if name in self.limits.overrides else None, table)
            for name, table in self._buckets.tables.items()
        ]
        tables = [(None, self._buckets.default), *named]
        return [(operation, table) for operation, table in tables if table is not None]

    def _is_exempted(self, peer: Hashable) -> bool:
        return peer in self._exempt or (self._is_exempt is not None and self._is_exempt(peer))
