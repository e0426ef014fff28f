from typing import Generic, TypeVar, final

from rcmgr.limits.networks import Network

__all__ = ["PrefixTable"]

T = TypeVar("T")

@final
class PrefixTable(Generic[T]):
    def set(self, network: Network, value: T) -> None: ...
    def remove(self, network: Network) -> None: ...
    def longest(self, ip: bytes) -> tuple[int, T] | None: ...
    def matching(self, ip: bytes) -> list[tuple[int, T]]: ...
