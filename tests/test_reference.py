"""The reference pages of docs/ leave nothing out."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rcmgr import ConnectionLimitKind, errors

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="only in a checkout")

MODULES = [
    "rcmgr",
    pytest.param("rcmgr.libp2p", marks=pytest.mark.libp2p),
    "rcmgr.metrics",
    "rcmgr.otel",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_api_page_has_every_public_name_once(name: str) -> None:
    section = re.findall(
        rf"^\.\. currentmodule:: {re.escape(name)}$(.*?)^```", (DOCS / "api.md").read_text(),
        re.M | re.S)
    listed = re.findall(r"^\.\. auto(?:class|function|data):: (\w+)$", "".join(section), re.M)
    elsewhere = set(importlib.import_module("rcmgr").__all__) if name != "rcmgr" else set()
    assert sorted(listed) == sorted(set(importlib.import_module(name).__all__) - elsewhere)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_member_is_described(name: str) -> None:
    module = importlib.import_module(name)
    assert list(undocumented(module)) == []


def undocumented(module: ModuleType) -> Iterator[str]:
    """Members without a docstring that the docstrings of their class and its bases do not name."""
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            if callable(thing) and not thing.__doc__:
                yield name
            continue
        text = " ".join(
            each.__doc__ or "" for each in thing.__mro__ if each.__module__.startswith("rcmgr"))
        for member, value in vars(thing).items():
            value = getattr(value, "__func__", value)
            is_callable = callable(value) or inspect.isdatadescriptor(value)
            if member.startswith("_") or (is_callable and value.__doc__):
                continue
            if not re.search(rf"(?<!\w){member}(?!\w)", text):
                yield f"{name}.{member}"


def test_every_error_links_to_a_section_of_the_page_of_error_codes() -> None:
    titles = re.findall(r"^#+ (.*)", (DOCS / "error-codes.md").read_text(), re.M)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    kinds = [
        each for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.ResourceLimitExceeded)]
    assert len({each._section for each in kinds}) >= 8
    assert {each._section for each in kinds} <= anchors
    assert errors.ResourceLimitExceeded().documentation.endswith("docs/error-codes.md#error-codes")


def test_the_page_of_error_codes_has_every_code() -> None:
    codes = {f"connection.{kind.value}" for kind in ConnectionLimitKind}
    codes |= {
        each.code for each in vars(errors).values()
        if inspect.isclass(each) and isinstance(getattr(each, "code", None), str)}
    codes |= {"rate.address", "rate.peer", "rate.protocol"}
    page = (DOCS / "error-codes.md").read_text()
    assert len(codes) > 12
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []
    scopes = {"system", "transient", "allowlisted_system", "allowlisted_transient", "peer", "conn",
              "stream", "protocol", "protocol_peer", "service", "service_peer"}
    named = scopes | set(errors._LIMIT_FIELDS.values())
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []
