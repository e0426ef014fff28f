from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_script import Clock, Run

from rcmgr import NodeLimits, Rate, ResourceManager
from rcmgr.limits.conflicts import conflicts
from rcmgr.limits.files import LimitsFile
from rcmgr.replay.replay import replay
from rcmgr.replay.suggest import connections_that_fit, memory_of_connection, suggest
from rcmgr.replay.survey import Survey, survey


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    path = tmp_path_factory.mktemp("suggest") / "node.rec"
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(path):
        Run(manager, clock).go(4000)
        clock.now += 5 * 3600 * 10**9
        Run(manager, clock).go(200, seed=2)
    return survey(path)[0]


def test_each_limit_has_its_reason(found: Survey) -> None:
    text = suggest(found).to_toml()
    lines = text.splitlines()
    limits = [at for at, line in enumerate(lines) if " = " in line and line[0] != "#"]
    assert len(limits) > 30
    assert all(lines[at - 1].startswith("# ") for at in limits)
    assert all(len(line) <= 100 for line in lines)
    for words in ("peak", "busy hour from", "99.9 % of the time up to", "half of them up to",
                  "What it cannot know", "a record without an attack", "KiB"):
        assert words.lower() in text.lower()


def test_the_file_is_read_and_does_not_contradict_itself(found: Survey) -> None:
    made = suggest(found)
    file = LimitsFile.from_toml(made.to_toml())
    assert file == made.file()
    assert [
        str(conflict) for conflict in conflicts(file.build(NodeLimits.default()), said=file)] == []
    node = file.build(NodeLimits())
    assert node.scopes.system.conns_inbound is not None
    assert "/a/1" in node.scopes.protocol
    assert "/a/1" in node.scopes.protocol_peer
    assert node.rates is not None
    assert node.peer_rates is not None
    assert node.subnets is not None


def test_headroom_and_percentile_matter(found: Survey) -> None:
    def streams(**how: Any) -> int:
        limit = suggest(found, **how).file().build(NodeLimits()).scopes.system.streams
        assert limit is not None
        return limit

    peak = found.gauges["system.streams"].peak
    assert peak <= streams(headroom=1) <= peak * 1.1
    assert streams(headroom=3) >= 2.5 * peak
    assert streams(headroom=1.5, percentile=50) < streams(headroom=1.5)


def test_memory_of_a_connection_is_measured() -> None:
    found = Survey()
    assert memory_of_connection(found) is None
    counts = (0, 5, 10, 20, 40, 30, 20, 10, 5, 0)
    found.memory = [(count, 0, 30_000_000 + 50_000 * count) for count in counts]
    assert memory_of_connection(found) == (50_000, 30_000_000)
    assert connections_that_fit(2 << 30, (50_000, 30_000_000)) == 42_349
    assert "So about 42,349 connections fit into 2.0 GiB" in " ".join(suggest(found).head)


@pytest.mark.parametrize("samples", [
    [(count, 30_000_000 + count) for count in (0, 20, 40)],  # too few
    [(5, 30_000_000)] * 20,  # no change
    [(count, 30_000_000) for count in range(20)],
    [(count, 30_000_000 - count) for count in range(20)],
    [(count, 1_000 * count * count) for count in range(20)],  # nothing without any connection
    [(count % 10, 30_000_000 + 50_000 * count) for count in range(40)],  # a growing process
])
def test_memory_of_a_connection_is_not_guessed(samples: list[tuple[int, int]]) -> None:
    found = Survey()
    found.memory = [(count, 0, rss) for count, rss in samples]
    assert memory_of_connection(found) is None
    assert "not measured" in suggest(found).to_toml()


def test_an_empty_record_suggests_nothing() -> None:
    made = suggest(Survey())
    assert made.file() == LimitsFile()
    assert "0 events" in made.to_toml()
    assert "nothing to suggest" in made.to_toml()


@pytest.mark.parametrize(("connections", "rate"), [
    (3600, 1.0), (3601, 1.1), (3960, 1.1), (4428, 1.3), (36_000, 10.0), (36_001, 11.0),
    (1800, 0.5), (1801, 0.51), (720, 0.2), (10, 0.2),
])
def test_a_rate_is_rounded_up_to_two_digits(connections: int, rate: float) -> None:
    found = Survey()
    found.peer_arrivals[b"peer"] = [0] * connections  # type: ignore[assignment]
    limits = suggest(found, headroom=1.0).file().build(NodeLimits()).peer_rates
    assert limits is not None
    assert limits.rate == Rate(rate, max(16, connections))


def test_the_burst_admits_the_worst_peer_also_beyond_the_percentile() -> None:
    found = Survey()
    hour = 3_600_000_000_000
    found.peer_arrivals[b"worst"] = [0] * 100  # type: ignore[assignment]
    for number in range(10):
        found.peer_arrivals[b"%d" % number] = [0, hour]  # type: ignore[assignment]
    limits = suggest(found, headroom=1.0, percentile=51).file().build(NodeLimits()).peer_rates
    assert limits is not None
    assert limits.rate == Rate(0.2, 100)


def test_a_peak_is_in_the_unit_of_its_limit(found: Survey) -> None:
    _, lines = suggest(found).sections["System"]
    reasons = {line.key: line.reason for line in lines}
    assert reasons["Conns"].startswith(f"peak {found.gauges['system.conns'].peak:,} (")
    assert reasons["Streams"].startswith(f"peak {found.gauges['system.streams'].peak:,} (")
    kibibytes = found.gauges["system.memory"].peak / 1024
    shown = f"{kibibytes:.1f} KiB" if kibibytes < 1024 else f"{kibibytes / 1024:.1f} MiB"
    assert reasons["Memory"].startswith(f"peak {shown} (")


@pytest.mark.parametrize(("seconds", "text"), [
    (1, "1 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7199, "120 minutes"),
    (7200, "2 hours"), (9 * 3600, "9 hours"), (172_799, "48 hours"), (172_800, "2 days"),
    (30 * 86_400, "30 days"),
])
def test_the_head_says_how_long_the_record_is(seconds: int, text: str) -> None:
    found = Survey()
    found.begin, found.end = 10**18, 10**18 + seconds * 10**9
    assert f"a record of {text}, from " in suggest(found).head[0]


def test_a_small_record_gives_these_limits(tmp_path: Path) -> None:
    """30 peers at one address, 20 at others, and one stream of a protocol and a service."""
    path, clock = tmp_path / "node.rec", Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(path):
        held: list[Any] = [
            manager.open_connection(b"busy%d" % number, "198.51.100.7", "inbound")
            for number in range(30)]
        held += [
            manager.open_connection(b"%d" % number, f"203.0.{number}.1", "inbound")
            for number in range(20)]
        stream = manager.open_stream(b"1", "inbound")
        assert stream is not None
        assert stream.try_set_protocol("/a")
        assert stream.try_set_service("svc")
        clock.now += 100 * 10**9
        held.pop().close()
    made = suggest(survey(path)[0], headroom=1.0, percentile=51)
    eighth, usual = {"Streams": 8, "StreamsInbound": 4}, {"Streams": 64, "StreamsInbound": 32}
    assert {
        section: {line.key: line.value for line in lines}
        for section, (_, lines) in made.sections.items()
    } == {
        "System": {**usual, "Conns": 50, "ConnsInbound": 50},
        "Transient": usual,
        "PeerDefault": {**eighth, "Conns": 2, "ConnsInbound": 2},
        'Protocol."/a"': eighth, 'ProtocolPeer."/a"': eighth,
        'Service."svc"': eighth, 'ServicePeer."svc"': eighth,
        "Subnets.ipv4": {"32": 30}, "Subnets.ipv6": {"48": 50, "56": 8},
        "Rates.ipv4.32": {"refill_rate": 0.2, "burst": 30},
        "PeerRates.rate": {"refill_rate": 0.2, "burst": 16},
    }
    titles = {section: title for section, (title, _) in made.sections.items()}
    assert titles['Protocol."/a"'] == "this protocol, of all peers"
    assert titles["Subnets.ipv6"] == "connections of each IPv6 network at once"
    reasons = {
        f"{section}.{line.key}": line.reason
        for section, (_, lines) in made.sections.items() for line in lines}
    assert reasons["Subnets.ipv4.32"] == (
        "/32: 21 networks; the most had 30, 51 % of them up to 1")
    assert reasons["Subnets.ipv6.56"].endswith("(the default)")
    assert not reasons["Subnets.ipv6.48"].endswith("(the default)")
    assert reasons["Rates.ipv4.32.refill_rate"].endswith("needed a burst of 30")
    assert reasons["PeerRates.rate.refill_rate"].endswith("a burst of 1 (the default is more)")
    assert reasons["PeerDefault.Conns"] == (
        "50 peers: the most had 1, half of them up to 1, 51 % up to 1 (the least that makes sense)")
    assert reasons["System.Conns"].endswith("51 % of the time up to 50")


SMALL = NodeLimits.default(memory=64 << 20, fds=128)
LARGE = NodeLimits.default(memory=8 << 30, fds=100_000)


def admits(path: Path, **how: Any) -> str:
    """Check that the suggested file admits the whole record, also with defaults."""
    made = suggest(survey(path)[0], **how)
    file = made.file()
    for base in (NodeLimits(), SMALL, LARGE):
        node = file.build(base)
        assert [str(each) for each in conflicts(node, said=file)] == []
        assert replay(path, node).outcome.refused == {}
    return made.to_toml()


@settings(max_examples=30)
@given(
    scripts=st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 1 << 30), st.integers(0, 7200)),
        min_size=1, max_size=3),
    headroom=st.sampled_from([1.0, 1.5, 7.3]),
    percentile=st.sampled_from([50.0, 90.0, 99.9, 100.0]),
    limited=st.booleans(),
)
def test_a_suggestion_admits_its_record(
    scripts: list[tuple[int, int, int]], headroom: float, percentile: float, limited: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.rec"
        clock = Clock()
        manager = ResourceManager(SMALL if limited else NodeLimits(), clock=clock)
        run = Run(manager, clock, rate=None)
        with manager.record(path):
            for steps, seed, pause in scripts:
                run.go(steps, seed)
                clock.now += pause * 10**9
        admits(path, headroom=headroom, percentile=percentile)


def test_many_protocols_have_their_limits(tmp_path: Path) -> None:
    path, clock = tmp_path / "node.rec", Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    held: list[Any] = [manager.open_connection(b"peer", "192.0.2.1", "inbound")]
    with manager.record(path):
        for protocol in range(400):  # each has an own count, up to 256
            peers = 1 if protocol < 399 else 700
            for peer in range(peers):
                for _ in range(3 if protocol == 0 else 1):
                    stream = manager.open_stream(b"peer%d" % peer, "inbound")
                    assert stream is not None
                    name = "/ipfs/ping/1.0.0" if protocol == 0 else f"/{protocol}"
                    assert stream.try_set_protocol(name)
                    held.append(stream)
        clock.now += 10**9
    text = admits(path)
    assert '[Protocol."/ipfs/ping/1.0.0"]' in text
    assert text.count("[Protocol.") <= 60
    assert "each protocol without a section" in text
