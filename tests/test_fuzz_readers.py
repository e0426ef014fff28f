"""Readers of foreign bytes refuse with their documented errors. `make fuzz` runs it for longer."""

from __future__ import annotations

import random

import pytest
from fuzz_readers import READERS, corpus_of, fuzz

ROUNDS = 150


@pytest.mark.parametrize("reader", sorted(READERS))
def test_changed_inputs_break_no_promise(reader: str) -> None:
    corpus = corpus_of(reader)
    assert corpus, "tests/data/corpus has no inputs for this reader"
    for _ in fuzz(READERS[reader], corpus, random.Random(1), range(ROUNDS)):
        pass


def test_a_fault_that_only_a_changed_input_reaches_is_found() -> None:
    def read(data: bytes) -> None:
        if data.startswith(b"{") and b"null" in data:
            raise KeyError("a fault")

    with pytest.raises(AssertionError, match="the reader has a fault: KeyError"):
        list(fuzz(read, [b'{"System": 1}'], random.Random(1), range(5000)))
