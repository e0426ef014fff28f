"""Debian's fail2ban reads the lines that a node logged, with the filter in docs."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from rcmgr.gates.penalties import Offence
from rcmgr.report.canonical_log import CanonicalLog

FILTER = Path(__file__).parents[2] / "docs" / "fail2ban" / "libp2p.conf"
# the filter that libp2p's documentation gives to people who run go-libp2p
OF_LIBP2P = r"^.*[\t\s]CANONICAL_PEER_STATUS: .* addr=\/ip[46]\/<HOST>[^\s]*"
PEER = b"\x12\x20" + b"p" * 32

pytestmark = [
    pytest.mark.skipif(shutil.which("fail2ban-regex") is None, reason="fail2ban is not installed"),
    pytest.mark.skipif(not FILTER.exists(), reason="only in a checkout"),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A canonical log with offences of two addresses, and lines that a stranger tries to forge."""
    path = tmp_path / "canonical.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("canonical-log")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        canonical = CanonicalLog()
        canonical.banned(None, "198.51.100.7", Offence.HANDSHAKE)
        canonical.banned(PEER, "/ip6/2001:db8::7/tcp/4001", Offence.WINDOW)
        canonical.banned("x addr=/ip4/203.0.113.1 component=", None, Offence.WINDOW)
        canonical.banned(
            PEER, "/dns4/a\nCANONICAL_MISBEHAVING_PEER: peer= addr=/ip4/203.0.113.1 component=",
            Offence.WINDOW)
        for _ in range(200):
            canonical.offended(None, "198.51.100.7", Offence.HANDSHAKE)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
    return path


def found(log: Path, filter_: str) -> list[str]:
    run = subprocess.run(
        ["fail2ban-regex", "--out", "ip", str(log), filter_], text=True, capture_output=True,
        timeout=60, check=True)
    return sorted(run.stdout.split())


def test_the_filter_in_the_docs(log: Path) -> None:
    assert found(log, str(FILTER)) == ["198.51.100.7"] * 3 + ["2001:db8::7"]


def test_the_filter_of_libp2p(log: Path) -> None:
    assert found(log, OF_LIBP2P) == ["198.51.100.7"] * 2
