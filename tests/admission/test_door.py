"""Connections at the door: accepted in batches, asked about, and hung up on. Real sockets."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rcmgr.admission.door import CAN_ACCEPT, AcceptedSocket, Door, accept
from rcmgr.counting.token_bucket import TokenBucket

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not CAN_ACCEPT, reason="this system accepts elsewhere")


class Listening:
    """A listener that does not block, and its clients."""

    def __init__(self, stack: ExitStack, family: int, host: str) -> None:
        self._stack = stack
        self._family = family
        self.socket = stack.enter_context(socket.socket(family))
        self.socket.bind(socket.getaddrinfo(host, 0, family)[0][4])
        self.socket.listen(50)
        self.socket.setblocking(False)

    def client(self) -> socket.socket:
        made = self._stack.enter_context(socket.socket(self._family))
        made.settimeout(10)
        made.connect(self.socket.getsockname())
        return made

    def accepted(self) -> AcceptedSocket:
        found = accept(self.socket.fileno())  # loopback: it waits since `connect` returned
        assert found is not None
        return found


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def listening(request: pytest.FixtureRequest) -> Iterator[Listening]:
    with ExitStack() as stack:
        try:
            yield Listening(stack, *request.param)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            pytest.skip("no IPv6 here")


def ends(client: socket.socket) -> str:
    try:
        return "closed" if client.recv(1) == b"" else "data"
    except ConnectionResetError:
        return "reset"


def link_local() -> tuple[str, int] | None:
    """An address that needs its interface, as sockets name it: "fe80::1%eth0"; and the interface.
    """
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for address, index, _, scope, flags, name in (line.split() for line in lines):
        if scope == "20" and not int(flags, 16) & 0x48:  # tentative, or a duplicate
            return f"{ipaddress.IPv6Address(bytes.fromhex(address))}%{name}", int(index, 16)
    return None


def test_an_address_of_one_interface_has_its_scope() -> None:
    found = link_local()
    if found is None:
        pytest.skip("no interface has a link-local address")
    host, scope = found
    with ExitStack() as stack:
        listening = Listening(stack, socket.AF_INET6, host)
        client = listening.client()
        accepted = listening.accepted()
        assert accepted.ip == client.getsockname()[0] == host.partition("%")[0]
        assert accepted.address == client.getsockname()
        assert accepted.address[3] == scope
        accepted.close()


def test_an_accepted_socket_is_that_of_the_standard_library(listening: Listening) -> None:
    assert accept(listening.socket.fileno()) is None
    client = listening.client()
    found = listening.accepted()
    assert found.address == client.getsockname()
    assert found.ip == client.getsockname()[0]
    assert found.getpeername() == client.getsockname()
    assert found.getsockname() == client.getpeername()
    assert found.fileno() >= 0
    assert not os.get_inheritable(found.fileno())
    assert repr(found).startswith("AcceptedSocket(('")
    number = found.fileno()
    with found.detach() as detached:
        assert detached.fileno() == number
        assert detached.family == listening.socket.family
        assert not detached.getblocking()
        assert found.fileno() == -1
        client.sendall(b"x")
        client.close()
        detached.setblocking(True)
        assert detached.recv(2) == b"x"


def test_hanging_up(listening: Listening) -> None:
    ways: dict[str, Callable[[AcceptedSocket], Any]] = {
        "closed": AcceptedSocket.close, "reset": AcceptedSocket.reset}
    for end, way in ways.items():
        client = listening.client()
        found = listening.accepted()
        way(found)
        assert ends(client) == end
        assert found.fileno() == -1
        for again in ways.values():
            again(found)
        assert found.peek() == b""
        for ask in (found.detach, found.getsockname, found.getpeername):
            with pytest.raises(OSError, match="Bad file descriptor"):
                ask()
    client = listening.client()
    listening.accepted()  # dropped
    assert ends(client) == "closed"


def test_a_second_close_leaves_a_reused_descriptor_alone(listening: Listening) -> None:
    listening.client()
    found = listening.accepted()
    number = found.fileno()
    found.close()
    reading, writing = os.pipe()
    try:
        assert number in (reading, writing)
        found.close()
        found.reset()
        del found
        os.write(writing, b"x")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_connection_that_python_cannot_wrap_is_closed(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = listening.client()
    found = listening.accepted()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found.detach()
    assert found.fileno() == -1
    assert ends(client) == "closed"


def test_a_peek_reads_nothing(listening: Listening) -> None:
    client = listening.client()
    found = listening.accepted()
    assert found.peek() is None
    client.sendall(b"\0data")
    assert found.peek() == found.peek() == b"\0"
    with found.detach() as detached:
        assert detached.recv(5) == b"\0data"


def test_a_bare_one_is_closed() -> None:
    for made in (AcceptedSocket(), AcceptedSocket.__new__(AcceptedSocket)):
        assert made.fileno() == -1
        assert made.peek() == b""
        made.close()
        made.reset()


def test_errors_of_accept(listening: Listening) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        accept(-1)
    reading, writing = os.pipe()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)):
        accept(reading)
    os.close(reading)
    os.close(writing)


def test_without_descriptors_a_connection_waits(listening: Listening) -> None:
    client = listening.client()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    door = Door()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            door.next(listening.socket, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found, has_more = door.next(listening.socket, 8)
    assert found is not None
    assert found[0].address == client.getsockname()
    assert has_more


def test_a_door_refuses_until_one_is_let_in(listening: Listening) -> None:
    clients = [listening.client() for _ in range(5)]
    asked: list[str] = []
    refused: list[AcceptedSocket] = []

    def ask(ip: str) -> str | None:
        asked.append(ip)
        return "handle" if len(asked) == 3 else None

    def refuse(socket: AcceptedSocket) -> None:
        refused.append(socket)
        socket.reset()

    door = Door()
    door.ask, door.refuse = ask, refuse
    found, has_more = door.next(listening.socket, 10)
    assert found is not None
    assert found[0].address == clients[2].getsockname()
    assert found[1] == "handle"
    assert has_more
    assert door.next(listening.socket, 1) == (None, True)  # as many as it may
    assert door.next(listening.socket, 10) == (None, False)
    assert asked == [clients[0].getsockname()[0]] * 5
    assert door.turned_away == 4
    assert [each.address for each in refused] == [
        clients[i].getsockname() for i in (0, 1, 3, 4)]
    assert [ends(clients[i]) for i in (0, 1, 3, 4)] == ["reset"] * 4


def test_a_door_hangs_up_itself(listening: Listening) -> None:
    door = Door()
    door.ask = lambda ip: None
    clients = [listening.client() for _ in range(2)]
    assert door.next(listening.socket, 10) == (None, False)
    assert [ends(each) for each in clients] == ["closed"] * 2
    door.goodbyes = TokenBucket(1, 1e-6)
    clients = [listening.client() for _ in range(3)]
    assert door.next(listening.socket, 10) == (None, False)
    assert [ends(each) for each in clients] == ["closed", "reset", "reset"]
    assert door.turned_away == 5


def test_without_a_question_all_are_let_in(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    listening.client()
    found, _ = Door().next(listening.socket, 1)
    assert found is not None
    assert found[1] is None
    assert not caplog.records


def test_those_that_wait_are_not_asked_about(listening: Listening) -> None:
    clients = [listening.client() for _ in range(2)]
    kept: list[AcceptedSocket] = []
    door = Door()
    door.ask = lambda ip: pytest.fail("asked")

    def wait(socket: AcceptedSocket) -> bool:
        kept.append(socket)
        return True

    door.wait = wait
    assert door.next(listening.socket, 9) == (None, False)
    assert [each.address for each in kept] == [each.getsockname() for each in clients]
    assert door.turned_away == 0


def test_those_that_are_gone_are_dropped(listening: Listening) -> None:
    for _ in range(2):
        listening.client().close()
    here = listening.client()
    here.sendall(b"x")
    door = Door()
    found, _ = door.next(listening.socket, 9)
    assert found is not None  # not dropped by default
    door.drops_gone = True
    found, _ = door.next(listening.socket, 9)
    assert found is not None
    assert found[0].address == here.getsockname()
    assert door.turned_away == 1


def test_one_that_only_ended_its_side_is_reset(listening: Listening) -> None:
    client = listening.client()
    client.shutdown(socket.SHUT_WR)
    door = Door()
    door.drops_gone = True
    assert door.next(listening.socket, 1) == (None, True)
    assert ends(client) == "reset"


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("where", ["ask", "wait", "refuse"])
def test_a_failing_function_lets_in(
    listening: Listening, caplog: pytest.LogCaptureFixture, where: str, closes: bool
) -> None:
    """Unless the socket is closed by then."""
    client = listening.client()
    door = Door()

    def fail(what: Any) -> None:
        if closes and isinstance(what, AcceptedSocket):
            what.close()
        raise ValueError("a user's function")

    door.ask = lambda ip: None
    setattr(door, where, fail)
    with caplog.at_level(logging.ERROR):
        found, _ = door.next(listening.socket, 1)
    assert f"asking for a connection from {client.getsockname()!r} failed" in caplog.text
    assert "a user's function" in caplog.text
    if closes and where != "ask":
        assert found is None
        assert ends(client) == "closed"
    else:
        assert found is not None
        assert found[1] is None


def test_an_exit_is_no_failure(listening: Listening) -> None:
    client = listening.client()
    door = Door()

    def leave(ip: str) -> None:
        raise KeyboardInterrupt

    door.ask = leave
    with pytest.raises(KeyboardInterrupt):
        door.next(listening.socket, 1)
    assert ends(client) == "closed"


def test_the_listener_is_closed_in_mid_batch(listening: Listening) -> None:
    """Its number may belong to another listener by then, whose connections are not ours."""
    for _ in range(3):
        listening.client()
    other = socket.create_server(("127.0.0.1", 0))
    door = Door()

    def refuse(accepted: AcceptedSocket) -> None:
        accepted.close()
        number = listening.socket.fileno()
        listening.socket.close()
        os.dup2(other.fileno(), number)

    door.ask, door.refuse = (lambda ip: None), refuse
    number = listening.socket.fileno()
    visitor = socket.create_connection(other.getsockname())
    with pytest.raises(OSError, match="Bad file descriptor"):
        door.next(listening.socket, 3)
    assert door.turned_away == 1
    accepted, address = other.accept()
    assert address == visitor.getsockname()
    for each in (accepted, visitor, other):
        each.close()
    os.close(number)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_descriptor_0_is_a_connection_too(listening: Listening) -> None:
    """Programs that close their standard input get it."""
    def fail(accepted: AcceptedSocket) -> bool:
        assert accepted.fileno() == 0
        raise ValueError

    ways: list[Callable[[AcceptedSocket], Any]] = [
        AcceptedSocket.close, AcceptedSocket.reset, AcceptedSocket.__dir__]
    clients = [listening.client() for _ in range(5)]
    clients[3].sendall(b"x")
    child = os.fork()
    if child == 0:
        try:
            os.close(0)
            for way in ways:
                found = listening.accepted()
                assert found.fileno() == 0
                way(found)
                del found  # the last one is dropped open
            found = listening.accepted()
            assert (found.fileno(), found.peek()) == (0, b"x")
            assert found.getpeername() == clients[3].getsockname()
            found.detach().close()
            door = Door()
            door.wait = fail
            logging.disable()
            assert door.next(listening.socket, 1)[0] is not None
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_drops_only_its_copy(listening: Listening) -> None:
    client = listening.client()
    found = listening.accepted()
    child = os.fork()
    if child == 0:
        del found
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with found.detach() as ours:
        ours.setblocking(True)
        ours.sendall(b"x")
        assert client.recv(1) == b"x"
    assert ends(client) == "closed"
