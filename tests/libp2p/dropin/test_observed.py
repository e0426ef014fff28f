"""Objects that report every change of an attribute."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest

from rcmgr.libp2p.dropin._observed import Observed


class Limits(Observed):
    def __init__(self) -> None:
        self.most = 1


class Reader:
    """Reads the limits after each change."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.seen: list[int] = []
        limits.observe(self.read)

    def read(self) -> None:
        self.seen.append(self.limits.most)


def test_every_observer_is_called_after_each_change() -> None:
    limits = Limits()
    readers = [Reader(limits), Reader(limits)]
    limits.most = 2
    limits.most = 3
    assert [reader.seen for reader in readers] == [[2, 3], [2, 3]]


def test_an_observer_that_is_gone_is_not_called() -> None:
    limits = Limits()
    seen = Reader(limits).seen
    gc.collect()
    limits.most = 2
    assert seen == []
    Reader(limits)
    assert len(limits._observers) == 1


@pytest.mark.parametrize("how", [
    copy.copy, copy.deepcopy, lambda limits: pickle.loads(pickle.dumps(limits))])
def test_a_copy_has_no_observers(how: object) -> None:
    limits = Limits()
    reader = Reader(limits)
    copied = how(limits)  # type: ignore[operator]
    copied.most = 2
    assert reader.seen == []
    assert vars(copied) == {"most": 2}
