"""Every section and key of a limits file is described, in comments and in the docs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from rcmgr.limits import node, scope_values
from rcmgr.limits.descriptions import KEYS, LIMITS, RATE, SECTIONS
from rcmgr.limits.rates import Rate
from rcmgr.limits.sections import key_of

PAGE = Path(__file__).parents[2] / "docs" / "limits-file.md"


def test_there_is_a_description_of_each_section_and_key() -> None:
    ours = {section.key: section.kind for section in node.SECTIONS}
    assert set(SECTIONS) == {*scope_values.SCOPES, *scope_values.MAPPINGS, *ours}
    assert list(LIMITS) == list(scope_values.FIELDS)
    assert {key: list(KEYS[key]) for key in ours} == {
        key: [key_of(each) for each in fields(kind)] for key, kind in ours.items()}
    assert list(RATE) == [each.name for each in fields(Rate)]
    assert list(KEYS) == list(ours)


@pytest.mark.skipif(not PAGE.exists(), reason="only in a checkout")
def test_the_page_describes_each_section_and_key() -> None:
    heading, rows = "", set()
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# `[]")
        found = re.match(r"\| `([^`]+)` \| (.*?) \|", line)
        if found:
            rows.add((heading, *found.groups()))
    expected = {
        *(("Scopes", key, text) for key, text in SECTIONS.items() if key not in KEYS),
        *(("Keys of scopes", key, text) for key, text in LIMITS.items()),
        *(("Keys of a rate", key, text) for key, text in RATE.items()),
        *((section, key, text) for section, keys in KEYS.items() for key, text in keys.items()),
    }
    assert expected - rows == set()
    page = PAGE.read_text()
    assert all(f"{SECTIONS[section][1:]}. Python: `" in page for section in KEYS)
