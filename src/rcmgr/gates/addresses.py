"""Which part of a multiaddr limits apply to, and the allowlist."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from rcmgr.limits.networks import Network, packed_ip, prefix_of
from rcmgr.peers import peer_key

__all__ = [
    "Allowlist",
    "Endpoint",
    "PrefixTable",
    "endpoint_of",
    "parse_entry",
]

T = TypeVar("T")


class Endpoint(NamedTuple):
    """The parts of an address that limits use."""

    ip: bytes | None
    """4 or 16 bytes. None: limits on addresses do not apply (DNS, memory, relayed, unspecified)."""
    peer: Hashable | None
    """The bytes of the peer at the end of the address, or None."""


@lru_cache(maxsize=4096)
def endpoint_of(address: str) -> Endpoint:
    """The endpoint of a multiaddr as text, or of a bare IP address. Any other text has no IP.

    A relayed address (with /p2p-circuit) has no IP, because a relay must not pay for its guests.
    """
    if not address.startswith("/"):
        return Endpoint(_specified(packed_ip(address)), None)
    parts = address.split("/")[1:]
    peer = None
    for name, value in pairwise(parts):
        if name in ("p2p", "ipfs"):
            peer = peer_key(value)
    if "p2p-circuit" in parts:
        return Endpoint(None, peer)
    if parts[0] == "ip6zone":
        parts = parts[2:]
    if len(parts) < 2 or parts[0] not in ("ip4", "ip6"):
        return Endpoint(None, peer)
    return Endpoint(_specified(packed_ip(parts[1])), peer)


def _specified(ip: bytes | None) -> bytes | None:
    # py-libp2p's swarm reports 0.0.0.0 for an address that it does not know
    return ip if ip is not None and any(ip) else None


class PrefixTable(Generic[T]):
    """Values by network. A look-up costs one dict access per prefix length in use, not per network.

    Keys are bytes, because strangers choose addresses, and the hash of bytes is keyed. A look-up
    takes no lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # by family: (prefix length, networks of that length), longest first
        self._tables: dict[bool, tuple[tuple[int, dict[bytes, T]], ...]] = {True: (), False: ()}

    def set(self, network: Network, value: T) -> None:
        with self._lock:
            tables = self._tables[network.is_ipv4]
            for bits, values in tables:
                if bits == network.bits:
                    values[network.prefix] = value
                    return
            added = (*tables, (network.bits, {network.prefix: value}))
            self._tables[network.is_ipv4] = tuple(sorted(added, key=lambda each: -each[0]))

    def remove(self, network: Network) -> None:
        """KeyError: the network has no value."""
        with self._lock:
            tables = self._tables[network.is_ipv4]
            for bits, values in tables:
                if bits == network.bits:
                    del values[network.prefix]
                    if not values:
                        self._tables[network.is_ipv4] = tuple(
                            each for each in tables if each[0] != bits
                        )
                    return
        raise KeyError(str(network))

    def longest(self, ip: bytes) -> tuple[int, T] | None:
        """Length and value of the longest prefix of an address, or None."""
        for bits, values in self._tables[len(ip) == 4]:
            value = values.get(prefix_of(ip, bits))
            if value is not None:
                return bits, value
        return None

    def matching(self, ip: bytes) -> Iterable[tuple[int, T]]:
        """Length and value of every prefix of an address, longest first."""
        for bits, values in self._tables[len(ip) == 4]:
            value = values.get(prefix_of(ip, bits))
            if value is not None:
                yield bits, value


class Allowlist:
    """Exempt peers, addresses and networks.

    An entry is one of these:

        a peer                  "/p2p/12D3...", base58 text, `ID`, bytes
        an address              "/ip4/1.2.3.4", "1.2.3.4"
        a network               "/ip4/10.0.0.0/ipcidr/8", "10.0.0.0/8"
        a peer at one of these  "/ip4/10.0.0.0/ipcidr/8/p2p/12D3..."

    Other parts of a multiaddr (tcp, ...) do not matter. Entries may change at any time. A look-up
    costs one dict access per prefix length in use (about 1 us). Thread safe. The rules are those of
    go-libp2p's allowlist.go.
    """

    def __init__(self, entries: Iterable[Hashable] = ()) -> None:
        if isinstance(entries, str | bytes):
            raise TypeError(f"an allowlist must be a collection of entries, not {entries!r}")
        self._lock = threading.Lock()
        self.allowed_peers: dict[Hashable, Hashable] = {}
        """Peers that are exempt from anywhere: key (the bytes of an `ID`) and entry."""
        self.networks: dict[Network, frozenset[Hashable | None]] = {}
        """The exempt peers of a network. None in a set: all peers of that network."""
        # the same by prefix, for look-ups of an address
        self._by_prefix: PrefixTable[frozenset[Hashable | None]] = PrefixTable()
        for entry in entries:
            self.add(entry)

    @classmethod
    def of(cls, entries: Allowlist | Iterable[Hashable] | None) -> Allowlist:
        """The same object if it is an Allowlist, or a new list of the entries. None: no entries."""
        return entries if isinstance(entries, Allowlist) else cls(entries or ())

    def add(self, entry: Hashable) -> None:
        """ValueError: not an entry."""
        network, peer = parse_entry(entry)
        if network is None:
            self.allowed_peers[peer] = peer if isinstance(entry, str) else entry
        else:
            self.allow_from(network, peer)

    def remove(self, entry: Hashable) -> bool:
        """False: the list has no such entry. Other entries that cover the same peer stay."""
        network, peer = parse_entry(entry)
        if network is None:
            return self.allowed_peers.pop(peer, None) is not None
        return self.disallow_from(network, peer)

    def allow_from(self, network: Network, peer: Hashable | None) -> None:
        """Exempt the peer of this key at this network; None: all peers there."""
        with self._lock:
            allowed = self.networks.get(network, frozenset()) | {peer}
            self.networks[network] = allowed
            self._by_prefix.set(network, allowed)

    def disallow_from(self, network: Network, peer: Hashable | None) -> bool:
        """Undo `allow_from`; False: it was not called."""
        with self._lock:
            allowed = self.networks.get(network, frozenset())
            if peer not in allowed:
                return False
            if len(allowed) == 1:
                self._by_prefix.remove(network)
                del self.networks[network]
            else:
                self.networks[network] = allowed - {peer}
                self._by_prefix.set(network, allowed - {peer})
            return True

    def add_peer(self, peer_id: Hashable) -> None:
        """Like `add`, for a peer with any kind of id."""
        self.allowed_peers[peer_key(peer_id)] = peer_id

    def remove_peer(self, peer_id: Hashable) -> bool:
        """False: the list does not have this peer."""
        return self.allowed_peers.pop(peer_key(peer_id), None) is not None

    def allows_address(self, ip: bytes | None) -> bool:
        """Whether a peer may be exempt at this address. The peer is known after the handshake."""
        return ip is not None and self._by_prefix.longest(ip) is not None

    def allows(self, peer: Hashable, ip: bytes | None = None) -> bool:
        """Whether this peer is exempt at this address; None: from anywhere."""
        key = peer_key(peer)
        if key in self.allowed_peers:
            return True
        if ip is None:
            return False
        return any(None in allowed or key in allowed for _, allowed in self._by_prefix.matching(ip))

    def allows_at(self, peer: Hashable | None, address: object) -> bool:
        """`allows`, with a multiaddr or an IP address as text; None: unknown.

        peer: None before the handshake: whether a peer is allowed from this address.
        """
        ip = None if address is None else endpoint_of(str(address)).ip
        return self.allows_address(ip) if peer is None else self.allows(peer, ip)

    def __bool__(self) -> bool:
        return bool(self.allowed_peers or self.networks)

    def __len__(self) -> int:
        """Peers and networks; several peers at one network count once."""
        return len(self.allowed_peers) + len(self.networks)


def parse_entry(entry: Hashable) -> tuple[Network | None, Hashable | None]:
    """The network and the peer of an entry; None: any network, or any peer.

    ValueError: not an entry.
    """
    if not isinstance(entry, str):
        key = peer_key(entry)
        if isinstance(key, bytes):
            return None, key
        entry = str(entry)  # a Multiaddr
    if not entry.startswith("/"):
        try:
            return Network.parse(entry), None
        except ValueError:
            peer = peer_key(entry)
            if isinstance(peer, bytes):
                return None, peer
            raise ValueError(f"not a peer id, address or network: {entry!r}") from None
    parts = entry.strip("/").split("/")
    names = dict(pairwise(parts))
    peer = names.get("p2p", names.get("ipfs"))
    if peer is not None:
        decoded = peer_key(peer)
        if not isinstance(decoded, bytes):
            raise ValueError(f"not a peer id: {peer!r} in {entry!r}")
        peer = decoded
    address = names.get("ip4", names.get("ip6"))
    if address is None:
        if peer is not None and parts[0] in ("p2p", "ipfs"):
            return None, peer
        raise ValueError(f"missing ip address: {entry!r}")
    bits = names.get("ipcidr")
    network = Network.parse(address if bits is None else f"{address}/{bits}")
    return network, peer
