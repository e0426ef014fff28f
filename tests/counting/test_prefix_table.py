"""Values by network: the prefix of an address is exact at every length. Threads lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threads import in_threads

from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.limits.networks import Network, prefix_of

IPS = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(IPS, st.data())
def test_a_prefix_is_that_of_the_limits(ip: bytes, data: st.DataObject) -> None:
    bits = data.draw(st.integers(0, 8 * len(ip)))
    table: PrefixTable[str] = PrefixTable()
    table.set(Network(prefix_of(ip, bits), bits, len(ip) == 4), "value")
    assert table.longest(ip) == (bits, "value")
    assert table.matching(ip) == [(bits, "value")]
    other = bytes(20 - len(ip))
    assert table.longest(other) is None  # the other family


def test_an_address_of_another_size() -> None:
    table: PrefixTable[str] = PrefixTable()
    table.set(Network.parse("2001:db8::/32"), "value")
    table.set(Network.parse("10.0.0.0/8"), "value")
    for size in (0, 2, 17, 100):
        with pytest.raises(ValueError, match=f"4 or 16 bytes, not {size}"):
            table.longest(b"\xff" * size)
    with pytest.raises(TypeError):
        table.longest("10.0.0.1")  # type: ignore[arg-type]


def test_threads() -> None:
    """Each thread sets and removes networks of lengths that it shares with others."""
    table: PrefixTable[int] = PrefixTable()

    def change(number: int) -> None:
        for turn in range(500):
            network = Network.parse(f"10.{number}.{turn % 7}.0/{24 - turn % 2}")
            table.set(network, number)
            assert (network.bits, number) in table.matching(network.prefix.ljust(4, b"\0"))
            table.remove(network)

    in_threads(change, 4)
    assert table.matching(b"\x0a\0\0\0") == []
