"""Sizes in bytes, as people write them."""

from __future__ import annotations

import pytest

from rcmgr.limits.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("7B", 7), ("1K", 1024), ("1KiB", 1024), ("1kb", 1000), ("3 MiB", 3 << 20),
     ("2G", 2 << 30), ("2gib", 2 << 30), ("2GB", 2 * 10**9), ("1TiB", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "GiB", "-1", "+1", "1.5GiB", "1 5", "1iB", "1XiB", "1e9", " 1G", "9" * 16,
             "\u0661G"])
def test_what_is_no_size(text: str) -> None:
    assert parse_size(text) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, 0), (1023, 1023), (1024, "1KiB"), (1536, 1536), (5 << 30, "5GiB"),
     (1536 << 20, "1536MiB"), (1 << 62, "4194304TiB"), (2**63 - 1024, 2**63 - 1024)])
def test_the_text_of_a_size(size: int, text: str | int) -> None:
    assert size_text(size) == text
    assert isinstance(text, int) or parse_size(text) == size
