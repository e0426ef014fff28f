"""Guards before the stream handlers of a host, on a host without sockets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rcmgr.libp2p import Libp2pMismatch, guard_handlers


class Stream:
    was_reset = False

    async def reset(self) -> None:
        self.was_reset = True


def host_with(**handlers: Any) -> Any:
    return SimpleNamespace(multiselect=SimpleNamespace(handlers=handlers))


async def test_guards_are_asked_in_order_until_one_refuses() -> None:
    calls: list[str] = []

    async def handler(stream: Any) -> None:
        calls.append("handler")

    def guard(name: str, answer: bool) -> Any:
        def ask(protocol: str, stream: Any) -> bool:
            calls.append(f"{name} {protocol}")
            return answer

        return ask

    host = host_with(echo=handler)
    first = guard_handlers(host, guard("first", True))
    second = guard_handlers(host, guard("second", False))
    third = guard_handlers(host, guard("third", True))
    host.multiselect.handlers["late"] = handler
    stream = Stream()
    await host.multiselect.handlers["echo"](stream)
    assert (calls, stream.was_reset) == (["first echo", "second echo"], True)
    calls.clear()
    second.undo()
    second.undo()
    await host.multiselect.handlers.get("late")(Stream())
    assert calls == ["first late", "third late", "handler"]
    assert host.multiselect.handlers.get("absent", 5) == 5
    first.undo()
    third.undo()
    third.undo()
    assert type(host.multiselect.handlers) is dict
    assert host.multiselect.handlers == {"echo": handler, "late": handler}


def test_a_protocol_without_handler_has_no_guard() -> None:
    host = host_with(echo=None)
    guard_handlers(host, lambda protocol, stream: True)
    assert host.multiselect.handlers["echo"] is None


@pytest.mark.parametrize("host", [
    SimpleNamespace(), SimpleNamespace(multiselect=SimpleNamespace(handlers=[]))])
def test_a_host_without_a_table_of_handlers(host: Any) -> None:
    with pytest.raises(Libp2pMismatch, match=r"no multiselect\.handlers"):
        guard_handlers(host, lambda protocol, stream: True)
