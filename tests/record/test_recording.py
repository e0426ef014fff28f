"""The thread that records: what it writes, and what it does when the disk fails."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threads import in_threads, rounds

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    PenaltyBox,
    RateLimits,
    ResourceManager,
    ResourceScopeClosed,
)
from rcmgr.counting.reading import ScopeStat
from rcmgr.record import recording as module
from rcmgr.record.frames import Frame, Header
from rcmgr.record.history import History
from rcmgr.record.recording import Recording
from rcmgr.replay.replay import replay


def frames(path: Path) -> list[Frame]:
    return [each for each in History(path) if isinstance(each, Frame)]


def events(path: Path) -> int:
    return sum(each.events for each in frames(path))


def streams(manager: ResourceManager, count: int, peer: bytes = b"peer") -> None:
    for _ in range(count):
        manager.acquire_stream(peer, "inbound")
        manager.release_stream(peer, "inbound")


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def script(code: str) -> str:
    return textwrap.dedent(code)


def test_a_recording_writes_by_itself_and_ends_with_its_manager(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    manager = ResourceManager()
    recording = manager.record(path)
    assert manager.recording is recording
    streams(manager, 5)
    eventually(lambda: events(path) == 10)
    streams(manager, 1)
    manager.close()
    assert events(path) == 13  # and the end of everything
    assert recording.stats() == {
        "path": str(path), "written": 13, "dropped": 0, "lost": 0, "closed": True}
    assert "closed" in repr(recording)
    with pytest.raises(ResourceScopeClosed, match="closed"):
        manager.record(path)


def test_after_its_end_nothing_is_recorded(tmp_path: Path) -> None:
    manager = ResourceManager()
    recording = manager.record(tmp_path / "node.rec")
    recording.close()
    recording.close()
    recording.flush()
    streams(manager, 3)
    manager.node_limits = NodeLimits.default()
    manager.close()
    assert events(tmp_path / "node.rec") == 0


def test_a_second_recording_replaces_the_first(tmp_path: Path) -> None:
    manager = ResourceManager()
    first = manager.record(tmp_path / "a")
    streams(manager, 1)
    with manager.record(tmp_path / "b"):
        streams(manager, 2)
    assert first.stats()["closed"]
    assert (events(tmp_path / "a"), events(tmp_path / "b")) == (2, 4)


def test_the_record_is_bounded_and_each_file_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    manager = ResourceManager(NodeLimits())
    recording = manager.record(path, max_bytes=1 << 17)
    for round in range(60):
        for number in range(400):
            # new peers cannot be compressed
            manager.acquire_stream(b"%d %d" % (round, number), "inbound")
        recording.flush()
    recording.close()
    files = list(tmp_path.iterdir())
    assert sum(each.stat().st_size for each in files) <= 1 << 17
    assert not (tmp_path / "node.rec.000001").exists()
    oldest = sorted(each for each in files if each != path)[0]
    result = replay(oldest)
    assert result.decisions == result.same > 0


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": 1}, {"max_bytes": "1"}, {"max_age_s": 0}, {"max_age_s": None}])
def test_wrong_bounds_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    manager = ResourceManager()
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        manager.record(tmp_path / "node.rec", **wrong)
    assert manager.recording is None
    assert not (tmp_path / "node.rec").exists()


def test_a_full_ring_drops_counts_and_the_record_says_so(tmp_path: Path) -> None:
    manager = ResourceManager()
    recording = manager.record(tmp_path / "node.rec")
    with recording._lock:  # as while the disk is slow
        streams(manager, 20_000)
    recording.close()
    stats = recording.stats()
    assert stats["dropped"] > 0
    assert stats["written"] + stats["dropped"] == 40_000
    history = History(tmp_path / "node.rec")
    assert sum(each.events for each in history if isinstance(each, Frame)) == stats["written"]
    assert history.dropped == stats["dropped"]


def test_an_error_of_the_disk_loses_events_and_the_rest_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "node.rec"
    manager = ResourceManager()
    recording = manager.record(path)
    streams(manager, 5)
    recording.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(5, "broken")))
        for _ in range(2):
            streams(manager, 7, b"lost")
            recording.flush()
    for _ in range(2):
        streams(manager, 3, b"new")
        recording.flush()
    recording.close()
    assert recording.stats()["lost"] == 28
    history = History(path)
    assert sum(each.events for each in history if isinstance(each, Frame)) == 22
    assert history.lost == 28
    assert [record.name for record in caplog.records] == ["rcmgr.record.recording"]
    assert "broken" in caplog.text
    assert replay(path).same == 11


def test_each_name_is_written_once(tmp_path: Path) -> None:
    manager = ResourceManager()
    with manager.record(tmp_path / "node.rec") as recording:
        for protocol in ("/a", "/b", "/a", "/c"):
            with manager.ledger.open_stream(b"peer") as stream:
                stream.set_protocol(protocol)
            recording.flush()
    assert [each.names for each in frames(tmp_path / "node.rec")] == [
        ["", "/a"], ["/b"], [], ["/c"]]


def test_a_manager_that_is_dropped_ends_its_recording(tmp_path: Path) -> None:
    manager = ResourceManager()
    recording = manager.record(tmp_path / "node.rec")
    streams(manager, 2)
    del manager
    gc.collect()
    eventually(lambda: recording.stats()["closed"])
    assert events(tmp_path / "node.rec") == 4


def test_the_header_says_when_and_what_the_node_held(tmp_path: Path) -> None:
    manager = ResourceManager()
    manager.acquire_stream(b"peer", "inbound")
    before = time.time()
    manager.record(tmp_path / "node.rec").close()
    [header] = History(tmp_path / "node.rec")
    assert isinstance(header, Header)
    assert before <= header.wall <= time.time()
    assert header.held == [0, 1, 0, 0, 0, 0]
    assert header.pid == os.getpid()


def test_identities_are_written_on_demand(tmp_path: Path) -> None:
    for name, identities in (("plain", True), ("hashed", False)):
        manager = ResourceManager()
        with manager.record(tmp_path / name, identities=identities):
            manager.open_connection(None, "192.0.2.77", "inbound")
            manager.acquire_stream(b"a known peer", "inbound")
    [plain], [hashed] = frames(tmp_path / "plain"), frames(tmp_path / "hashed")
    assert plain.peers == [b"a known peer"]
    assert plain.columns[12] == b"\4\xc0\0\2\x4d"
    assert hashed.peers == []
    assert hashed.columns[12] != plain.columns[12]


def test_bans_from_before_are_in_the_record(tmp_path: Path) -> None:
    manager = ResourceManager(connection_limits=ConnectionLimits())
    manager.ban("198.51.100.0/24", 3600)
    manager.ban(b"\0\x24\x08\x01\x12\x20" + bytes(32))
    with manager.record(tmp_path / "node.rec"):
        assert manager.open_connection(None, "198.51.100.9", "inbound") is None
    result = replay(tmp_path / "node.rec")
    assert (result.decisions, result.same) == (1, 1)
    assert len(result.player.manager.bans()) == 2


def test_threads_and_the_recorder_side_by_side(tmp_path: Path) -> None:
    manager = ResourceManager()
    recording = manager.record(tmp_path / "node.rec")

    def work(number: int) -> None:
        for _ in range(300):
            streams(manager, 3, b"%d" % number)
            recording.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording.close()
    assert events(tmp_path / "node.rec") == 4 * 300 * 6
    assert replay(tmp_path / "node.rec").same == 4 * 300 * 3


def test_recordings_begin_and_end_while_threads_decide(tmp_path: Path) -> None:
    manager = ResourceManager(NodeLimits(penalties=PenaltyBox()))
    times = rounds(400)

    def record() -> None:
        for number in range(times // 8 + 1):
            path = tmp_path / f"{number}.rec"
            with manager.record(path, identities=number % 2 == 0) as recording:
                streams(manager, 3, b"recorder")
                recording.flush()
            assert events(path) >= 6

    def decide(number: int) -> None:
        peer = b"peer %d" % number
        for _ in range(times):
            streams(manager, 1, peer)
            with manager.ledger.open_connection(peer=peer) as scope:
                scope.reserve_memory(10)
            manager.ban(f"192.0.2.{number}", 60)
            manager.unban(f"192.0.2.{number}")

    in_threads(lambda number: decide(number) if number else record(), 4)
    assert manager.ledger.system().stat() == ScopeStat(0, 0, 0, 0, 0, 0)
    assert manager.bans() == []


# -- other processes -------------------------------------------------------------------------------

ENDLESS = script("""
    import sys
    from rcmgr import ResourceManager

    manager = ResourceManager()
    recording = manager.record(sys.argv[1])
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        manager.acquire_stream(b"%d" % number, "inbound")
        manager.release_stream(b"%d" % number, "inbound")
        if number % 2000 == 0:
            recording.flush()
            print(number, flush=True)
""")


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process by a signal")
def test_a_killed_process_leaves_a_readable_record(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "6000":
                break
        process.send_signal(signal.SIGKILL)
    assert events(path) >= 12_000
    result = replay(path)
    assert result.decisions == result.same >= 6000
    # cut in the middle of the last frame
    data = path.read_bytes()
    for cut in (1, 5, 100):
        path.write_bytes(data[:-cut])
        assert 0 < events(path) <= events_of(data)
        assert History(path).cut == []
        assert replay(path).history.cut == [path]


def events_of(data: bytes) -> int:
    import io

    from rcmgr.record.frames import read_frames

    return sum(
        each.events for each in read_frames(io.BytesIO(data)) if isinstance(each, Frame))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_only_the_parent_records(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    done = subprocess.run([sys.executable, "-c", script("""
        import os
        import sys
        from rcmgr import ResourceManager

        manager = ResourceManager()
        recording = manager.record(sys.argv[1])
        manager.acquire_stream(b"before", "inbound")
        child = os.fork()
        if child == 0:
            for _ in range(100):
                manager.acquire_stream(b"child", "inbound")
            assert recording.stats()["closed"]
            recording.flush()
            recording.close()
            other = ResourceManager()
            other.record(sys.argv[1] + ".child")
            other.acquire_stream(b"child", "inbound")
            other.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for _ in range(10):
            manager.acquire_stream(b"parent", "inbound")
    """), str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert events(path) == 11  # the end of the program has written the last ones
    assert events(tmp_path / "node.rec.child") == 2


def in_small_filesystem(tmp_path: Path, mount: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a mount namespace, in which `disk` is a small tmpfs."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    (tmp_path / "disk").mkdir()
    command = f"mount -t tmpfs -o size=96k tmpfs {tmp_path / 'disk'} && {mount} && exec \"$@\""
    done = subprocess.run(
        ["unshare", "-r", "-m", "sh", "-c", command, "sh", sys.executable, "-c", script(code),
         str(tmp_path / "disk" / "node.rec")],
        capture_output=True, text=True, check=False, timeout=120)
    if "unshare" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    return done


def test_a_full_disk_costs_old_files_and_no_decision(tmp_path: Path) -> None:
    done = in_small_filesystem(tmp_path, "true", """
        import os
        import sys
        from rcmgr import NodeLimits, ResourceManager
        from rcmgr.replay.replay import replay

        path = sys.argv[1]
        manager = ResourceManager(NodeLimits())
        recording = manager.record(path)
        for number in range(60):
            for each in range(500):
                assert manager.acquire_stream(os.urandom(8), "inbound")
            recording.flush()
        recording.close()
        stats = recording.stats()
        assert stats["written"] + stats["lost"] == 30_000, stats
        assert stats["lost"] > 0, stats
        result = replay(__import__("pathlib").Path(path))
        assert result.decisions == result.same > 0
        print(stats["lost"])
    """)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("events are lost") == 1


def test_a_read_only_disk_is_an_error_at_the_begin(tmp_path: Path) -> None:
    done = in_small_filesystem(tmp_path, f"mount -o remount,ro {tmp_path / 'disk'}", """
        import sys
        from rcmgr import ResourceManager

        manager = ResourceManager()
        try:
            manager.record(sys.argv[1])
        except OSError as error:
            print(error.strerror)
        assert manager.recording is None
        assert manager.acquire_stream(b"peer", "inbound")
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Read-only file system\n"


def test_the_class_is_what_the_manager_returns(tmp_path: Path) -> None:
    with ResourceManager().record(tmp_path / "node.rec") as recording:
        assert type(recording) is Recording


def test_texts_without_utf8_are_recorded_as_escapes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ConcreteLimits(peer={"known \ud800": Limit(streams=9)})
    manager = ResourceManager(NodeLimits(limits))
    manager.add_protocol_rate_limiter("/\udfff", RateLimits())
    with manager.record(tmp_path / "node.rec", identities=True) as recording:
        recording._ring.note_offence("\udfff", "known \ud800", "address \ud800")
        recording.flush()
        stream = manager.open_stream(b"peer", "inbound")
        assert stream is not None
        stream.set_protocol("/\ud800")
        recording.flush()
    stats = recording.stats()
    assert (stats["written"], stats["lost"]) == (3, 0)
    names = [name for each in frames(tmp_path / "node.rec") for name in each.names]
    assert {"\\udfff", "/\\ud800"} <= set(names)
    assert not [each for each in caplog.records if each.name.startswith("rcmgr.record")]


def test_an_error_of_any_kind_loses_events_and_the_thread_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ResourceManager()
    recording = manager.record(tmp_path / "node.rec")

    def failing(_content: object) -> bytes:
        raise LookupError("unforeseen")

    with monkeypatch.context() as patched:
        patched.setattr(module, "packed", failing)
        for _ in range(2):
            streams(manager, 3)
            recording.flush()
    streams(manager, 2)
    eventually(lambda: recording.stats()["written"] == 4)
    recording.close()
    assert recording.stats()["lost"] == 12
    assert caplog.text.count("unforeseen") == 1
    assert events(tmp_path / "node.rec") == 4


@pytest.mark.parametrize("where", ["no/folder", "prog.py"])
def test_a_recording_that_cannot_begin_leaves_the_first_alone(tmp_path: Path, where: str) -> None:
    (tmp_path / "prog.py").write_text("mine")
    manager = ResourceManager()
    first = manager.record(tmp_path / "a")
    for path, wrong in ((tmp_path / where, {}), (tmp_path / "a", {"max_bytes": 1})):
        with pytest.raises((OSError, ValueError)):
            manager.record(path, **wrong)
        assert manager.recording is first
    streams(manager, 2)
    first.close()
    assert events(tmp_path / "a") == 4


def test_a_second_recording_of_one_path_begins_a_new_file(tmp_path: Path) -> None:
    manager = ResourceManager()
    manager.record(tmp_path / "a")
    streams(manager, 1)
    with manager.record(tmp_path / "a"):
        streams(manager, 2)
    assert events(tmp_path / "a.000001") == 2
    assert events(tmp_path / "a") == 6  # both files


def test_a_record_that_races_the_end_of_the_manager_is_closed(tmp_path: Path) -> None:
    manager = ResourceManager()
    refused: list[Exception] = []

    def record() -> None:
        try:
            manager.record(tmp_path / "node.rec")
        except ResourceScopeClosed as error:
            refused.append(error)

    thread = threading.Thread(target=record)
    with manager._limits_lock:
        thread.start()
        time.sleep(0.1)  # the call waits for the lock
        manager.close()
    thread.join()
    assert len(refused) == 1
    assert manager.recording is None
