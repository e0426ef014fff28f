"""Limits that a program decides by itself, scope by scope."""

from __future__ import annotations

from collections.abc import Callable

from rcmgr.limits.scopes import Limit

__all__ = ["AskLimiter", "Limiter"]

AskLimiter = Callable[[str, str | None, bytes | str | int | None], Limit | None]
"""Called with the kind, name and peer of a scope. It returns the scope's limits."""


class Limiter:
    """Gives each scope its limits. Subclass it, and override the methods you need.

        class Friends(Limiter):
            def peer_limits(self, peer):
                return Limit(conns=64) if peer in FRIENDS else None

        manager = ResourceManager(limits, limiter=Friends())

    Each method returns a `Limit`, or None: the scope has the limits of the node. A `Ledger` and a
    `ResourceManager` take any callable with the arguments of `__call__` instead.

    The node asks when it makes the scope of a peer, protocol or service. It keeps the answer as
    long as the scope exists, and remembers the last 1,024 answers or more until limits are set. So
    requests of an existing scope ask nothing. The node asks about the other scopes, and about
    connections and streams, when limits are set. `ScopeView.set_limit` overrules the answer.

    An error is logged once and counted in `Ledger.limiter_errors`, and so is an answer that is
    no limit. The scope then has the limits of the node. A method runs in the thread of the request,
    without a lock of the node. The methods are those of go-libp2p's interface `Limiter`.
    """

    def system_limits(self) -> Limit | None:
        """The whole node."""
        return None

    def transient_limits(self) -> Limit | None:
        """Connections in their handshake, and streams without a protocol."""
        return None

    def allowlisted_system_limits(self) -> Limit | None:
        """The whole node, for peers on the allowlist."""
        return None

    def allowlisted_transient_limits(self) -> Limit | None:
        """The same as `transient_limits`, for peers on the allowlist."""
        return None

    def service_limits(self, service: str) -> Limit | None:
        """All peers' streams of a service together."""
        return None

    def service_peer_limits(self, service: str, peer: bytes | str | int) -> Limit | None:
        """One peer's streams of a service."""
        return None

    def protocol_limits(self, protocol: str) -> Limit | None:
        """All peers' streams of a protocol together."""
        return None

    def protocol_peer_limits(self, protocol: str, peer: bytes | str | int) -> Limit | None:
        """One peer's streams of a protocol."""
        return None

    def peer_limits(self, peer: bytes | str | int) -> Limit | None:
        """peer: its key, for a peer id its bytes."""
        return None

    def conn_limits(self) -> Limit | None:
        """Each connection."""
        return None

    def stream_limits(self) -> Limit | None:
        """Each stream."""
        return None

    def __call__(
        self, kind: str, name: str | None, peer: bytes | str | int | None
    ) -> Limit | None:
        """The limits of one scope.

        kind: "system", "peer", "service_peer", ...: a field of `ConcreteLimits`. name: the protocol
        or service. peer: the key of the peer. None: the kind has no name, or no peer.
        """
        answer: Limit | None = getattr(self, f"{kind}_limits")(
            *(each for each in (name, peer) if each is not None))
        return answer
