from typing import NamedTuple

__all__ = ["ScopeStat"]

class ScopeStat(NamedTuple):
    memory: int
    streams_inbound: int
    streams_outbound: int
    conns_inbound: int
    conns_outbound: int
    fd: int
