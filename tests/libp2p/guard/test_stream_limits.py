"""The shares of streams that a hardened host keeps for itself and for each peer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rcmgr import DEFAULT_LIMITS, ConcreteLimits, Limit
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


@pytest.mark.parametrize("peer", [
    Limit(), Limit(streams=512, streams_inbound=256), Limit(streams=41), Limit(streams_inbound=99)])
@pytest.mark.parametrize("inbound", [None, 41, 1024])
def test_limits_that_cannot_be_reached_set_no_share(inbound: int | None, peer: Limit) -> None:
    """A file with `[System] Streams = 40` leaves the other defaults, which are higher."""
    limits = _with_shares(ConcreteLimits(
        system=Limit(streams=40, streams_inbound=inbound), peer_default=peer))
    assert limits.system.streams_inbound == 35
    assert limits.peer_default.streams_inbound == 18
    assert limits.peer_default.streams == peer.streams


def test_a_low_limit_on_inbound_streams_is_the_whole_that_peers_share() -> None:
    limits = _with_shares(ConcreteLimits(
        system=Limit(streams=40, streams_inbound=20), peer_default=Limit(streams=30)))
    assert limits.system.streams_inbound == 20
    assert limits.peer_default.streams_inbound == 10
    low = ConcreteLimits(
        system=Limit(streams=40, streams_inbound=20), peer_default=Limit(streams_inbound=20))
    assert _with_shares(low) == low


@pytest.mark.parametrize("memory", [1 << 30, 8 << 30, 64 << 30])
def test_the_default_limits_with_few_streams(memory: int) -> None:
    scopes = DEFAULT_LIMITS.scale(memory, 1024)
    few = replace(scopes, system=replace(scopes.system, streams=40))
    shares = _with_shares(few)
    assert shares.system.streams_inbound == 35
    assert shares.peer_default.streams_inbound == 18
