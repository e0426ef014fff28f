"""Give a reader of foreign bytes changed inputs: `python fuzz_readers.py READER SECONDS [SEED]`.

Without arguments it names the readers.

A reader may refuse an input with its documented errors only, and has to keep the promises that its
function below checks. The corpus is in tests/data/corpus/READER. An input that reaches new lines
joins it, and so does one that finds a fault. Without a seed, each run tries other inputs.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import rcmgr
from rcmgr import Allowlist, NodeLimits, ResourceManager
from rcmgr.gates.addresses import endpoint_of
from rcmgr.gates.ban_file import BanFile, read_bans
from rcmgr.gates.bans import Ban, ban_subject, subject_text
from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.networks import packed_ip
from rcmgr.limits.scaling_files import read_scaling_limits
from rcmgr.limits.sizes import parse_size
from rcmgr.peers import bounded_peer, peer_key, peer_text
from rcmgr.record.frames import MAGIC, Header, RecordError, packed
from rcmgr.record.settings import SettingsError
from rcmgr.replay.replay import replay
from rcmgr.replay.survey import survey
from rcmgr.report import status_client
from rcmgr.report.node_commands import answer_to

CORPUS = Path(__file__).parent / "data" / "corpus"
OURS = str(Path(rcmgr.__file__).parent)
LONGEST = 4096
Reader = Callable[[bytes], None]

MANAGER = ResourceManager()
SCRATCH = Path(tempfile.mkdtemp(prefix="rcmgr-fuzz-"))


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def check_message(error: Exception) -> None:
    """It has one line, and no control characters of the input."""
    assert str(error).isprintable()


def read_json(data: bytes) -> None:
    for lenient in (False, True):
        try:
            file = LimitsFile.from_json(data, lenient=lenient)
        except LimitsFileError as error:
            check_message(error)
            continue
        if not lenient:
            assert LimitsFile.from_json(file.to_json()) == file


def read_toml(data: bytes) -> None:
    try:
        file = LimitsFile.from_toml(data)
    except LimitsFileError as error:
        check_message(error)
        return
    assert LimitsFile.from_toml(file.to_toml()) == file


def read_scaling(data: bytes) -> None:
    for name in ("limits.json", "limits.toml"):
        path = SCRATCH / name
        path.write_bytes(data)
        for lenient in (False, True):
            try:
                limits = read_scaling_limits(path, lenient=lenient)
            except LimitsFileError as error:
                check_message(error)
            else:
                limits.scale(1 << 30, 1024)


def read_ban_lines(data: bytes) -> None:
    bans, damaged = read_bans(data.split(b"\n"))
    assert len(bans) + damaged <= data.count(b"\n") + 1
    for ban in bans:
        assert isinstance(ban, Ban)
        assert ban.seconds_left > 0
        assert subject_text(ban_subject(ban.what)) == ban.what
    path = SCRATCH / "bans"
    path.write_bytes(data)
    BanFile(path).load()


def read_address(data: bytes) -> None:
    text = text_of(data)
    endpoint = endpoint_of(text)
    assert endpoint.ip is None or len(endpoint.ip) in (4, 16)
    ip = packed_ip(text)
    assert ip is None or len(ip) in (4, 16)
    scope = MANAGER.open_connection(None, text, "inbound")
    if scope is not None:
        scope.close()
    assert len(MANAGER.connection_tracker) == 0


def read_entry(data: bytes) -> None:
    text = text_of(data)
    try:
        allowlist = Allowlist([text])
    except ValueError:
        allowlist = Allowlist()
    else:
        allowlist.remove(text)
    assert not allowlist
    try:
        subject = ban_subject(text)
    except ValueError:
        return
    assert ban_subject(subject_text(subject)) == subject


def read_peer(data: bytes) -> None:
    for peer in (text_of(data), data):
        key = peer_key(peer)
        assert peer_key(key) == key
        assert len(key) <= 300
        bounded_peer(peer)
        shown = peer_text(key)
        assert isinstance(shown, str)


def read_request(data: bytes) -> None:
    answer = json.loads(answer_to(ResourceManager(), data))
    assert answer["format"] == status_client.FORMAT
    assert answer.keys() - {"format"} in ({"answer"}, {"error"})


class Answering:
    """A connection to a node that answers with these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *error: object) -> None: ...

    def sendall(self, data: bytes) -> None: ...

    def recv(self, size: int) -> bytes:
        part, self._data = self._data[:size], self._data[size:]
        return part


def read_answer(data: bytes) -> None:
    connect = status_client.connect
    status_client.connect = lambda path: Answering(data)  # type: ignore[assignment, return-value]
    try:
        status_client.read_status("node")
    except status_client.StatusError as error:
        check_message(error)
    finally:
        status_client.connect = connect


HEADER = MAGIC + packed(Header(1e9, 5, "0.1", 7, False, {}, []))


def read_record(data: bytes) -> None:
    """As a file, and as the content of a frame, whose checksum is right."""
    path = SCRATCH / "node.rec"
    body = zlib.compress(data)
    frame = struct.pack("<II", len(body), zlib.crc32(body)) + body
    for content in (data, HEADER + frame):
        path.write_bytes(content)
        try:
            result = replay(path)
            assert result.decisions <= result.events
            survey(path)
        except (RecordError, SettingsError) as error:
            check_message(error)


def read_go_trace(data: bytes) -> None:
    path = SCRATCH / "trace.gz"
    path.write_bytes(gzip.compress(data))
    try:
        assert replay(path, NodeLimits()).history.cut == []
        survey(path)
    except RecordError as error:
        check_message(error)


def read_size(data: bytes) -> None:
    size = parse_size(text_of(data))
    assert size is None or size >= 0


READERS: dict[str, Reader] = {
    "limits_json": read_json, "limits_toml": read_toml, "scaling": read_scaling,
    "bans": read_ban_lines, "address": read_address, "entry": read_entry, "peer": read_peer,
    "status_request": read_request, "status_answer": read_answer, "size": read_size,
    "record": read_record, "go_trace": read_go_trace,
}


def corpus_of(reader: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / reader).glob("*"))]


def keep(reader: str, data: bytes) -> None:
    """Let this input join the corpus."""
    folder = CORPUS / reader
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def lines_reached(read: Reader, data: bytes) -> set[tuple[str, int]]:
    """The lines of rcmgr's Python code that reading this input runs."""
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        read(data)
    finally:
        sys.settrace(None)
    return reached


def changed(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """An input with one to eight random changes."""
    made = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + 1 + chance.randrange(8))
        match chance.randrange(7):
            case 0:
                made[at:end] = b""
            case 1:
                made[at:at] = chance.randbytes(1 + chance.randrange(4))
            case 2:
                made[at:end] = made[at:end] * (1 + chance.randrange(64))
            case 3:
                made[at:end] = chance.choice([
                    b"-1", b"0", b"1e999", b"9" * 30, b"null", b"true", b'"', b"{}", b"[" * 99,
                    b"\\ud800", b"\xff", b"\x00", b"\n", b"/p2p/", b"/ip6/::/", b"%", b"0x1",
                    b"inf",
                ])
            case 4 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case _:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                made[at:end] = other[start:start + 1 + chance.randrange(64)]
    return bytes(made[:LONGEST])


def fuzz(
    read: Reader, corpus: Iterable[bytes], chance: random.Random, rounds: Iterable[object],
) -> Iterator[bytes]:
    """Read the corpus, then changed inputs. Yields those that reach new lines.

    An exception of `read` has the input as a note: the reader has a fault.
    """
    inputs, known = list(corpus) or [b""], set()
    waiting = iter(inputs[:])
    for _ in itertools.chain(inputs[:], rounds):
        data = next(waiting, None)
        is_new = data is None
        if data is None:
            data = changed(chance.choice(inputs), inputs, chance)
        try:
            reached = lines_reached(read, data)
        except BaseException as error:
            raise AssertionError(f"the reader has a fault: {error!r} at {data!r}") from error
        if is_new and reached - known:
            inputs.append(data)
            yield data
        known |= reached


def seconds_from_now(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield None


def main(reader: str, seconds: str, seed: str | None = None) -> None:
    chance = random.Random(None if seed is None else int(seed))
    last = b""

    def read(data: bytes) -> None:
        nonlocal last
        last = data
        READERS[reader](data)

    try:
        for data in fuzz(read, corpus_of(reader), chance, seconds_from_now(float(seconds))):
            keep(reader, data)
    except AssertionError:
        keep(reader, last)
        raise
    print(f"{reader}: {len(corpus_of(reader))} inputs in the corpus")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(*sys.argv[1:])
    else:
        print(*READERS, sep="\n")
