"""Numbers beyond 64 bits: peers announce them, and people write them for "no limit"."""

from __future__ import annotations

import pytest

from rcmgr import MemoryReservationExceeded, ResourceLimits, ResourceManager


@pytest.mark.parametrize("size", [2**63 - 1, 2**63, 2**200])
def test_a_reservation_beyond_64_bits_is_denied_like_any_other(size: int) -> None:
    manager = ResourceManager(ResourceLimits(max_memory_mb=1))
    assert manager.acquire_memory(1)
    assert manager.acquire_memory(size) is False
    denial = manager.last_denial
    assert isinstance(denial, MemoryReservationExceeded)
    assert (denial.requested, denial.current) == (min(size, 2**63 - 1), 1)
    assert manager.get_stats()["memory_bytes"] == 1


@pytest.mark.parametrize("size", [1.5, "1", None])
def test_a_size_that_is_not_an_int_raises(size: object) -> None:
    manager = ResourceManager()
    with pytest.raises(TypeError):
        manager.acquire_memory(size)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        manager.release_memory(size)  # type: ignore[arg-type]
    assert manager.get_stats()["memory_bytes"] == 0


def test_limits_beyond_64_bits_limit_nothing() -> None:
    manager = ResourceManager(
        ResourceLimits(max_connections=2**70, max_memory_mb=2**70, max_streams=2**70)
    )
    assert manager.acquire_memory(2**40)
    assert manager.acquire_stream(b"peer", "inbound")
    assert manager.open_connection(b"peer") is not None
