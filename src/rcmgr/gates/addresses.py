"""Which part of a multiaddr limits apply to, and the allowlist."""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.limits.networks import Network, packed_ip, unmapped
from rcmgr.peers import peer_key

__all__ = [
    "LONGEST_ADDRESS",
    "Allowlist",
    "Endpoint",
    "endpoint_of",
    "ip_from_any",
    "parse_address",
    "parse_entry",
]


class Endpoint(NamedTuple):
    """The parts of an address that limits use."""

    ip: bytes | None
    """4 or 16 bytes. None: limits on addresses do not apply (DNS, memory, relayed, unspecified)."""
    peer: Hashable | None
    """The bytes of the peer at the end of the address, or None."""


LONGEST_ADDRESS: Final = 1024
_WITHOUT_IP: Final = frozenset((
    "dns", "dns4", "dns6", "dnsaddr", "garlic32", "garlic64", "ipfs", "memory", "onion", "onion3",
    "p2p", "p2p-circuit", "unix",
))
"""The protocols that begin a multiaddr without an IP address."""
_HOST_NAME: Final = re.compile(r"(?:[\w-]+\.)*[\w-]*[^\W\d_][\w-]*\.?")
"""A name for DNS. Its last label has a letter, unlike that of a mistyped IPv4 address."""
_PORT: Final = re.compile(r":[0-9]{1,5}")


def parse_address(address: object) -> Endpoint:
    """The endpoint of a multiaddr, an IP address, a host, or the address of a socket.

    A multiaddr and an IP address are objects or text. An IP address or host name may have a port
    ("1.2.3.4:80", "[::1]:80"). An empty text is an unknown address. A relayed address (with
    /p2p-circuit) has no IP, because a relay must not pay for its guests.

    TypeError, ValueError: it is no address. An address has at most 1,024 characters.
    """
    return _parsed(address if type(address) is str else _address_text(address))


@lru_cache(maxsize=4096)  # it keeps only texts of 1,024 characters at most
def _parsed(text: str) -> Endpoint:
    if len(text) > LONGEST_ADDRESS:
        raise ValueError(f"an address has at most {LONGEST_ADDRESS} characters, not {len(text)}")
    if not text.startswith("/"):
        return Endpoint(_specified(_ip_of_host(text)) if text else None, None)
    parts = text.split("/")[1:]
    peer = None
    for name, value in pairwise(parts):
        if name in ("p2p", "ipfs"):
            peer = peer_key(value)
    if "p2p-circuit" in parts:
        return Endpoint(None, peer)
    if parts[0] == "ip6zone":
        parts = parts[2:]
    if parts and parts[0] in _WITHOUT_IP:
        return Endpoint(None, peer)
    ip = packed_ip(parts[1]) if len(parts) > 1 and parts[0] in ("ip4", "ip6") else None
    if ip is None:
        raise ValueError(f"not an address: {text!r}")
    return Endpoint(_specified(ip), peer)


def endpoint_of(address: object) -> Endpoint:
    """As `parse_address`; without an IP and a peer if that raises."""
    try:  # `parse_address` in place, as a flood of refusals waits for it
        return _parsed(address if type(address) is str else _address_text(address))
    except (TypeError, ValueError):
        return Endpoint(None, None)


def ip_from_any(address: object) -> bytes | None:
    """An address as for `parse_address`, or as 4 or 16 bytes: its bytes.

    None: it has no IP. TypeError, ValueError: it is no address.
    """
    if not isinstance(address, bytes):
        return parse_address(address).ip
    if len(address) not in (4, 16):
        raise ValueError(f"an IP address has 4 or 16 bytes, not {len(address)}")
    return unmapped(address)


def _address_text(address: object) -> str:
    if isinstance(address, str):
        return address
    if isinstance(address, tuple) and address:
        return _address_text(address[0])  # (host, port, ...)
    if is_multiaddr(address) or hasattr(address, "packed"):  # ipaddress.IPv4Address
        return str(address)
    raise TypeError(f"an address must be text, a Multiaddr or an IP address, not {address!r}")


def is_multiaddr(value: object) -> bool:
    """Whether it is a `multiaddr.Multiaddr`. Importing the class takes milliseconds."""
    return hasattr(value, "value_for_protocol")


def _ip_of_host(text: str) -> bytes | None:
    """The IP of an address; None: a host name has no IP. Both may have a port."""
    ip = packed_ip(text)
    if ip is not None:
        return ip
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        ip = packed_ip(host) if bracket and ":" in host else None
        is_host = ip is not None
    else:
        host, colon, digits = text.partition(":")
        port = colon + digits
        ip = packed_ip(host)
        is_host = ip is not None or _HOST_NAME.fullmatch(host) is not None
    if not is_host or (port and not (_PORT.fullmatch(port) and int(port[1:]) < 65536)):
        raise ValueError(f"not an address: {text!r}")
    return ip


def _specified(ip: bytes | None) -> bytes | None:
    # py-libp2p's swarm reports 0.0.0.0 for an address that it does not know
    return ip if ip is not None and any(ip) else None


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

    def allows_address(self, address: object) -> bool:
        """Whether a peer may be exempt at this address. The peer is known after the handshake.

        address: as for `ip_from_any`; None: unknown. TypeError, ValueError: not an address.
        """
        ip = None if address is None else ip_from_any(address)
        return ip is not None and self._by_prefix.longest(ip) is not None

    def allows_all_at(self, address: object) -> bool:
        """Whether every peer is exempt at an address of any kind; None: unknown. Raises nothing."""
        ip = None if address is None else endpoint_of(address).ip
        return ip is not None and any(
            None in allowed for _, allowed in self._by_prefix.matching(ip))

    def allows(self, peer: Hashable, address: object = None) -> bool:
        """Whether this peer is exempt at this address (as `allows_address`); None: from anywhere.
        """
        key = peer_key(peer)
        if key in self.allowed_peers:
            return True
        ip = None if address is None else ip_from_any(address)
        if ip is None:
            return False
        return any(None in allowed or key in allowed for _, allowed in self._by_prefix.matching(ip))

    def allows_at(self, peer: Hashable | None, address: object) -> bool:
        """`allows`, for an address of any kind. It raises nothing.

        peer: None before the handshake: whether a peer is allowed from this address.
        """
        ip = None if address is None else endpoint_of(address).ip
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
        if isinstance(key, bytes) and not is_multiaddr(entry):
            return None, key
        entry = str(entry)
    if not entry.startswith("/"):
        try:
            return Network.parse(entry), None
        except ValueError:
            peer = peer_key(entry)
            if isinstance(peer, bytes):
                return None, peer
            ip = endpoint_of(entry).ip
            if ip is not None:  # with a port
                return Network.of(ip, 8 * len(ip)), None
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
