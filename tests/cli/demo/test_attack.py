"""The target of an attack is on loopback."""

from __future__ import annotations

import pytest

from rcmgr.cli.demo.attack import target_of
from rcmgr.cli.demo.visit import Visit, check_loopback

PEER = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"


def test_no_visitor_goes_beyond_loopback() -> None:
    for host in ("192.0.2.1", "8.8.8.8", "localhost", "", "::ffff:192.0.2.1"):
        with pytest.raises(ValueError, match="only loopback may be attacked"):
            Visit(host, 4001, PEER)
        with pytest.raises(ValueError, match="only loopback may be attacked"):
            check_loopback(host)
    Visit("127.0.0.1", 4001, PEER)
    assert target_of(f"/ip4/127.9.9.9/tcp/4001/p2p/{PEER}").host == "127.9.9.9"


@pytest.mark.parametrize("address", [
    f"/ip6/::1/tcp/4001/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/4001/ws/p2p/{PEER}",
    f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{PEER}", "/ip4/127.0.0.1/tcp/4001",
])
def test_the_attackers_speak_only_tcp_over_ipv4(address: str) -> None:
    with pytest.raises(ValueError, match="ADDRESS must be TCP over IPv4"):
        target_of(address)
