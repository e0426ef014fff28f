from __future__ import annotations

from pathlib import Path

from rcmgr import NodeLimits, ResourceManager
from rcmgr.counting.event_ring import event_needs
from rcmgr.record.frames import Frame, Header
from rcmgr.record.history import History
from rcmgr.replay import events as kinds
from rcmgr.replay.events import Event, Tables


def events_of(path: Path) -> list[Event]:
    tables, found = Tables(), []
    for frame in History(path):
        if isinstance(frame, Header):
            tables.begin(frame)
        elif isinstance(frame, Frame):
            found += tables.events(frame)
    return found


def test_each_event_has_its_parts(tmp_path: Path) -> None:
    now = [7_000_000_000]
    manager = ResourceManager(NodeLimits(), clock=lambda: now[0])
    with manager.record(tmp_path / "node.rec", identities=True) as recording:
        pending = manager.open_connection(None, "192.0.2.1", "inbound")
        now[0] += 5_000_000
        connection = manager.open_connection(b"peer", "192.0.2.1", "inbound")
        recording.flush()  # the next frame continues the tables
        stream = manager.open_stream(b"peer", "outbound")
        stream.set_protocol("/a")
        stream.reserve_memory(70, 101)
        connection.close()
        pending.close()
    found = events_of(tmp_path / "node.rec")
    assert [(event[0], event[2], event[3], *event[4:]) for event in found] == [
        (kinds.BEGIN, 7_000_000_000, 1, None, "192.0.2.1", "", "", None, 0, 0),
        (kinds.ESTABLISH, 7_005_000_000, 1, b"peer", "192.0.2.1", "", "", None, 0, 0),
        (kinds.OPEN_STREAM, 7_005_000_000, 1, b"peer", None, "", "", None, 0, 0),
        (kinds.PROTOCOL, 7_005_000_000, 1, None, None, "/a", "", None, 0, 0),
        (kinds.STREAM_MEMORY, 7_005_000_000, 1, None, None, "", "", None, 70, 101),
        (kinds.CLOSE, 7_005_000_000, 1, None, None, "", "", None, 0, 0),
    ]


def test_tables_begin_anew_with_each_file(tmp_path: Path) -> None:
    for peer in (b"one", b"two"):
        manager = ResourceManager(NodeLimits())
        with manager.record(tmp_path / "node.rec", identities=True):
            manager.acquire_stream(peer, "inbound")
    assert [event[4] for event in events_of(tmp_path / "node.rec")] == [b"one", b"two"]


def test_the_kinds_are_those_of_the_c_header() -> None:
    assert len(event_needs()) - 1 == kinds.SETTINGS
    needs = event_needs()
    assert needs[kinds.PROTOCOL] == 2 | 4
    assert needs[kinds.MEMORY] == 4 | 8 | 16 | 32
    assert needs[kinds.FORGET_ALL] == 0
