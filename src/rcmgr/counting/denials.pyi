import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Literal, NamedTuple, Protocol, final

from rcmgr.counting.event_ring import EventRing
from rcmgr.errors import ResourceLimitExceeded

__all__ = ["DenialEntry", "DenialLog", "DenialSummary"]

class _Refusal(Protocol):
    def __bool__(self) -> Literal[False]: ...
    @property
    def code(self) -> str: ...
    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> ResourceLimitExceeded: ...

class _Penalties(Protocol):
    def denied(
        self, refusal: object, peer: Hashable | None, address: object
    ) -> None: ...

class DenialEntry(NamedTuple):
    error: ResourceLimitExceeded
    seconds_ago: float
    inbound: bool | None

class DenialSummary(NamedTuple):
    error: ResourceLimitExceeded
    times: int
    seconds: float
    address: str | None
    times_at_address: int

@final
class DenialLog:
    penalties: _Penalties | None
    ring: EventRing | None
    def __new__(
        cls,
        size: int = 256,
        *,
        clock: Callable[[], int] | None = None,
        enforced: bool = True,
    ) -> DenialLog: ...
    @property
    def enforced(self) -> bool: ...
    @property
    def total(self) -> int: ...
    @property
    def inbound(self) -> int: ...
    @property
    def outbound(self) -> int: ...
    def add(
        self,
        refusal: _Refusal,
        connection_id: Hashable | None = None,
        peer_id: Hashable | None = None,
        inbound: bool | None = None,
        address: object = None,
    ) -> None: ...
    def report_to(
        self,
        logger: logging.Logger,
        summarize: Callable[[DenialSummary], object],
        each: Callable[[ResourceLimitExceeded], object],
    ) -> None: ...
    def flush(self) -> None: ...
    def of_connection(self, connection_id: Hashable) -> list[ResourceLimitExceeded]: ...
    def by_code(self) -> dict[str, int]: ...
    def most_denied(self, count: int = 10) -> list[tuple[Hashable, int]]: ...
    def most_denied_addresses(self, count: int = 10) -> list[tuple[str, int]]: ...
    @property
    def last(self) -> ResourceLimitExceeded | None: ...
    def entries(self) -> list[DenialEntry]: ...
    def latest_entries(self, count: int) -> list[DenialEntry]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ResourceLimitExceeded]: ...

def times_of(pair: tuple[Hashable, object]) -> int: ...
def total_of(pair: tuple[Hashable, object]) -> int: ...
