"""Our allowlist behind the names of `libp2p.rcmgr.allowlist` 0.8.1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from libp2p.peer.id import ID
from libp2p.rcmgr.allowlist import Allowlist as StockAllowlist
from libp2p.rcmgr.allowlist import AllowlistConfig

from rcmgr.gates.addresses import Allowlist as OurAllowlist
from rcmgr.gates.addresses import parse_entry
from rcmgr.libp2p.dropin._named_sets import MutableNamedSet
from rcmgr.limits.networks import Network
from rcmgr.peers import peer_key

__all__ = ["Allowlist"]

_Meaning = tuple[Network, "Hashable | None"]
_UNKNOWN_PEER = object()


class _Peers(MutableNamedSet):
    """The allowed peers, as they were given. Any kind of id finds them."""

    def __init__(self, allowlist: OurAllowlist) -> None:
        self._allowlist = allowlist

    def __contains__(self, peer: Any) -> bool:
        return peer_key(peer) in self._allowlist.allowed_peers

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._allowlist.allowed_peers.values()))

    def __len__(self) -> int:
        return len(self._allowlist.allowed_peers)

    def add(self, peer: Any) -> None:
        self._allowlist.add_peer(peer)

    def discard(self, peer: Any) -> None:
        self._allowlist.remove_peer(peer)


class _Addressed(MutableNamedSet):
    """Entries with an address: as they were written, and what each means to a host."""

    def __init__(self, allowlist: OurAllowlist, meaning_of: Callable[[Any], _Meaning]) -> None:
        self._allowlist = allowlist
        self._meaning_of = meaning_of
        self._meanings: dict[Any, _Meaning | None] = {}  # None: it has no effect

    def __contains__(self, entry: Any) -> bool:
        return entry in self._meanings

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._meanings))

    def __len__(self) -> int:
        return len(self._meanings)

    def add(self, entry: Any) -> None:
        try:
            meaning = self._meaning_of(entry)
        except ValueError as error:
            warnings.warn(f"the allowlist's {entry!r} admits no connection: {error}", stacklevel=4)
            self._meanings[entry] = None
            return
        self._meanings[entry] = meaning
        self._allowlist.allow_from(*meaning)

    def discard(self, entry: Any) -> None:
        meaning = self._meanings.pop(entry, None)
        if meaning is not None and meaning not in list(self._meanings.values()):
            self._allowlist.disallow_from(*meaning)

    def forget(self, meaning: Any) -> None:
        for entry in [each for each, what in self._meanings.items() if what == meaning]:
            del self._meanings[entry]


class Allowlist(OurAllowlist):
    """`rcmgr.Allowlist` with py-libp2p's methods and live, mutable sets.

    config: the first entries.

    An entry with an IP address admits every connection from that address or network. Ports and
    protocols do not matter. An entry without an IP address (a host name) gives a warning, and only
    a look-up of the same text finds it. Peers may be `ID`, bytes or base58 text.
    """

    def __init__(self, config: AllowlistConfig | None = None) -> None:
        self._peers = _Peers(self)
        self._multiaddrs = _Addressed(self, _from_address)
        self._peer_multiaddrs = _Addressed(self, _peer_from_address)
        super().__init__()
        if config is not None:
            self._peers.update(config.peers)
            self._multiaddrs.update(config.multiaddrs)
            self._peer_multiaddrs.update(config.peer_multiaddrs)

    @classmethod
    def of(cls, allowlist: Any) -> OurAllowlist:
        """Our own allowlist as it is, or a copy of py-libp2p's or of a collection."""
        if isinstance(allowlist, OurAllowlist):
            return allowlist
        if isinstance(allowlist, StockAllowlist):
            return cls(AllowlistConfig(
                allowlist.peers, allowlist.multiaddrs, allowlist.peer_multiaddrs))
        made = cls()
        for entry in allowlist:
            made.add(entry)
        return made

    @property
    def peers(self) -> MutableNamedSet:
        return self._peers

    @property
    def multiaddrs(self) -> MutableNamedSet:
        return self._multiaddrs

    @property
    def peer_multiaddrs(self) -> MutableNamedSet:
        return self._peer_multiaddrs

    def add_multiaddr(self, multiaddr: Any) -> None:
        """Allow every peer from this address."""
        self._multiaddrs.add(str(multiaddr))

    def remove_multiaddr(self, multiaddr: Any) -> None:
        self._multiaddrs.discard(str(multiaddr))

    def add_peer_multiaddr(self, peer_id: Hashable, multiaddr: Any) -> None:
        """Allow this peer from this address."""
        self._peer_multiaddrs.add((peer_id, str(multiaddr)))

    def remove_peer_multiaddr(self, peer_id: Hashable, multiaddr: Any) -> None:
        self._peer_multiaddrs.discard((peer_id, str(multiaddr)))

    def allowed_peer(self, peer_id: Hashable) -> bool:
        """Whether this peer is allowed from every address."""
        return self.allows(peer_id)

    def allowed_multiaddr(self, multiaddr: Any) -> bool:
        """Whether every peer is allowed from this address."""
        return str(multiaddr) in self._multiaddrs or self.allows_at(_UNKNOWN_PEER, multiaddr)

    def allowed_peer_and_multiaddr(self, peer_id: Hashable, multiaddr: Any) -> bool:
        """Whether this peer is allowed from this address."""
        text = str(multiaddr)
        return (
            self.allows_at(peer_id, text)
            or text in self._multiaddrs
            or (peer_id, text) in self._peer_multiaddrs
        )

    def allowed(self, multiaddr: Any) -> bool:
        """`allowed_multiaddr`."""
        return self.allowed_multiaddr(multiaddr)

    def get_allowed_peers(self) -> set[Any]:
        """A copy."""
        return set(self._peers)

    def get_allowed_multiaddrs(self) -> set[str]:
        """A copy."""
        return set(self._multiaddrs)

    def clear(self) -> None:
        """Remove all entries."""
        for entries in (self._peers, self._multiaddrs, self._peer_multiaddrs):
            entries.clear()

    def is_empty(self) -> bool:
        return len(self) == 0

    def add(self, entry: Hashable) -> None:
        network, key = parse_entry(entry)
        peer = ID(key) if isinstance(key, bytes) else None
        if network is None:
            self._peers.add(peer)
        elif peer is None:
            self._multiaddrs.add(str(entry))
        else:
            self._peer_multiaddrs.add((peer, str(entry)))

    def remove(self, entry: Hashable) -> bool:
        meaning = parse_entry(entry)
        self._multiaddrs.forget(meaning)
        self._peer_multiaddrs.forget(meaning)
        return super().remove(entry)

    def __len__(self) -> int:
        return len(self._peers) + len(self._multiaddrs) + len(self._peer_multiaddrs)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __repr__(self) -> str:
        return (
            f"Allowlist(peers={len(self._peers)}, multiaddrs={len(self._multiaddrs)}, "
            f"peer_multiaddrs={len(self._peer_multiaddrs)})"
        )


def _from_address(address: str) -> _Meaning:
    network, peer = parse_entry(address)
    if network is None:
        raise ValueError(f"missing ip address: {address!r}")
    return network, peer


def _peer_from_address(pair: tuple[Hashable, str]) -> _Meaning:
    peer, address = pair
    return _from_address(address)[0], peer_key(peer)
