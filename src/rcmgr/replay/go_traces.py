"""The trace files of go-libp2p's resource manager, as events.

A file is gzip of JSON objects, one on each line (go-libp2p, p2p/host/resource-manager/trace.go). It
says what each scope holds, and not which connection moves to which peer. So a peer gets the oldest
connection of its direction that has no peer, and its newest stream gets the protocol. Totals do not
depend on this. Addresses are not in the file.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from rcmgr.record.frames import KNOWN, RecordError
from rcmgr.replay import events as kinds
from rcmgr.replay.events import FD, INBOUND, Event

__all__ = ["GoTrace", "is_go_trace"]

_MOST_AT_ONCE: Final = 1 << 14
_LONGEST_LINE: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_TIME: Final = re.compile(r"(.{19})(?:\.(\d{1,9}))?\d*(Z|[+-]\d\d:\d\d)")
_FIELDS: Final = {"conn": "conns", "stream": "streams"}


def is_go_trace(path: Path) -> bool:
    """Whether a file is compressed as go-libp2p's traces are. OSError: it cannot be read."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _wall_ns(text: object) -> int:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"not a time: {text!r:.40}")
    second, fraction, zone = match.groups()
    zone = "+00:00" if zone == "Z" else zone
    whole = datetime.fromisoformat(f"{second}{zone}").timestamp()
    return int(whole) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


class GoTrace:
    """The events of a trace file, in lists. Times are Unix times in ns.

    RecordError: it is no trace.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.stat().st_size
        self.bytes_read = 0
        self.cut: list[Path] = []
        self.dropped = self.lost = 0
        self.skipped = 0
        """Lines that are no events of a trace."""
        self._now = 0
        self._peer: str | None = None  # the one of the latest `add_stream`
        # connections without a peer, and streams without a protocol, by direction
        self._unnamed: dict[bool, OrderedDict[int, None]] = {
            True: OrderedDict(), False: OrderedDict()}
        self._streams: dict[str, list[int]] = {}  # by peer, those without a protocol
        self._named: dict[str, list[int]] = {}    # by peer, those without a service
        self._peer_of: dict[int, str] = {}
        self._memory: dict[tuple[str, int], int] = {}

    def __iter__(self) -> Iterator[list[Event]]:
        batch: list[Event] = []
        seen = False
        with self.path.open("rb") as raw:
            for line in self._lines(raw):
                self.bytes_read = raw.tell()
                try:
                    event = json.loads(line)
                    batch += self._events(event)
                    seen = True
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    self.skipped += 1
                if len(batch) >= _MOST_AT_ONCE:
                    yield batch
                    batch = []
        if not seen:
            raise RecordError(f"{self.path}: no record of rcmgr, and no trace of go-libp2p")
        yield batch

    def _lines(self, raw: BinaryIO) -> Iterator[bytes]:
        """Lines up to the place where the file is cut."""
        with gzip.open(raw) as file:
            try:
                while line := file.readline(_LONGEST_LINE):
                    if line.strip():
                        yield line
            except (EOFError, zlib.error, OSError):
                self.cut.append(self.path)

    def _events(self, line: dict[str, Any]) -> Iterator[Event]:
        kind = line["Type"]
        if not isinstance(kind, str):
            raise TypeError(f"not a type: {kind!r:.40}")
        self._now = max(self._now, _wall_ns(line["Time"]))
        scope = line.get("Scope") or {}
        of, inbound = scope.get("Class"), _number(line, "DeltaIn") != 0
        if kind == "add_conn" and of == "conn":
            number = _id_of(scope, "Conn", line)
            self._unnamed[inbound][number] = None
            fd = FD if _number(line, "Delta") else 0
            yield self._event(kinds.CHARGE, inbound, number, flags=fd)
        elif kind == "add_conn" and of == "peer" and self._unnamed[inbound]:
            number, _ = self._unnamed[inbound].popitem(last=False)
            yield self._event(kinds.SET_PEER, inbound, number, peer=scope["Peer"], flags=KNOWN)
        elif kind == "add_stream" and of == "peer":
            self._peer = str(scope["Peer"])
        elif kind == "add_stream" and of == "stream" and self._peer is not None:
            number = _id_of(scope, "Stream", line)
            self._streams.setdefault(self._peer, []).append(number)
            self._peer_of[number] = self._peer
            yield self._event(kinds.OPEN_STREAM, inbound, number, peer=self._peer)
        elif kind == "add_stream" and of in ("protocol-peer", "service-peer"):
            yield from self._name(of, scope)
        elif kind in ("reserve_memory", "release_memory") and of in ("conn", "stream"):
            yield from self._move(of, scope, line)
        elif kind == "destroy_scope" and of in ("conn", "stream"):
            yield from self._end(of, scope, line)
        elif kind.startswith("block_"):
            yield from self._block(kind, of, scope, line, inbound)

    def _name(self, of: str, scope: dict[str, Any]) -> Iterator[Event]:
        peer = str(scope["Peer"])
        waiting, kind, key = (
            (self._streams, kinds.PROTOCOL, "Protocol") if of == "protocol-peer"
            else (self._named, kinds.SERVICE, "Service"))
        if waiting.get(peer):
            number = waiting[peer].pop()
            if kind == kinds.PROTOCOL:
                self._named.setdefault(peer, []).append(number)
            yield self._event(kind, False, number, name=str(scope[key]), flags=KNOWN)

    def _move(self, of: str, scope: dict[str, Any], line: dict[str, Any]) -> Iterator[Event]:
        number, size = _id_of(scope, of.title(), line), abs(_number(line, "Delta"))
        taken = line["Type"] == "reserve_memory"
        if of == "conn":
            kind = kinds.CONN_MEMORY if taken else kinds.GIVE_CONN_MEMORY
        else:
            kind = kinds.STREAM_MEMORY if taken else kinds.GIVE_STREAM_MEMORY
        yield self._event(
            kind, False, number, value=size, detail=_number(line, "Priority") & 255, flags=KNOWN)

    def _end(self, of: str, scope: dict[str, Any], line: dict[str, Any]) -> Iterator[Event]:
        number = _id_of(scope, of.title(), line)
        if of == "conn":
            for waiting in self._unnamed.values():
                waiting.pop(number, None)
            yield self._event(kinds.CLOSE, False, number, flags=KNOWN)
            return
        peer = self._peer_of.pop(number, None)
        for lists in (self._streams, self._named):
            numbers = lists.get(peer or "")
            if numbers and number in numbers:
                numbers.remove(number)
            if numbers == [] and peer is not None:
                del lists[peer]
        yield self._event(kinds.CLOSE_STREAM, False, number, flags=KNOWN)

    def _block(
        self, kind: str, of: str | None, scope: dict[str, Any], line: dict[str, Any], inbound: bool
    ) -> Iterator[Event]:
        """A refusal. The file does not say who asked."""
        name = _CLASSES.get(of or "", "system")
        direction = "inbound" if inbound else "outbound"
        if kind == "block_add_conn":
            yield self._event(
                kinds.CHARGE, inbound, 0, flags=FD if _number(line, "Delta") else 0,
                code=f"connection.{name}.conns_{direction}")
        elif kind == "block_add_stream":
            peer = scope.get("Peer") or self._peer
            yield self._event(
                kinds.OPEN_STREAM, inbound, 0, peer=peer,
                code=f"stream.{name}.streams_{direction}")
        else:
            yield self._event(kinds.PROCESS, False, 0, code=f"memory.{name}.memory")

    def _event(
        self, kind: int, inbound: bool, number: int, *, peer: Any = None, name: str = "",
        code: str | None = None, value: int = 0, detail: int = 0, flags: int = 0,
    ) -> Event:
        if peer is not None:
            peer = str(peer)
            flags |= 8
        if code is not None:
            flags |= 4
        return (
            kind, flags | (INBOUND if inbound else 0), self._now, number, peer, None, name, "",
            code, value, detail)


# the class of a scope, as codes have it
_CLASSES: Final = {
    "system": "system", "transient": "transient", "allowlistedSystem": "allowlisted_system",
    "allowlistedTransient": "allowlisted_transient", "service": "service", "protocol": "protocol",
    "peer": "peer", "service-peer": "service_peer", "protocol-peer": "protocol_peer",
    "conn": "conn", "stream": "stream",
}


def _number(line: dict[str, Any], key: str) -> int:
    value = line.get(key, 0)
    if not isinstance(value, int) or abs(value) >= 1 << 62:
        raise ValueError(f"{key} is no number: {value!r:.40}")
    return value


def _id_of(scope: dict[str, Any], key: str, line: dict[str, Any]) -> int:
    """The number of a connection or stream. Go writes "conn-7", or 7."""
    value = scope.get(key) or line.get("Name") or scope.get("Name")
    if isinstance(value, int):
        return value & 0xFFFFFFFF
    match = re.fullmatch(r"(?:conn|stream)-(\d{1,18})", str(value))
    if match is None:
        raise ValueError(f"not a scope of a {key}: {value!r:.40}")
    return int(match[1]) & 0xFFFFFFFF
