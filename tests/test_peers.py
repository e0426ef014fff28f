"""One key for one peer: `ID`, bytes and every text that libp2p has for it."""

from __future__ import annotations

import base64
from typing import Any

import base58
import pytest

from rcmgr.peers import peer_from_any, peer_key, peer_text

PEERS = {
    "sha2-256": b"\x12\x20" + bytes(range(32)),
    "ed25519": b"\x00\x24\x08\x01\x12\x20" + bytes(range(100, 132)),
    "secp256k1": b"\x00\x25\x08\x02\x12\x21" + bytes(range(3, 36)),
}


class ID:
    """As py-libp2p's: its bytes are in `_bytes`."""

    def __init__(self, value: bytes) -> None:
        self._bytes = value


def base36(value: bytes) -> str:
    number, digits = int.from_bytes(value, "big"), ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return "0" * (len(value) - len(value.lstrip(b"\0"))) + digits


def texts(peer: bytes) -> list[str]:
    found = [base58.b58encode(peer).decode()]
    for value in (peer, b"\x01\x72" + peer):
        base32 = base64.b32encode(value).decode().rstrip("=").lower()
        found += [f"b{base32}", f"k{base36(value)}", f"z{base58.b58encode(value).decode()}"]
    return found


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_every_name_of_a_peer_gives_its_bytes(peer: bytes) -> None:
    for text in texts(peer):
        assert peer_key(text) == peer_from_any(text) == peer
    identity = ID(peer)
    assert peer_key(identity) is peer_key(peer) is peer
    assert peer_from_any(identity) is identity
    assert peer_text(peer) == texts(peer)[0]


def test_the_example_of_the_peer_id_specification() -> None:
    text = "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe"
    assert peer_text(peer_key(text)) == "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


def test_text_that_is_no_peer_id_is_its_own_key() -> None:
    sha = PEERS["sha2-256"]
    no_peers = [
        "", "friend", "x" * 60, "Qm" + "0" * 44, "12D3Koo" + "l" * 45, "b" + "1" * 58,
        "k" + "-" * 58, "z" + "0" * 48, "b" + "a" * 58,
        # digits of Python, not of base36
        "k-" + "1" * 57, f"k+{texts(sha)[2][1:]}", f"k{texts(sha)[2][1:3]}_{texts(sha)[2][3:]}",
        *[text for value in (sha[:-1], sha + b"1", b"\x01\x71" + sha, b"\x00\x09" + sha[2:])
          for text in texts(value)[1:]],
        texts(sha)[1] * 2,
    ]
    for text in no_peers:
        assert peer_key(text) is peer_from_any(text) is text


@pytest.mark.parametrize("key", [7, ("a", 1), None, frozenset()])
def test_other_keys_are_themselves(key: Any) -> None:
    assert peer_key(key) is peer_from_any(key) is key
    assert peer_text(key) == str(key)
