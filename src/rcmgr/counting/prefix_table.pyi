from typing import Generic, TypeVar, final

from rcmgr.limits.networks import Network

__all__ = ["PrefixTable"]

_T = TypeVar("_T")

@final
class PrefixTable(Generic[_T]):
    def set(self, network: Network, value: _T) -> None: ...
    def remove(self, network: Network) -> None: ...
    def longest(self, ip: bytes) -> tuple[int, _T] | None: ...
    def matching(self, ip: bytes) -> list[tuple[int, _T]]: ...
