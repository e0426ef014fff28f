"""The receive window of a stream, on a class without sockets."""

from __future__ import annotations

import pytest
import trio

from rcmgr.libp2p import Libp2pMismatch
from rcmgr.libp2p.guard.bounded_muxers import _ReceiveWindow


class Stream:
    muxed_conn = None

    def __init__(self) -> None:
        self.recv_window = 10


def test_a_stream_may_use_its_window_and_no_more() -> None:
    early = Stream()
    window = _ReceiveWindow(Stream)
    for stream in (early, Stream()):
        stream.recv_window -= 10
        assert stream.recv_window == 0
        with pytest.raises(trio.TooSlowError):
            stream.recv_window -= 1
        stream.recv_window = 5
    window.undo()
    early.recv_window -= 6
    assert early.recv_window == -1


def test_a_class_that_has_the_attribute_already() -> None:
    class Other:
        recv_window = 0

    with pytest.raises(Libp2pMismatch, match=r"Other\.recv_window is not as in libp2p"):
        _ReceiveWindow(Other)
    assert Other.recv_window == 0
