"""The work that benchmarks.peers compares, and what each program does for it."""

from __future__ import annotations

from dataclasses import dataclass, field

NATIVE = ("go", "rust")
SIZES = (1_000, 100_000)
MILLION = 1_000_000


@dataclass(frozen=True)
class Work:
    """One piece of work. Each text says what an implementation does for it."""

    rcmgr: str
    go: str | None = None
    rust: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Names that a program has for the work, where they differ from ours."""
    touches_peers: bool = True
    """Whether the floor applies: each piece of work reads a peer id."""
    holds: bool = False
    """Whether to say how much memory each peer takes."""
    sizes: tuple[int, ...] = SIZES

    def implementations(self) -> list[str]:
        named = [each for each in NATIVE if getattr(self, each) is not None]
        return ["rcmgr", *(["floor"] if self.touches_peers else []), *named]


GO_CONNECTION = (
    "OpenConnection, SetPeer and Done of go-libp2p's resource manager: transient, system, peer and "
    "connection scope. No metrics, no limits by address. The garbage collector works in other "
    "threads, and its time does not count.")
GO_STREAM = (
    "OpenStream, SetProtocol and Done of the same manager: transient, system, peer, protocol, "
    "the peer's share of the protocol, and stream scope.")

WORKS: dict[str, Work] = {
    "states": Work(
        rcmgr="ConnectionTracker: admit_pending_inbound, admit_established_inbound and "
        "remove_connection, with all six limits. It also keeps a record with the time and the peer "
        "of each connection.",
        rust="libp2p-connection-limits: the two calls of the swarm, and its two events "
        "ConnectionEstablished and ConnectionClosed, with all six limits.",
        holds=True,
        sizes=(*SIZES, MILLION),
    ),
    "state refused": Work(
        rcmgr="admit_pending_inbound of a full ConnectionTracker, which returns a Denial.",
        rust="handle_pending_inbound_connection at a limit of 0, which returns a boxed error.",
        touches_peers=False,
    ),
    "connection": Work(
        rcmgr="ResourceManager: a swarm's open_connection before the handshake, open_connection "
        "with the peer after it, and both closed. Scopes as in Go, and also the states as in Rust, "
        "the ages for evictions, and the counts for metrics.",
        go=GO_CONNECTION,
        holds=True,
        sizes=(*SIZES, MILLION),
    ),
    "stream": Work(
        rcmgr="ResourceManager: open_stream, try_set_protocol and close. The scopes as in Go.",
        go=GO_STREAM,
        sizes=(*SIZES, MILLION),
    ),
    "connection refused": Work(
        rcmgr="open_connection before the handshake, with max_connections=0. The refusal is "
        "counted and kept in the log of denials.",
        go="OpenConnection with a system limit of 0. The answer is an error.",
        touches_peers=False,
    ),
    "stream refused": Work(
        rcmgr="open_stream with max_streams=0. The refusal is counted and kept in the log of "
        "denials.",
        go="OpenStream with a system limit of 0. The answer is an error.",
    ),
    "ledger connection": Work(
        rcmgr="Ledger: try_open_connection, try_set_peer and close. The scopes as in Go, without "
        "the states and the rest of the manager.",
        go=GO_CONNECTION,
        names={"go": "connection"},
        holds=True,
    ),
    "ledger stream": Work(
        rcmgr="Ledger: try_open_stream, try_set_protocol and close.",
        go=GO_STREAM,
        names={"go": "stream"},
    ),
    "bucket": Work(
        rcmgr="BucketTable.try_consume. The key is an `ID`.",
        rust="governor: check_key of a keyed rate limiter with its default store. The key is an "
        "array of 38 bytes.",
        holds=True,
    ),
    "memory": Work(
        rcmgr="MemoryConnectionLimits.check_limit. It reads the process's memory each 100 ms.",
        rust="handle_pending_inbound_connection of libp2p-memory-connection-limits. It reads the "
        "process's memory each 100 ms.",
        touches_peers=False,
    ),
}
