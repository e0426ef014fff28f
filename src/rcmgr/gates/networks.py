"""Limits on the connections of one network: how many at once, and how often.

Rules and defaults are go-libp2p's (conn_limiter.go, conn_rate_limiter.go).
docs/coming-from-go.md has the differences and their reasons.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.pacing import keys_in, paced
from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.errors import (
    AddressLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    shortened,
)
from rcmgr.gates.addresses import Allowlist, endpoint_of, ip_from_any, parse_address
from rcmgr.gates.buckets import bucket_of, table_of
from rcmgr.gates.fleet import FleetNetworks, FleetRefusal, network_key
from rcmgr.limits.networks import AddressRates, Network, SubnetLimits, prefix_of
from rcmgr.limits.rates import Rate

__all__ = [
    "AddressGate",
    "AddressRateLimiter",
    "AddressRefusal",
    "NetworkShare",
    "SubnetLimiter",
]


_LONGEST_BURST: Final = 1 << 20  # a bucket of 0.1 per s has to be full within 50 years


class AddressRefusal(NamedTuple):
    """Why an address was refused. Falsy. Making one formats nothing: it is on the hot path."""

    network: Network | None
    """None: it is no address."""
    limit: int | None
    """Connections at once; None: a rate refused, or it is no address."""
    retry_after_s: float
    """Seconds until the rate admits the address again; inf: never. 0 if no rate refused."""
    address: str
    limited_by: str = ""
    """The override that refused, or "overall". Empty: a limit by prefix length."""

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def code(self) -> str:
        """The code of its error."""
        is_rate = self.limit is None and self.network is not None
        return "rate.address" if is_rate else "connection.address"

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> ResourceLimitExceeded:
        """The error for a reader."""
        if self.network is None:
            return AddressLimitExceeded(
                self.address, "", 0, 0, connection_id=connection_id, peer_id=peer_id)
        if self.limit is not None:
            return AddressLimitExceeded(
                self.address, str(self.network), self.limit, self.limit, self.limited_by,
                connection_id, peer_id)
        return RateLimitExceeded(
            f"network {self.network}", "connection", peer_id, self.retry_after_s, self.address,
            limited_by=self.limited_by, connection_id=connection_id)


class _Refused(NamedTuple):
    """The fields of an `AddressRefusal` that a limiter knows."""

    network: Network
    limit: int | None
    retry_after_s: float
    limited_by: str

    def at(self, address: object) -> AddressRefusal:
        return AddressRefusal(*self[:3], str(address), self.limited_by)


# the networks that count an address: their keys, limits, and the overrides that these come from
_Counted = Sequence[tuple[bytes, "int | None", str]]


class NetworkShare:
    """A connection's place in the counts of its networks. `close` gives it back, once."""

    __slots__ = ("_epoch", "_ip", "_subnets")

    def __init__(
        self, subnets: SubnetLimiter | None = None, ip: bytes | None = None, epoch: int = 0
    ) -> None:
        self._subnets = subnets
        self._ip = ip
        self._epoch = epoch

    def close(self) -> None:
        if self._subnets is not None:
            self._subnets._leaving.append(self)
            self._subnets._settle()


_UNCOUNTED: Final = NetworkShare()


class _Address:
    """The connections of one address, and the networks that count each of them."""

    __slots__ = ("connections", "counted")

    def __init__(self, counted: _Counted) -> None:
        self.connections = 0
        self.counted = counted


class SubnetLimiter:
    """Counts connections per network. O(1), about 1 us; thread safe.

    An address is 4 or 16 bytes, an IP address or a multiaddr. Without an IP, it has no limit and is
    not counted. TypeError, ValueError: it is no address.

    limits: may be replaced at any time. Then existing connections are counted again, by their
        addresses. They stay, even above a new limit. O(addresses).
    """

    def __init__(self, limits: SubnetLimits | None = None) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[bytes, _Address] = {}
        self._counts: dict[bytes, int] = {}
        self._epoch = 0
        # The garbage collector may close a share anywhere, even in a thread that holds the lock.
        # So `NetworkShare.close` never waits for the lock.
        self._leaving: deque[NetworkShare] = deque()
        self.over_released = 0
        """Connections that were given back and never taken: a defect of the caller."""
        self._also: tuple[int, int] | None = None
        self.limits = SubnetLimits() if limits is None else limits

    @property
    def limits(self) -> SubnetLimits:
        return self._limits

    @limits.setter
    def limits(self, limits: SubnetLimits) -> None:
        overrides: PrefixTable[tuple[int | None, str]] = PrefixTable()
        for text, limit in limits.overrides.items():
            overrides.set(Network.parse(text), (limit, text))
        with self._lock:
            self._limits, self._overrides = limits, overrides
            self._count_again()
        self._settle()

    def also_count(self, prefixes: tuple[int, int] | None) -> None:
        """Count the networks of these lengths (IPv4, IPv6) too, without a limit. None: no others.

        `count` has their numbers. O(addresses).
        """
        with self._lock:
            if prefixes != self._also:
                self._also = prefixes
                self._count_again()
        self._settle()

    def count(self, key: bytes) -> int:
        """The connections of a network of `also_count`, by its `network_key`."""
        return self._counts.get(key, 0)

    def _count_again(self) -> None:
        """Locked."""
        self._counts.clear()
        for ip, address in self._addresses.items():
            address.counted = self._counted_as(ip)
            self._count(address.counted, address.connections)

    def _counted_as(self, ip: bytes) -> _Counted:
        counted = self._limited_as(ip)
        if self._also is None:
            return counted
        bits = self._also[0 if len(ip) == 4 else 1]
        return [*counted, (network_key(ip, bits), None, "")]

    def _limited_as(self, ip: bytes) -> _Counted:
        override = self._overrides.longest(ip)
        if override is not None:
            bits, (limit, text) = override
            # apart from the network of this length without an override
            return [(b"%c%c!%b" % (len(ip), bits, prefix_of(ip, bits)), limit, text)]
        pairs = self._limits.ipv4 if len(ip) == 4 else self._limits.ipv6
        return [
            (b"%c%c=%b" % (len(ip), bits, prefix_of(ip, bits)), limit, "")
            for bits, limit in pairs]

    def allows_few(self, address: object) -> bool:
        """Whether a network of this address may have fewer than two connections.

        An override asks every network around the address, as go-libp2p does for this question.
        """
        ip = ip_from_any(address)
        if ip is None:
            return False
        limits = [limit for _, (limit, _) in self._overrides.matching(ip)] or [
            limit for _, limit, _ in self._limited_as(ip)]
        return any(limit is not None and limit < 2 for limit in limits)

    def try_add(self, address: object) -> tuple[Network, int] | None:
        """Count a connection of this address: None, or the full network and its limit."""
        ip = ip_from_any(address)
        share = NetworkShare() if ip is None else self._try_enter(ip)
        return None if isinstance(share, NetworkShare) else (share.network, share.limit or 0)

    def full(self, address: object) -> tuple[Network, int] | None:
        """The network that would refuse this address now, and its limit. None: it may connect."""
        ip = ip_from_any(address)
        full = None if ip is None else self._full(ip, self._counted_as(ip))
        return None if full is None else (full.network, full.limit or 0)

    def _full(self, ip: bytes, counted: _Counted) -> _Refused | None:
        for key, limit, override in counted:
            if limit is not None and self._counts.get(key, 0) >= limit:
                return _Refused(Network.of(ip, key[1]), limit, 0.0, override)
        return None

    def _try_enter(
        self, ip: bytes, passed: list[_Refused] | None = None
    ) -> NetworkShare | _Refused:
        """passed: a list for a full network, which then counts the connection nevertheless."""
        with self._lock:
            address = self._addresses.get(ip)
            if address is None:
                address = _Address(self._counted_as(ip))
            full = self._full(ip, address.counted)
            if full is not None and passed is not None:
                passed.append(full)
                full = None
            if full is None:
                address.connections += 1
                self._addresses[ip] = address
                self._count(address.counted, 1)
            epoch = self._epoch
        self._settle()
        return NetworkShare(self, ip, epoch) if full is None else full

    def remove(self, address: object) -> None:
        """Give a connection of this address back."""
        ip = ip_from_any(address)
        if ip is None:
            return
        with self._lock:
            self._give_back(ip)
        self._settle()

    def _settle(self) -> None:
        """Give back closed shares. If a thread holds the lock, it does so after releasing it."""
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                while self._leaving:
                    share = self._leaving.popleft()
                    ip, share._ip = share._ip, None
                    if ip is not None and share._epoch == self._epoch:
                        self._give_back(ip)
            finally:
                self._lock.release()

    def _give_back(self, ip: bytes) -> None:
        """Locked."""
        address = self._addresses.get(ip)
        if address is None:
            self.over_released += 1
            return
        self._count(address.counted, -1)
        address.connections -= 1
        if address.connections == 0:
            del self._addresses[ip]

    def _count(self, counted: _Counted, connections: int) -> None:
        """Locked."""
        counts = self._counts
        for key, _, _ in counted:
            count = counts.get(key, 0) + connections
            if count:
                counts[key] = count
            else:
                del counts[key]

    def clear(self) -> None:
        """Forget all connections. Closing their shares later changes nothing."""
        with self._lock:
            self._addresses.clear()
            self._counts.clear()
            self._epoch += 1
        self._settle()

    def fullest(self, most: int) -> list[tuple[Network, int, int]]:
        """Networks nearest to their limit, as (network, connections, limit). O(networks)."""
        self._settle()
        found = nlargest(most, paced(self._used()), key=itemgetter(0))
        return [
            (Network(key[3:], key[1], key[0] == 4), used, limit) for _, key, used, limit in found]

    def _used(self) -> Iterator[tuple[float, bytes, int, int]]:
        """How full each network with a limit is: the share of its limit, and its key."""
        with self._lock:
            limits, overrides = self._limits, self._overrides
        by_length = {4: dict(limits.ipv4), 16: dict(limits.ipv6)}
        for key in keys_in(self._counts):
            size, bits, kind = key[0], key[1], key[2:3]
            if kind == b"+":
                continue  # it has no limit here
            if kind == b"=":
                limit = by_length[size].get(bits)
            else:
                ip = key[3:].ljust(size, b"\0")
                limit, _ = dict(overrides.matching(ip)).get(bits, (None, ""))
            used = self._counts.get(key, 0)
            if limit is not None and used:
                yield used / limit if limit else 1.0, key, used, limit

    def under(self, limits: SubnetLimits) -> SubnetLimiter:
        """A copy with other limits, which counts the same connections. O(addresses)."""
        copy = SubnetLimiter()
        with self._lock:
            for ip, address in self._addresses.items():
                copy._addresses[ip] = counted = _Address([])
                counted.connections = address.connections
        copy.limits = limits
        return copy

    def __len__(self) -> int:
        """Networks that have a connection."""
        return len(self._counts)


class _Buckets(NamedTuple):
    """The buckets of all rates of an `AddressRateLimiter`."""

    tables: dict[bool, list[tuple[int, BucketTable]]]
    """By family: prefix lengths and their tables. True: IPv4."""
    overrides: PrefixTable[tuple[TokenBucket | None, str]]
    overall: TokenBucket | None


class AddressRateLimiter:
    """Decides whether an address may connect now. O(1), about 1 us; thread safe.

    A refusal takes no token, because all buckets are asked before one is taken. (Two threads that
    ask at the same moment may each lose a token to the other's refusal.)

    rates: may be replaced at any time. A bucket whose rate stays the same keeps its state.
    clock: monotonic nanoseconds; default the system's coarse clock.
    """

    def __init__(
        self, rates: AddressRates | None = None, *, clock: Callable[[], int] | None = None
    ) -> None:
        self._clock = clock
        self._made: dict[tuple[object, ...], TokenBucket | BucketTable] = {}
        self.rates = AddressRates() if rates is None else rates

    @property
    def rates(self) -> AddressRates:
        return self._rates

    @rates.setter
    def rates(self, rates: AddressRates) -> None:
        made: dict[tuple[object, ...], Any] = {}

        def kept(make: Callable[..., Any], *arguments: Any, at: object) -> Any:
            key = (at, *arguments)
            made[key] = self._made[key] if key in self._made else make(*arguments, self._clock)
            return made[key]

        overrides: PrefixTable[tuple[TokenBucket | None, str]] = PrefixTable()
        for text, rate in rates.overrides.items():
            network = Network.parse(text)
            overrides.set(network, (kept(bucket_of, rate, at=network), text))
        tables = {
            is_ipv4: [
                (bits, kept(table_of, rate, rates.max_networks, rates.on_full, at=(is_ipv4, bits)))
                for bits, rate in pairs
            ]
            for is_ipv4, pairs in ((True, rates.ipv4), (False, rates.ipv6))
        }
        self._buckets = _Buckets(tables, overrides, kept(bucket_of, rates.overall, at="overall"))
        self._made, self._rates = made, rates

    def try_take(self, address: object) -> tuple[Network, float] | None:
        """None: it may connect. Or the network that must wait, and for how many seconds.

        address: 4 or 16 bytes, an IP address or a multiaddr. Without an IP it may connect.
        TypeError, ValueError: it is no address.
        """
        ip = ip_from_any(address)
        late = None if ip is None else self._try_take(ip)
        return None if late is None else (late.network, late.retry_after_s)

    def _try_take(self, ip: bytes) -> _Refused | None:
        asked = self._asked(ip)
        if len(asked) > 1:
            for bits, bucket, key, limited_by in asked:
                if bucket.get_available_tokens(*key) < 1:
                    return _Refused(
                        Network.of(ip, bits), None, bucket.time_until(*key), limited_by)
        for bits, bucket, key, limited_by in asked:
            if not bucket.try_consume(*key):
                return _Refused(Network.of(ip, bits), None, bucket.time_until(*key), limited_by)
        return None

    def _asked(self, ip: bytes) -> list[tuple[int, Any, tuple[bytes, ...], str]]:
        """The buckets of an address: prefix length, bucket or table, its key, `limited_by`."""
        tables, by_network, overall = self._buckets
        overrides = list(by_network.matching(ip))
        if overrides:
            return [
                (bits, bucket, (), text) for bits, (bucket, text) in overrides
                if bucket is not None]
        asked: list[tuple[int, Any, tuple[bytes, ...], str]] = [
            (bits, table, (prefix_of(ip, bits),), "") for bits, table in tables[len(ip) == 4]]
        if overall is not None:
            asked.append((0, overall, (), "overall"))
        return asked


def _handshake_rates(limits: SubnetLimits | None, max_networks: int) -> AddressRates:
    """How often a network may begin a handshake before it must prove its address.

    0.1 per s (one per two handshakes of 5 s), and bursts of half of its connections.
    """
    def rate(limit: int | None) -> Rate | None:
        return None if limit is None or limit < 2 else Rate(0.1, min(limit // 2, _LONGEST_BURST))

    def by_length(pairs: tuple[tuple[int, int | None], ...]) -> tuple[tuple[int, Any], ...]:
        return tuple((bits, rate(limit)) for bits, limit in pairs if rate(limit) is not None)

    if limits is None:
        limits = SubnetLimits()
    overrides = {network: rate(limit) for network, limit in limits.overrides.items()}
    return AddressRates(
        by_length(limits.ipv4), by_length(limits.ipv6), overrides, max_networks=max_networks)


class AddressGate:
    """Asks the limits that depend on an address: first the rate, then connections at once.

    subnets, rates: None: no limit of that kind. A SubnetLimiter may be shared with other gates.
    allowlist: its addresses pass.
    Only inbound connections take from the rate. Both directions count as connections at once. An
    address without an IP (relayed, DNS) passes. Anything that is no address is refused. Thread
    safe.
    """

    def __init__(
        self,
        subnets: SubnetLimits | SubnetLimiter | None = None,
        rates: AddressRates | None = None,
        allowlist: Allowlist | None = None,
        *,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.allowlist = Allowlist() if allowlist is None else allowlist
        self.subnets: SubnetLimiter | None = None
        self.rates: AddressRateLimiter | None = None
        # stays without limits too, because it counts connections that still exist
        self._own_subnets: SubnetLimiter | None = None
        self._clock = clock
        # made for the first question, because few nodes ask and its tables take long to make
        self._verify: AddressRateLimiter | None = None
        self._fleet: FleetNetworks | None = None
        self._lock = threading.Lock()
        self.only_reporting: frozenset[str] = frozenset()
        """Codes of limits that refuse nothing; see `try_enter`."""
        self.refused_by_rate = 0
        """Refusals by a rate."""
        self.refused_by_number = 0
        """Refusals by a number of connections. A malformed address counts too."""
        self.refused_outbound = 0
        """The part of `refused_by_number` for the node's own dials. A rate refuses no dial."""
        self.set_limits(subnets, rates)

    def set_limits(
        self, subnets: SubnetLimits | SubnetLimiter | None, rates: AddressRates | None
    ) -> None:
        """Replace the limits. Connections stay counted, and buckets of the same rate stay.

        Connections from a time without `subnets` are not counted. O(addresses).
        """
        limits = subnets.limits if isinstance(subnets, SubnetLimiter) else subnets
        most = AddressRates.max_networks if rates is None else rates.max_networks
        with self._lock:
            self._verify_by = limits, most
            if self._verify is not None:
                self._verify.rates = _handshake_rates(limits, most)
        if isinstance(subnets, SubnetLimits):
            if self._own_subnets is None:
                self._own_subnets = SubnetLimiter(subnets)
            elif self._own_subnets.limits != subnets:
                self._own_subnets.limits = subnets
            subnets = self._own_subnets
        self.subnets = subnets
        if rates is None:
            self.rates = None
        elif self.rates is None:
            self.rates = AddressRateLimiter(rates, clock=self._clock)
        else:
            self.rates.rates = rates

    def set_fleet(self, fleet: FleetNetworks | None, prefixes: tuple[int, int] | None) -> None:
        """Ask these limits of a fleet too; None: no fleet.

        prefixes: the lengths of the networks whose connections count for it; None: it counts none.
        """
        if prefixes is not None and self._own_subnets is None:
            self._own_subnets = SubnetLimiter(SubnetLimits((), (), {}))
        subnets = self._own_subnets if self.subnets is None else self.subnets
        if prefixes is not None:
            self.subnets = subnets
        if subnets is not None:
            subnets.also_count(prefixes)
        self._fleet = fleet

    @property
    def has_limits(self) -> bool:
        """Whether it may refuse an address."""
        return not (self.subnets is None and self.rates is None and self._fleet is None)

    def connections_of_network(self, key: bytes) -> int:
        """The connections of a network that counts for the fleet, by its `network_key`."""
        subnets = self.subnets
        return 0 if subnets is None else subnets.count(key)

    def clear(self) -> None:
        """Forget all connections. Closing their shares later changes nothing."""
        for subnets in (self.subnets, self._own_subnets):
            if subnets is not None:
                subnets.clear()

    def try_enter(
        self, address: object, inbound: bool, exempt: bool | None = None,
        passed: list[Any] | None = None,
    ) -> NetworkShare | AddressRefusal | FleetRefusal:
        """Count a connection of this multiaddr or IP address. Close the share afterwards.

        address: as for `parse_address`. It may have a port.
        exempt: whether the limits do not apply; None: ask the allowlist for this address.
        passed: a list for the refusals of limits that are `only_reporting`.
        """
        try:
            ip = parse_address(address).ip
        except (TypeError, ValueError):
            refusal = AddressRefusal(None, None, 0.0, shortened(address))
            if self._passes(refusal, passed):
                return _UNCOUNTED
            with self._lock:
                self.refused_by_number += 1
                self.refused_outbound += not inbound
            return refusal
        if exempt is None:
            exempt = self.allowlist.allows_address(ip)
        if ip is None or exempt:
            return _UNCOUNTED
        if inbound and self.rates is not None:
            late = self.rates._try_take(ip)
            if late is not None and not self._passes(late.at(address), passed):
                with self._lock:
                    self.refused_by_rate += 1
                return late.at(address)
        if self._fleet is not None:
            of_fleet = self._fleet.refusal(ip, address, inbound)
            if of_fleet is not None and not self._passes(of_fleet, passed):
                return of_fleet
        subnets = self.subnets
        if subnets is None:
            return _UNCOUNTED
        full: list[_Refused] | None = [] if "connection.address" in self.only_reporting else None
        share = subnets._try_enter(ip, full)
        if full and passed is not None:
            passed.append(full[0].at(address))
        if isinstance(share, NetworkShare):
            return share
        with self._lock:
            self.refused_by_number += 1
            self.refused_outbound += not inbound
        return share.at(address)

    def _passes(
        self, refusal: AddressRefusal | FleetRefusal, passed: list[Any] | None
    ) -> bool:
        if refusal.code not in self.only_reporting:
            return False
        if passed is not None:
            passed.append(refusal)
        return True

    def verify_source_address(self, address: object) -> bool:
        """Whether a peer must prove that it owns this address before the node spends resources.

        QUIC's Retry asks this. address: as for `try_enter`. True without an IP address. If
        overrides of several networks match, all of them must admit it, as in go-libp2p. False if
        the limits on addresses are `only_reporting`.
        """
        if self.only_reporting.issuperset(("connection.address", "rate.address")):
            return False
        ip = endpoint_of(address).ip
        if ip is None:
            return True
        if self.allowlist.allows_address(ip):
            return False
        few = self.subnets is not None and self.subnets.allows_few(ip)
        return few or self._verifier()._try_take(ip) is not None

    def _verifier(self) -> AddressRateLimiter:
        with self._lock:
            if self._verify is None:
                self._verify = AddressRateLimiter(
                    _handshake_rates(*self._verify_by), clock=self._clock)
            return self._verify
