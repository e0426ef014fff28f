"""The events of a record, one after the other, with the tables that their numbers point into."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, Final

from rcmgr.record.frames import (
    CONN,
    DETAIL,
    HAS_ADDRESS,
    HAS_PEER,
    KNOWN,
    NAME,
    NEEDS,
    OTHER,
    REFUSED,
    STREAM,
    VALUE,
    Frame,
    Header,
    addresses_of,
)

__all__ = ["EXEMPT", "INBOUND", "OPENS", "Tables"]

INBOUND: Final = 1
EXEMPT: Final = 2
FD: Final = 64
BY_BOX: Final = 64

# kinds of events, in the order of event_columns.h
(
    BEGIN, ESTABLISH, REPORT, TAKE_OVER, ACQUIRE, CHARGE, SET_PEER, NO_FD, CLOSE, OPEN_STREAM,
    PROTOCOL, SERVICE, CLOSE_STREAM, TAKE_STREAM, GIVE_STREAM, FORGET, FORGET_ALL, CONN_MEMORY,
    STREAM_MEMORY, MEMORY, GIVE_CONN_MEMORY, GIVE_STREAM_MEMORY, GIVE_MEMORY, PROCESS, RATE,
    OFFENCE, BAN, UNBAN, EVICT, SETTINGS,
) = range(1, len(NEEDS))
OPENS: Final = frozenset((BEGIN, ESTABLISH, REPORT, ACQUIRE, CHARGE))
"""The kinds that may be about a new connection."""

Event = tuple[int, int, int, int, Any, Any, str, str, "str | None", int, int]
"""Kind, flags, time in ns, number, peer, address, name, other, code, value, detail."""

# by kind and flags: what an event needs, as bits
_NUMBER, _PEER, _ADDRESS, _NAME, _OTHER, _CODE, _VALUE, _DETAIL, _NEW, _OF_STREAM = (
    1 << bit for bit in range(10))


def _parts(kind: int, flags: int) -> int:
    needs = NEEDS[kind]
    parts = 0
    if needs & (CONN | STREAM) and (flags & KNOWN or not flags & REFUSED):
        parts |= _NUMBER | (0 if flags & KNOWN else _NEW) | (_OF_STREAM if needs & STREAM else 0)
    for has, part in (
        (flags & HAS_PEER, _PEER), (flags & HAS_ADDRESS, _ADDRESS), (needs & NAME, _NAME),
        (needs & OTHER, _OTHER), (flags & REFUSED, _CODE), (needs & VALUE, _VALUE),
        (needs & DETAIL, _DETAIL),
    ):
        parts |= part if has else 0
    return parts


_PARTS: Final = [[_parts(kind, flags) for flags in range(256)] for kind in range(len(NEEDS))]


def _numbers(column: bytes, code: str) -> Iterator[int]:
    return iter(struct.unpack(f"<{len(column) // struct.calcsize(code)}{code}", column))


class Tables:
    """The peers, addresses and names of the file that is read.

    A peer is the 8 bytes of its hash, or the peer itself. An address is text.
    """

    def __init__(self) -> None:
        self.peers: list[Any] = []
        self.addresses: list[str] = []
        self.names: list[str] = []

    def begin(self, header: Header) -> None:
        self.__init__()  # type: ignore[misc]

    def events(self, frame: Frame) -> Iterator[Event]:
        """The events of the next frame of the file. 0.5 us each.

        Numbers have 32 bits. The code of a granted request is None.
        """
        columns = frame.columns
        new_peers = columns[11]
        self.peers += frame.peers or (
            new_peers[at:at + 8] for at in range(0, len(new_peers), 8))
        self.addresses += (
            inet_ntop(AF_INET if len(ip) == 4 else AF_INET6, ip)
            for ip in addresses_of(columns[12]))
        self.names += frame.names
        peers, addresses, names, parts_of = self.peers, self.addresses, self.names, _PARTS
        numbers, of_peers, of_addresses = (_numbers(columns[at], "I") for at in (3, 4, 5))
        of_names, of_others, of_codes = (_numbers(columns[at], "H") for at in (6, 7, 8))
        values, details = _numbers(columns[9], "q"), iter(columns[10])
        conn, stream, time = frame.conn, frame.stream, frame.begin
        for kind, flags, passed in zip(
            columns[0], columns[1], _numbers(columns[2], "I"), strict=True
        ):
            time += 1000 * passed
            parts = parts_of[kind][flags]
            number = 0
            if parts & _NUMBER:
                number = next(numbers)
                if parts & _OF_STREAM:
                    if parts & _NEW:
                        stream = number = (stream + number) & 0xFFFFFFFF
                    else:
                        number = (stream - number) & 0xFFFFFFFF
                elif parts & _NEW:
                    conn = number = (conn + number) & 0xFFFFFFFF
                else:
                    number = (conn - number) & 0xFFFFFFFF
            yield (
                kind, flags, time, number,
                peers[next(of_peers)] if parts & _PEER else None,
                addresses[next(of_addresses)] if parts & _ADDRESS else None,
                names[next(of_names)] if parts & _NAME else "",
                names[next(of_others)] if parts & _OTHER else "",
                names[next(of_codes)] if parts & _CODE else None,
                next(values) if parts & _VALUE else 0,
                next(details) if parts & _DETAIL else 0,
            )
