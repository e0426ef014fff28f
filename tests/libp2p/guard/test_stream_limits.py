"""The shares of streams that a hardened host keeps for itself and for each peer."""

from __future__ import annotations

import pytest

from rcmgr import ConcreteLimits, Limit
from rcmgr.libp2p.guard.stream_limits import _with_shares


@pytest.mark.parametrize(("streams", "inbound", "of_a_peer"), [
    (10_000, 8750, 4375), (80, 70, 35), (9, 8, 4), (8, 7, 4), (3, 2, 1), (2, 1, 1), (1, 1, 1),
    (0, 0, 0), (None, None, None)])
def test_one_in_eight_is_the_hosts_and_half_of_the_others_is_a_peers(
    streams: int | None, inbound: int | None, of_a_peer: int | None
) -> None:
    limits = _with_shares(ConcreteLimits(system=Limit(streams=streams)))
    assert limits.system == Limit(streams=streams, streams_inbound=inbound)
    assert limits.peer_default == Limit(streams_inbound=of_a_peer)


def test_shares_that_the_limits_set_stay() -> None:
    limits = ConcreteLimits(
        system=Limit(streams=9, streams_inbound=9), peer_default=Limit(streams=3))
    assert _with_shares(limits) == limits
