"""Limits files, compared with go-libp2p's results, and with nonsense as input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from go_limits import GO, GO_NAMES, row
from hypothesis import example, given, settings
from limit_values import MAYBE, NODES, PARTIALS, PEER_RATES, RATES, SUBNETS

from rcmgr.counting.scope import Ledger
from rcmgr.limits.files import LimitsFile, LimitsFileError
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.node import INFINITE_LIMITS, NodeLimits
from rcmgr.limits.rates import PeerRates, Rate
from rcmgr.limits.scopes import (
    DEFAULT_LIMITS,
    ConcreteLimits,
    Limit,
    PartialLimit,
    PartialLimits,
    ScalingLimits,
)
from rcmgr.limits.states import ConnectionLimits

# the base of Go's fixed limiter: its defaults without services
GO_BASE = NodeLimits(ScalingLimits(**{
    name: getattr(DEFAULT_LIMITS, name) for name in DEFAULT_LIMITS.scopes()
}).scale(8 << 30, 16384))
PEER_TEXT = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"

# inputs that Go reads, and that we only read with `lenient`
LENIENT = {
    '{"System":{"Streams":-3}}', '{"System":{"Memory":-3}}', '{"system":{"streams":5}}',
    '{"System":{"Streams":5}} trailing', '{"Unknown":{"Streams":5}}', '{"System":{"Stream":5}}',
    '{"System":null}', '{"System":{"Streams":null}}',
    '{"System":{"Streams":1},"System":{"Conns":2}}',
    '{"Protocol":{"/x":{"Streams":1}},"Protocol":{"/y":{"Conns":2}}}',
    '{"Protocol":{"/x":{"Streams":1},"/x":{"Conns":2}}}', '{"Protocol":null}',
    '{"System":{"Streams":-1}}', '{"System":{"Memory":"-1"}}', '{"System":{"Memory":"-2"}}',
    '{"System":{"Memory":"blockAll","ConnsInbound":-1,"ConnsOutbound":-2}}',
    '{"Protocol":{"/x":null}}', '{"SYSTEM":{"fd":3},"peerdefault":{"MEMORY":"7"}}', "null",
}
# Go keeps these negative numbers, which block everything. We write "blockAll".
NEGATIVE = {'{"System":{"Streams":-3}}': "Streams", '{"System":{"Memory":-3}}': "Memory"}


def built_rows(limits: ConcreteLimits) -> dict[str, Any]:
    rows: dict[str, Any] = {go: row(getattr(limits, ours)) for go, ours in GO_NAMES.items()}
    for go, ours in (("Service", "service"), ("ServicePeer", "service_peer"),
                     ("Protocol", "protocol"), ("ProtocolPeer", "protocol_peer")):
        rows[go] = {name: row(limit) for name, limit in getattr(limits, ours).items()}
    import base58

    rows["Peer"] = {base58.b58encode(key).decode(): row(limit)  # type: ignore[arg-type]
                    for key, limit in limits.peer.items()}
    return {name: value for name, value in rows.items() if value}


def unlimited(rows: dict[str, Any]) -> dict[str, Any]:
    """Go's largest number means no limit."""
    return json.loads(json.dumps(rows).replace(str(2**63 - 1), "null"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", GO["files"], ids=lambda case: case["input"][:60])
def test_lenient_reads_as_go_does(case: Any) -> None:
    if case["error"] is not None:
        with pytest.raises(LimitsFileError):
            LimitsFile.from_json(case["input"], lenient=True)
        return
    file = LimitsFile.from_json(case["input"], lenient=True)
    expected, built = case["output"], case["built"]
    negative = NEGATIVE.get(case["input"])
    if negative is not None:
        expected["System"][negative] = "blockAll"
        place = ["Streams", "StreamsInbound", "StreamsOutbound", "Conns", "ConnsInbound",
                 "ConnsOutbound", "FD", "Memory"].index(negative)
        built["System"][place] = 0
    assert file.to_dict() == expected
    assert list(file.to_dict()) == list(expected)  # in the same order
    assert built_rows(file.build(GO_BASE).scopes) == unlimited(built)


@pytest.mark.parametrize("case", GO["files"], ids=lambda case: case["input"][:60])
def test_strict_refuses_what_go_tolerates(case: Any) -> None:
    text = case["input"]
    if case["error"] is not None or text in LENIENT:
        with pytest.raises(LimitsFileError):
            LimitsFile.from_json(text)
    else:
        file = LimitsFile.from_json(text)
        assert file == LimitsFile.from_json(text, lenient=True)
        assert file.to_dict() == case["output"]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        # one letter in two ways: the long s, the sign for kelvin
        ('{"\u017fystem":{"\u017ftreams":5}}', {"System": {"Streams": 5}}),
        ('{"Syste\u212a":{"Streams":5}}', {}),
        # null empties a mapping, and nothing else
        ('{"Protocol":{"/x":{"FD":1}},"Protocol":null,"Conn":{"FD":2},"Conn":null}',
         {"Conn": {"FD": 2}}),
        ('{"Protocol":null,"Protocol":{"/x":{"FD":1}}}', {"Protocol": {"/x": {"FD": 1}}}),
    ],
)
def test_odd_keys_are_read_as_go_reads_them(text: str, output: Any) -> None:
    """The expected output is that of go-libp2p v0.51.0."""
    assert LimitsFile.from_json(text, lenient=True).to_dict() == output


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ('{"System":{"Stream":5}}', "System.Stream", "did you mean 'Streams'"),
        ('{"system":{}}', "system", "did you mean 'System'"),
        ('{"Sytem":{}}', "Sytem", "did you mean 'System'"),
        ('{"Xyzzy":{}}', "Xyzzy", "known are System, Transient"),
        ('{"System":{"Streams":"Unlimited"}}', "System.Streams", "did you mean 'unlimited'"),
        ('{"System":{"Streams":"7"}}', "System.Streams", "without the quotes"),
        ('{"System":{"Streams":"lots"}}', "System.Streams", "known words are default"),
        ('{"System":{"Streams":1.5}}', "System.Streams", "not 1.5"),
        ('{"System":{"Streams":true}}', "System.Streams", "not True"),
        ('{"System":{"Streams":null}}', "System.Streams", "not null"),
        ('{"System":{"Streams":-3}}', "System.Streams", "0 or more, not -3"),
        ('{"System":{"Memory":"9223372036854775808"}}', "System.Memory", "64 bits"),
        ('{"System":5}', "System", "must be an object, not 5"),
        ('{"System":{"FD":1,"FD":2}}', "System.FD", "twice"),
        ('{"Protocol":{"/x":{"streams":1}}}', "Protocol./x.streams", "did you mean 'Streams'"),
        ('{"Peer":{"nobody":{}}}', "Peer.nobody", "not a peer id"),
        ('{"Protocol":{"\\ud800":{}}}', r"Protocol.'\ud800'", "not Unicode"),
        ('{"System":{}', "line 1, column 13", "not JSON"),
        ('{} {}', "line 1, column 4", "not JSON: Extra data"),
        ('{"System":{"FD":NaN}}', "", "NaN is not JSON"),
        ("[" * 100_000, "", "not JSON"),
        ("[]", "", "must be an object, not an array"),
        ('{"Connections":{"max_pending":5}}', "Connections.max_pending",
         "did you mean 'max_pending_"),
        ('{"Connections":{"max_pending_inbound":-5}}', "Connections", "max_pending_inbound must"),
        ('{"ProcessMemory":{"max_percentage":80}}', "ProcessMemory", "at most 1"),
        ('{"ProcessMemory":{"max_percentage":1e999}}', "ProcessMemory", "at most 1, not inf"),
        ('{"Subnets":{"ipv4":{"33":5}}}', "Subnets", "0 to 32"),
        ('{"Subnets":{"ipv4":{"x":5}}}', "Subnets.ipv4.x", "prefix length"),
        ('{"Subnets":{"ipv4":5}}', "Subnets.ipv4", "must be an object"),
        ('{"Subnets":{"overrides":{"1.2.3":5}}}', "Subnets", "not an IP address"),
        ('{"Rates":{"ipv4":{"32":{"burst":5}}}}', "Rates.ipv4.32", "needs 'refill_rate'"),
        ('{"Rates":{"overall":{"burst":0,"refill_rate":1}}}', "Rates.overall", "burst"),
        ('{"Rates":{"ipv4":{"32":"unlimited"}}}', "Rates.ipv4.32", "an object, not 'unlimited'"),
        ('{"Connections":{"max_pending_inbound":null}}', "Connections.max_pending_inbound",
         "must be a value or 'unlimited', not null"),
        ('{"Connections":"unlimited"}', "Connections", "must be an object, not 'unlimited'"),
        ('{"ProcessMemory":{"hysteresis":"unlimited"}}', "ProcessMemory", "below 1, not inf"),
        ('{"PeerRates":{"max_peers":5}}', "PeerRates", "needs 'rate'"),
        ('{"PeerRates":{"rate":{"refill_rate":1,"burst":2.5}}}', "PeerRates.rate", "burst must be"),
        ('{"Rates":{"max_networks":0}}', "Rates", "1 or more"),
    ],
)
def test_errors_say_where_and_what_was_meant(text: str, path: str, words: str) -> None:
    with pytest.raises(LimitsFileError) as caught:
        LimitsFile.from_json(text)
    assert caught.value.path == path
    assert words in caught.value.reason
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("text", ["System = 5", "[System]\nFD = 1.5", "[System", "a = [", "[Syst]",
                                  ".".join("a" * 5000) + " = 1", "[Peer.nobody]"])
def test_toml_errors(text: str) -> None:
    with pytest.raises(LimitsFileError):
        LimitsFile.from_toml(text)


def test_toml_has_the_same_tree() -> None:
    file = LimitsFile.from_toml(f"""
        [System]
        Conns = 100
        Memory = 1_073_741_824
        FD = "unlimited"
        [Protocol."/x/1"]
        Streams = "blockAll"
        [Peer.{PEER_TEXT}]
        Conns = 3
        [Connections]
        max_pending_inbound = 5
        max_established_total = "unlimited"
        [ProcessMemory]
        max_percentage = 0.8
        max_pressure = 20
        [Subnets]
        ipv4 = {{ 32 = 8, 24 = "unlimited" }}
        overrides = {{ "10.0.0.0/8" = "unlimited" }}
        [Rates]
        overall = {{ refill_rate = 2.5, burst = 9 }}
        [PeerRates]
        rate = {{ refill_rate = "unlimited", burst = 1 }}
        max_peers = 7
    """)
    assert file.scopes.system == PartialLimit(conns=100, memory=2**30, fd=None)
    assert file.scopes.protocol == {"/x/1": PartialLimit(streams=0)}
    assert list(file.scopes.peer) == [bytes.fromhex("1220") + bytes(range(32))]
    assert file.sections["connections"] == {
        "max_pending_inbound": 5, "max_established_total": None}
    assert file.sections["memory"] == {"max_percentage": 0.8, "max_pressure": 20}
    node = file.build(NodeLimits(
        connections=ConnectionLimits(1, 2, max_established_total=3),
        memory=ProcessMemoryLimits(max_bytes=4, max_percentage=0.5)))
    assert node.connections == ConnectionLimits(5, 2)
    assert node.memory == ProcessMemoryLimits(max_bytes=4, max_percentage=0.8, max_pressure=20)
    assert node.subnets == file.sections["subnets"] == SubnetLimits(
        ipv4=((32, 8), (24, None)),
        overrides={"127.0.0.0/8": None, "::1/128": None, "10.0.0.0/8": None}
    )
    assert node.rates == file.sections["rates"] == AddressRates(overall=Rate(2.5, 9))
    assert node.peer_rates == PeerRates(Rate(math.inf, 1), 7)


FILES = st.builds(
    LimitsFile, PARTIALS,
    st.fixed_dictionaries({}, optional={
        "connections": st.dictionaries(
            st.sampled_from(list(ConnectionLimits().to_dict())), MAYBE),
        "memory": st.dictionaries(st.just("max_bytes"), MAYBE),
        "subnets": SUBNETS, "rates": RATES, "peer_rates": PEER_RATES,
    }),
)


ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="only in a checkout")
@pytest.mark.parametrize("page", ["docs/deploy.md", "docs/limits-file.md"])
def test_the_files_in_the_docs_are_read(page: str) -> None:
    text = (ROOT / page).read_text().partition("<!-- scaling -->")[0]
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    files = [LimitsFile.from_toml(block) for block in blocks]
    assert all(file.sections for file in files)
    assert files


@settings(max_examples=60)
@given(FILES)
def test_what_is_written_is_read_again(file: LimitsFile) -> None:
    for read in (
        LimitsFile.from_json(file.to_json()),
        LimitsFile.from_json(file.to_json().encode()),
        LimitsFile.from_json(file.to_json(), lenient=True),
        LimitsFile.from_toml(file.to_toml()),
    ):
        assert read == file
        assert read.to_dict() == file.to_dict()


@settings(max_examples=60)
@given(NODES, st.sampled_from([NodeLimits(), NodeLimits(
    connections=ConnectionLimits(*[1] * 6), memory=ProcessMemoryLimits(1, 0.1, 0.1, 0.1, 1),
    subnets=SubnetLimits(), rates=AddressRates(), peer_rates=PeerRates(Rate(1, 1)))]))
def test_a_file_of_a_node_says_all_of_it(node: NodeLimits, fallback: NodeLimits) -> None:
    file = LimitsFile.of(node)
    assert LimitsFile.from_json(file.to_json()).build(fallback) == node
    assert LimitsFile.from_toml(file.to_toml()).build(fallback) == node


@pytest.mark.parametrize("peer", ["alice", 7, b"p"])
def test_a_file_names_no_peer_but_by_its_id(peer: Any) -> None:
    with pytest.raises(LimitsFileError, match="not a peer id"):
        LimitsFile.of(NodeLimits(ConcreteLimits(peer={peer: Limit()}))).to_dict()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
              st.sampled_from(["unlimited", "blockAll", "default", "12"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=3), st.sampled_from([
                "System", "Peer", "Protocol", "Streams", "Memory", "Subnets", "ipv4", "32",
                "Rates", "overall", "burst", "refill_rate", "Connections", "overrides", "1.2.3.4",
                "ProcessMemory", "max_bytes", "max_pending_inbound", "max_networks", PEER_TEXT,
                "PeerRates", "rate",
            ])), inner, max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.one_of(JSON.map(json.dumps), st.text(), st.binary()), st.booleans())
@example('{"System":{"Memory":"' + "9" * 5000 + '"}}', False)
@example('{"System":{"Memory":' + "9" * 5000 + "}}", True)
@example('{"Rates":{"ipv4":{"32":{"refill_rate":' + "9" * 400 + ',"burst":1}}}}', False)
def test_the_reader_reads_all_or_says_why(text: str | bytes, lenient: bool) -> None:
    for read in (lambda: LimitsFile.from_json(text, lenient=lenient),
                 lambda: LimitsFile.from_toml(text)):
        try:
            file = read()
        except LimitsFileError as error:
            said = str(error)
        else:
            said = "read"
            assert LimitsFile.from_json(file.to_json()) == file
            Ledger(file.build(NodeLimits()).scopes)
        assert said


def test_reading_files(tmp_path: Path) -> None:
    for name in ("limits.json", "limits.toml"):
        path = tmp_path / name
        file = LimitsFile(PartialLimits(conn=PartialLimit(fd=7)))
        path.write_text(file.to_toml() if path.suffix == ".toml" else file.to_json())
        assert LimitsFile.read(path) == file
    with pytest.raises(FileNotFoundError):
        LimitsFile.read(tmp_path / "none.json")
    (tmp_path / "limits.json").write_text('{"conn":{"fd":7}}')
    assert LimitsFile.read(tmp_path / "limits.json", lenient=True) == file


def test_a_node_without_a_file_and_without_limits() -> None:
    node = NodeLimits.default(memory=64 << 30, fds=32768)
    assert node.scopes == DEFAULT_LIMITS.scale(8 << 30, 16384)
    assert LimitsFile().build(node) == node
    assert LimitsFile.of(node).build(NodeLimits()) == node
    assert INFINITE_LIMITS.subnets is INFINITE_LIMITS.rates is None
    assert INFINITE_LIMITS.connections == ConnectionLimits()
    assert INFINITE_LIMITS.scopes.system == Limit()
    infinite = json.loads(json.dumps(LimitsFile.of(INFINITE_LIMITS).to_dict()))
    assert infinite["System"] == dict.fromkeys(infinite["System"], "unlimited")
    assert infinite["ProcessMemory"] == {
        **dict.fromkeys(infinite["ProcessMemory"], "unlimited"),
        "hysteresis": 0.02, "measure": "rss"}
    assert infinite["Subnets"] == infinite["Rates"] == infinite["PeerRates"] == "unlimited"


LOOPBACK = {"127.0.0.0/8": None, "::1/128": None}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ('"10.0.0.0/8" = 3', {"10.0.0.0/8": 3, **LOOPBACK}),
        ('"127.0.0.0/8" = 3', {"127.0.0.0/8": 3, "::1/128": None}),
        ('"127.0.0.1/8" = 3', {"127.0.0.1/8": 3, "::1/128": None}),
        ('"::1" = 3', {"::1": 3, "127.0.0.0/8": None}),
        ('"127.0.0.0/8" = "default"\n"::1" = "default"', {}),
        ("", LOOPBACK),
    ],
)
def test_overrides_of_a_file_keep_the_exemption_of_loopback(
    overrides: str, expected: dict[str, int | None]
) -> None:
    file = LimitsFile.from_toml(f"[Subnets.overrides]\n{overrides}")
    assert file.sections["subnets"] == SubnetLimits(overrides=expected)
    rates = overrides.replace("= 3", "= { refill_rate = 3, burst = 3 }")
    file = LimitsFile.from_toml(f"[Rates.overrides]\n{rates}")
    assert file.sections["rates"] == AddressRates(overrides={
        network: limit and Rate(limit, limit) for network, limit in expected.items()})
    assert LimitsFile.from_toml(file.to_toml()) == file


def test_a_wrong_network_among_overrides() -> None:
    for value in ("5", '"default"'):
        with pytest.raises(LimitsFileError, match=r"^Subnets: not an IP address .*'1.2.3"):
            LimitsFile.from_toml(f'[Subnets]\noverrides = {{ "1.2.3" = {value} }}')


# -- numbers, sizes, and files of other programs ------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [("-1", "did you mean 'unlimited'"), ("-2", "did you mean 'blockAll'"),
     ("-5", '"blockAll" allows nothing'), ('"-1"', "must be 0 or more, not -1")],
)
def test_a_negative_number_is_an_error_that_names_the_word(value: str, words: str) -> None:
    field = "Memory" if value.startswith('"') else "Conns"
    with pytest.raises(LimitsFileError, match=re.escape(words)) as caught:
        LimitsFile.from_json(f'{{"System": {{"{field}": {value}}}}}')
    assert caught.value.path == f"System.{field}"


@pytest.mark.parametrize(
    ("size", "count"),
    [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("8GB", 8 * 10**9), ("64K", 64 << 10)])
def test_bytes_have_units_wherever_a_file_has_bytes(size: str, count: int) -> None:
    file = LimitsFile.from_toml(
        f'[System]\nMemory = "{size}"\n[ProcessMemory]\nmax_bytes = "{size}"\n')
    assert file.scopes.system.memory == count
    assert file.build(NodeLimits()).memory.max_bytes == count


@pytest.mark.parametrize("size", ["2 giga", "1.5GiB", "GiB", "2GiB2"])
def test_what_is_no_size_is_an_error(size: str) -> None:
    for text in (f'[System]\nMemory = "{size}"', f'[ProcessMemory]\nmax_bytes = "{size}"'):
        with pytest.raises(LimitsFileError, match="a size such as 2GiB"):
            LimitsFile.from_toml(text)


def test_kubos_infinity_is_no_limit() -> None:
    number = 4611686018427388000
    file = LimitsFile.from_json(f'{{"System": {{"Conns": {number}, "Memory": "{number}"}}}}')
    assert (file.scopes.system.conns, file.scopes.system.memory) == (None, None)


def test_lenient_finds_the_limits_in_a_configuration_of_kubo() -> None:
    text = json.dumps({"Identity": {}, "swarm": {"ResourceMgr": {"Limits": {
        "System": {"Conns": 7}}}}})
    assert LimitsFile.from_json(text, lenient=True).scopes.system.conns == 7
    with pytest.raises(LimitsFileError, match="unknown key"):
        LimitsFile.from_json(text)


@pytest.mark.parametrize("text", ['{"x": 1}', "{}", "null", '{"System": {}}', '{"Swarm": {}}'])
def test_a_file_without_a_limit_is_no_limits_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(LimitsFileError, match="nothing in it is a limit"):
        LimitsFile.read(path, lenient=True)


def test_hostile_files_fail_at_once(tmp_path: Path) -> None:
    """Each would take seconds or gigabytes."""
    for name, content, words in (
        ("many.json", json.dumps({"Protocol": {f"/{i}": {} for i in range(200_000)}}), "larger"),
        ("peer.json", json.dumps({"Peer": {"12D3Koo" + "1" * 900_000: {}}}), "not a peer id"),
        ("parts.toml", ".".join(["a"] * 50_000) + " = 1", "more than 4096 characters"),
        ("wide.toml", "\n".join(f"{'a.' * 2000}b{i} = 1" for i in range(250)), "16 parts in a key"),
        ("quoted.toml", "[" + '"a" . ' * 600 + "b]", "16 parts in a key"),
        ("inline.toml", "a = { " + "b." * 1000 + "c = 1 }", "16 parts in a key"),
        ("escapes.toml", "\n".join(['"\\' * 2000] * 250), "not TOML"),
        ("deep.json", "[" * 100_000, "not JSON"),
        ("deep.toml", "a = " + "[\n" * 100_000, "not TOML"),
    ):
        file = tmp_path / name
        file.write_text(content)
        with pytest.raises(LimitsFileError, match=words) as caught:
            LimitsFile.read(file)
        assert len(str(caught.value)) < 1000


def test_a_change_of_the_argument_changes_no_file() -> None:
    sections: dict[str, Any] = {"eviction": None}
    file = LimitsFile(sections=sections)
    sections.clear()
    assert file.sections == {"eviction": None}
    with pytest.raises(TypeError):
        file.sections["eviction"] = None  # type: ignore[index]
