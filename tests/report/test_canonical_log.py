"""The lines for fail2ban: go-libp2p's form, for any text of a stranger."""

from __future__ import annotations

import logging

import pytest

from rcmgr.gates.penalties import Offence
from rcmgr.peers import peer_text
from rcmgr.report.canonical_log import CanonicalLog

PEER = b"\x12\x20" + b"p" * 32


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records]


@pytest.mark.parametrize(("address", "shown"), [
    ("192.0.2.1", "/ip4/192.0.2.1"), ("2001:db8::1", "/ip6/2001:db8::1"),
    ("/ip4/192.0.2.1/tcp/4001/p2p/x", "/ip4/192.0.2.1/tcp/4001/p2p/x"), (None, ""),
    ('/ip4/1.2.3.4/x y="\n\0', "/ip4/1.2.3.4/x?y????"), ("é" * 300, "é" * 200),
])
def test_a_line_for_a_ban(
    caplog: pytest.LogCaptureFixture, address: str | None, shown: str
) -> None:
    CanonicalLog().banned(PEER, address, Offence.HANDSHAKE)
    assert lines(caplog) == [("WARNING", (
        f"CANONICAL_MISBEHAVING_PEER: peer={peer_text(PEER)} addr={shown} component=rcmgr "
        'err="failed handshakes" msg="banned"'))]


def test_one_offence_in_a_hundred(caplog: pytest.LogCaptureFixture) -> None:
    log = CanonicalLog()
    with caplog.at_level(logging.INFO, "canonical-log"):
        for _ in range(250):
            log.offended(None, "192.0.2.1", Offence.HANDSHAKE)
        for _ in range(50):
            log.offended(PEER, "192.0.2.1", Offence.RATE)
        for _ in range(100):
            log.offended(PEER, None, Offence.RATE)
    status = "CANONICAL_PEER_STATUS: peer={} addr=/ip4/192.0.2.1 sample_rate=100 {}"
    failed = status.format("", (
        'handshake_failure="failed" dir="inbound" err="failed handshakes"'))
    denied = status.format(peer_text(PEER), (
        'connection_status="denied" dir="inbound" err="too many requests"'))
    assert lines(caplog) == [("INFO", failed), ("INFO", failed), ("INFO", denied)]


def test_the_hundredth_offence_is_the_first_line(caplog: pytest.LogCaptureFixture) -> None:
    log = CanonicalLog()
    with caplog.at_level(logging.INFO, "canonical-log"):
        for _ in range(99):
            log.offended(None, "192.0.2.1", Offence.HANDSHAKE)
        assert lines(caplog) == []
        log.offended(None, "192.0.2.1", Offence.HANDSHAKE)
        assert len(lines(caplog)) == 1


def test_offences_are_not_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    log = CanonicalLog()
    for _ in range(1000):
        log.offended(None, "192.0.2.1", Offence.HANDSHAKE)
    assert lines(caplog) == []


@pytest.mark.parametrize(("text", "quoted"), [
    ("plain", '"plain"'), ('a"b\\c', r'"a\"b\\c"'), ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
    ("\x00\x7f", r'"\x00\x7f"'), ("é\u200b", r'"é\u200b"'), ("\U000e0001", r'"\U000e0001"'),
])
def test_quotes_as_go(text: str, quoted: str) -> None:
    """The right side is what go's fmt prints for %q."""
    from rcmgr.report.canonical_log import _quoted

    assert _quoted(text) == quoted
