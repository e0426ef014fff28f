"""How many connections, and how often, from one address or network.

Rules and defaults are go-libp2p's (conn_limiter.go, conn_rate_limiter.go). Where this differs on
purpose, docs/scopes.md says why.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from heapq import nlargest
from typing import Any, Final, Literal, NamedTuple

from rcmgr.counting.token_bucket import BucketTable, TokenBucket
from rcmgr.errors import AddressLimitExceeded, RateLimitExceeded, ResourceLimitExceeded
from rcmgr.gates.addresses import Allowlist, PrefixTable, endpoint_of
from rcmgr.limits.networks import AddressRates, Network, SubnetLimits, prefix_of
from rcmgr.limits.rates import Rate

__all__ = [
    "AddressGate",
    "AddressRateLimiter",
    "AddressRefusal",
    "NetworkShare",
    "SubnetLimiter",
    "verify_source_rates",
]


class AddressRefusal(NamedTuple):
    """Why an address was refused. Falsy. Making one formats nothing: it is on the hot path."""

    network: Network
    limit: int | None
    """Connections at once; None: a rate refused."""
    retry_after_s: float
    """Of a rate: seconds until the address may come again; inf: never."""
    address: str

    def __bool__(self) -> Literal[False]:
        return False

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> ResourceLimitExceeded:
        if self.limit is not None:
            return AddressLimitExceeded(self.address, str(self.network), self.limit, self.limit)
        return RateLimitExceeded(
            f"network {self.network}", "connection", peer_id, self.retry_after_s, self.address)


# what a connection is counted as: a key and the limit that holds for it
_Counted = Sequence[tuple[bytes, "int | None"]]


class NetworkShare:
    """A connection's place in the counts of its networks. `close` gives it back, once."""

    __slots__ = ("_counted", "_epoch", "_subnets")

    def __init__(self, subnets: SubnetLimiter | None = None, counted: _Counted = ()) -> None:
        self._subnets = subnets
        self._counted = counted
        self._epoch = 0

    def close(self) -> None:
        if self._subnets is not None:
            self._subnets._leaving.append(self)
            self._subnets._settle()


_UNCOUNTED: Final = NetworkShare()


class SubnetLimiter:
    """Counts connections per network. O(1), about 1 us; thread safe."""

    def __init__(self, limits: SubnetLimits | None = None) -> None:
        self.limits = SubnetLimits() if limits is None else limits
        self._lock = threading.Lock()
        self._counts: dict[bytes, int] = {}
        self._epoch = 0
        # A connection that is garbage may be given back anywhere, also by a thread that has the
        # lock at that moment: nobody who gives back waits for it.
        self._leaving: deque[NetworkShare] = deque()
        self._overrides: PrefixTable[tuple[int | None]] = PrefixTable()
        for network, limit in self.limits.overrides.items():
            self._overrides.set(Network.parse(network), (limit,))
        self.over_released = 0
        """Connections given back that had not been taken: a defect of the caller."""

    def _counted_as(self, ip: bytes) -> _Counted:
        override = self._overrides.longest(ip)
        if override is not None:
            bits, (limit,) = override
            # counted apart from a network of that length without an override
            return [(b"%c%c!%b" % (len(ip), bits, prefix_of(ip, bits)), limit)]
        pairs = self.limits.ipv4 if len(ip) == 4 else self.limits.ipv6
        return [(b"%c%c=%b" % (len(ip), bits, prefix_of(ip, bits)), limit) for bits, limit in pairs]

    def try_add(self, ip: bytes) -> tuple[Network, int] | None:
        """Count a connection of this address; else the network that is full and its limit."""
        share = self._try_enter(ip)
        return None if isinstance(share, NetworkShare) else share

    def full(self, ip: bytes) -> tuple[Network, int] | None:
        """The network that would refuse this address now and its limit; None: it may come."""
        return self._full(ip, self._counted_as(ip))

    def _full(self, ip: bytes, counted: _Counted) -> tuple[Network, int] | None:
        for key, limit in counted:
            if limit is not None and self._counts.get(key, 0) >= limit:
                return Network.of(ip, key[1]), limit
        return None

    def _try_enter(self, ip: bytes) -> NetworkShare | tuple[Network, int]:
        counted, counts = self._counted_as(ip), self._counts
        share = NetworkShare(self, counted)
        with self._lock:
            full = self._full(ip, counted)
            if full is None:
                share._epoch = self._epoch
                for key, _ in counted:
                    counts[key] = counts.get(key, 0) + 1
        self._settle()
        return share if full is None else full

    def remove(self, ip: bytes) -> None:
        """Give a connection of this address back."""
        with self._lock:
            self._give_back(self._counted_as(ip))
        self._settle()

    def _settle(self) -> None:
        """Give back what is leaving, unless somebody has the lock, who does it afterwards."""
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                while self._leaving:
                    share = self._leaving.popleft()
                    counted, share._counted = share._counted, ()
                    if share._epoch == self._epoch:
                        self._give_back(counted)
            finally:
                self._lock.release()

    def _give_back(self, counted: _Counted) -> None:
        """Locked."""
        counts = self._counts
        for key, _ in counted:
            count = counts.get(key, 0)
            if count > 1:
                counts[key] = count - 1
            elif count == 1:
                del counts[key]
            else:
                self.over_released += 1

    def clear(self) -> None:
        """Forget all connections; closing them later changes nothing."""
        with self._lock:
            self._counts.clear()
            self._epoch += 1
        self._settle()

    def fullest(self, most: int) -> list[tuple[Network, int, int]]:
        """Networks nearest to their limit, as (network, connections, limit). O(networks)."""
        with self._lock:
            counts = list(self._counts.items())
        self._settle()
        found = []
        for key, used in counts:
            size, bits, prefix = key[0], key[1], key[3:]
            ip = prefix.ljust(size, b"\0")
            if key[2:3] == b"=":
                limit = dict(self.limits.ipv4 if size == 4 else self.limits.ipv6)[bits]
            else:
                limit = dict(self._overrides.matching(ip))[bits][0]
            if limit is not None:
                found.append((Network(prefix, bits, size == 4), used, limit))
        return nlargest(most, found, key=lambda each: each[1] / each[2] if each[2] else 1.0)

    def __len__(self) -> int:
        """Networks that have a connection."""
        return len(self._counts)


class AddressRateLimiter:
    """Says whether a connection may come from an address now. O(1), about 1 us; thread safe.

    All that have a say are asked before a token is taken, so that a refusal takes none. (Threads
    that ask at the same moment may each lose the token that the other's refusal needed.)

    clock: monotonic nanoseconds; default the system's coarse clock.
    """

    def __init__(
        self, rates: AddressRates | None = None, *, clock: Callable[[], int] | None = None
    ) -> None:
        self.rates = rates = AddressRates() if rates is None else rates
        self._tables = {
            is_ipv4: [(bits, _table(rate, rates, clock)) for bits, rate in pairs]
            for is_ipv4, pairs in ((True, rates.ipv4), (False, rates.ipv6))
        }
        self._overrides: PrefixTable[tuple[TokenBucket | None]] = PrefixTable()
        for network, rate in rates.overrides.items():
            self._overrides.set(Network.parse(network), (_bucket(rate, clock),))
        self._overall = _bucket(rates.overall, clock)

    def try_take(self, ip: bytes) -> tuple[Network, float] | None:
        """None: it may come. Else the network that came too often, and seconds until it may."""
        overrides = list(self._overrides.matching(ip))
        if overrides:
            buckets = [(bits, bucket) for bits, (bucket,) in overrides if bucket is not None]
            for bits, bucket in buckets:
                if bucket.get_available_tokens() < 1:
                    return Network.of(ip, bits), bucket.time_until()
            for bits, bucket in buckets:
                if not bucket.try_consume():
                    return Network.of(ip, bits), bucket.time_until()
            return None
        tables = self._tables[len(ip) == 4]
        if len(tables) > 1 or self._overall is not None:
            for bits, table in tables:
                key = prefix_of(ip, bits)
                if table.get_available_tokens(key) < 1:
                    return Network.of(ip, bits), table.time_until(key)
            if self._overall is not None and self._overall.get_available_tokens() < 1:
                return Network.of(ip, 0), self._overall.time_until()
        for bits, table in tables:
            key = prefix_of(ip, bits)
            if not table.try_consume(key):
                return Network.of(ip, bits), table.time_until(key)
        if self._overall is not None and not self._overall.try_consume():
            return Network.of(ip, 0), self._overall.time_until()
        return None


def _table(rate: Rate, rates: AddressRates, clock: Callable[[], int] | None) -> BucketTable:
    return BucketTable(
        rate.burst, rate.refill_rate, max_peers=rates.max_networks, on_full=rates.on_full,
        clock=clock,
    )


def _bucket(rate: Rate | None, clock: Callable[[], int] | None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate.burst, rate.refill_rate, clock=clock)


def verify_source_rates(
    limits: SubnetLimits, max_networks: int
) -> tuple[AddressRates, dict[str, bool]]:
    """How often a network may begin a handshake before it has to prove its address.

    0.1 per s (one per two handshakes of 5 s), bursts of half the connections it may have. And of
    which networks every handshake has to (half of 1 is 0), the longest prefix deciding.
    """
    always = {network: limit is not None and limit < 2
              for network, limit in limits.overrides.items()}
    rates: dict[str, Any] = {"max_networks": max_networks, "overrides": {
        network: None if limit is None or limit < 2 else Rate(0.1, limit // 2)
        for network, limit in limits.overrides.items()
    }}
    for family, everything in (("ipv4", "0.0.0.0/0"), ("ipv6", "::/0")):
        pairs = [(bits, limit) for bits, limit in getattr(limits, family) if limit is not None]
        rates[family] = tuple((bits, Rate(0.1, limit // 2)) for bits, limit in pairs if limit > 1)
        if any(limit < 2 for _, limit in pairs):
            always.setdefault(everything, True)
    return AddressRates(**rates), always


class AddressGate:
    """Everything that an address is asked for, in order: rate, then connections at once.

    subnets, rates: None: no limit of that kind. allowlist: its addresses pass both. A SubnetLimiter
    may be shared: what it has counted already counts here.
    Only inbound connections spend the rate; both directions count at once. What has no IP address
    (relayed, DNS) passes. Thread safe.
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
        self.subnets = SubnetLimiter(subnets) if isinstance(subnets, SubnetLimits) else subnets
        self.rates = None if rates is None else AddressRateLimiter(rates, clock=clock)
        self._lock = threading.Lock()
        self.refused_by_rate = 0
        """How often an address came too often."""
        self.refused_by_number = 0
        """How often there were enough connections from a network."""
        verify, always = verify_source_rates(
            SubnetLimits() if self.subnets is None else self.subnets.limits,
            (AddressRates() if rates is None else rates).max_networks,
        )
        self._verify = AddressRateLimiter(verify, clock=clock)
        self._always_verify: PrefixTable[bool] = PrefixTable()
        for network, must in always.items():
            self._always_verify.set(Network.parse(network), must)

    def try_enter(
        self, address: str, inbound: bool, exempt: bool | None = None
    ) -> NetworkShare | AddressRefusal:
        """Count a connection of this multiaddr (text) or IP address; close what it returns.

        exempt: whether it is allowed anyway; None: as the allowlist says of the address alone.
        """
        ip = endpoint_of(address).ip
        if exempt is None:
            exempt = self.allowlist.allows_address(ip)
        if ip is None or exempt:
            return _UNCOUNTED
        if inbound and self.rates is not None:
            late = self.rates.try_take(ip)
            if late is not None:
                with self._lock:
                    self.refused_by_rate += 1
                return AddressRefusal(late[0], None, late[1], address)
        subnets = self.subnets
        if subnets is None:
            return _UNCOUNTED
        share = subnets._try_enter(ip)
        if isinstance(share, NetworkShare):
            return share
        with self._lock:
            self.refused_by_number += 1
        return AddressRefusal(share[0], share[1], 0.0, address)

    def verify_source_address(self, address: str) -> bool:
        """Whether this address should prove that it is its own before anything is spent on it.

        True as well for what is no IP address. (QUIC's Retry; `address` as for `try_enter`.)
        """
        ip = endpoint_of(address).ip
        if ip is None:
            return True
        if self.allowlist.allows_address(ip):
            return False
        must = self._always_verify.longest(ip)
        if must is not None and must[1]:
            return True
        return self._verify.try_take(ip) is not None
