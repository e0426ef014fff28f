"""Limits in files: go-libp2p's JSON, the same tree in TOML, and sections of our own.

    {"System": {"Conns": 100, "Memory": "1073741824"}, "PeerDefault": {"Conns": "unlimited"},
     "Connections": {"max_pending_inbound": 50}, "ProcessMemory": {"max_percentage": 0.8},
     "Subnets": {"ipv4": {"32": 8}}, "Rates": {"ipv4": {"32": {"refill_rate": 0.2, "burst": 16}}}}

Go ignores the last four, so that one file can serve both. A value is a number, "default",
"unlimited" or "blockAll"; 0 is "blockAll".
"""

from __future__ import annotations

import base64
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.rates import Rate
from rcmgr.limits.scopes import (
    DEFAULT,
    MAX_LIMIT,
    ConcreteLimits,
    PartialLimit,
    PartialLimits,
    autoscale,
)
from rcmgr.limits.states import ConnectionLimits
from rcmgr.peers import peer_text

__all__ = ["INFINITE_LIMITS", "LimitsFile", "LimitsFileError", "NodeLimits"]

_FIELDS: Final = {
    "Streams": "streams", "StreamsInbound": "streams_inbound",
    "StreamsOutbound": "streams_outbound", "Conns": "conns", "ConnsInbound": "conns_inbound",
    "ConnsOutbound": "conns_outbound", "FD": "fd", "Memory": "memory",
}
# in the order in which Go writes them
_MAPPINGS: Final = {
    "Service": "service", "ServicePeer": "service_peer", "Protocol": "protocol",
    "ProtocolPeer": "protocol_peer", "Peer": "peer",
}
_SCOPES: Final = {
    "System": "system", "Transient": "transient", "AllowlistedSystem": "allowlisted_system",
    "AllowlistedTransient": "allowlisted_transient", "ServiceDefault": "service_default",
    "ServicePeerDefault": "service_peer_default", "ProtocolDefault": "protocol_default",
    "ProtocolPeerDefault": "protocol_peer_default", "PeerDefault": "peer_default", "Conn": "conn",
    "Stream": "stream",
}
_SECTIONS: Final = ("Connections", "ProcessMemory", "Subnets", "Rates")
_WORDS: Final[dict[str, Any]] = {"default": DEFAULT, "unlimited": None, "blockAll": 0}
_NUMBERS: Final[dict[int, Any]] = {-1: None, -2: 0}
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,4000}")


_NO_SCOPE_LIMITS: Final = ConcreteLimits()
_NO_CONNECTION_LIMITS: Final = ConnectionLimits()
_NO_MEMORY_LIMITS: Final = ProcessMemoryLimits()
_NO_CHANGES: Final = PartialLimits()
T = TypeVar("T")


class LimitsFileError(ValueError):
    """A limits file that cannot be used: where in it (`path`, "" for the whole) and why."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Everything that a node is limited by. subnets, rates: None: no limit of that kind."""

    scopes: ConcreteLimits = _NO_SCOPE_LIMITS
    connections: ConnectionLimits = _NO_CONNECTION_LIMITS
    memory: ProcessMemoryLimits = _NO_MEMORY_LIMITS
    subnets: SubnetLimits | None = None
    rates: AddressRates | None = None

    @classmethod
    def default(cls, *, memory: int | None = None, fds: int | None = None) -> NodeLimits:
        """Scaled for a machine; see `autoscale`. Addresses are limited as by go-libp2p."""
        return cls(
            autoscale(memory=memory, fds=fds), subnets=SubnetLimits(), rates=AddressRates()
        )


INFINITE_LIMITS: Final = NodeLimits()
"""No limit on anything, addresses included."""


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """What a file says. `build` makes limits of it.

    connections, memory: fields of `ConnectionLimits` and `ProcessMemoryLimits`, those that the file
    names. subnets, rates: None: the file has no such section.
    """

    scopes: PartialLimits = _NO_CHANGES
    connections: Mapping[str, int | None] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    subnets: SubnetLimits | None = None
    rates: AddressRates | None = None

    def build(self, fallback: NodeLimits) -> NodeLimits:
        """The limits, with `fallback`'s where the file leaves them open."""
        return NodeLimits(
            self.scopes.build(fallback.scopes),
            replace(fallback.connections, **self.connections),
            replace(fallback.memory, **self.memory),
            fallback.subnets if self.subnets is None else self.subnets,
            fallback.rates if self.rates is None else self.rates,
        )

    @classmethod
    def of(cls, limits: NodeLimits) -> LimitsFile:
        """A file that says all of it. What is None in `limits` stays unsaid."""
        return cls(
            limits.scopes.to_partial(), asdict(limits.connections), asdict(limits.memory),
            limits.subnets, limits.rates,
        )

    # -- reading -------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path, *, lenient: bool = False) -> LimitsFile:
        """From a file, TOML if its name ends so, else JSON. OSError, LimitsFileError."""
        content = path.read_bytes()
        if path.suffix == ".toml":
            return cls.from_toml(content)
        return cls.from_json(content, lenient=lenient)

    @classmethod
    def from_json(cls, text: str | bytes, *, lenient: bool = False) -> LimitsFile:
        """All of it, or LimitsFileError, which says where and what was meant.

        lenient: read as Go does: keys in any case, unknown and repeated ones, anything after the
        first value, null, and negative numbers (which block everything).
        """
        text = _decoded(text)
        decoder = json.JSONDecoder(
            object_pairs_hook=_Pairs, parse_constant=_no_constant, parse_float=_Fraction
        )
        try:
            if lenient:
                start = re.match(r"[ \t\n\r]*", text)
                value, _ = decoder.raw_decode(text, start.end() if start else 0)
            else:
                value = decoder.decode(text)
        except json.JSONDecodeError as error:
            raise LimitsFileError(
                f"line {error.lineno}, column {error.colno}", f"not JSON: {error.msg}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise LimitsFileError("", f"not JSON: {error}") from None
        return _Reader(lenient).read(value)

    @classmethod
    def from_toml(cls, text: str | bytes) -> LimitsFile:
        """As `from_json`; TOML has one way of writing a file, and so there is no lenient one."""
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            value = _pairs_of(tomllib.loads(_decoded(text)))
        except LimitsFileError:
            raise
        except (ValueError, RecursionError) as error:
            raise LimitsFileError("", f"not TOML: {error}") from None
        return _Reader(False).read(value)

    # -- writing -------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """In Go's order and words; what is left open is left out."""
        tree: dict[str, Any] = {}
        for key, name in _MAPPINGS.items():
            entries = {
                peer_text(entry): _limit_shown(limit)
                for entry, limit in getattr(self.scopes, name).items()
            }
            if entries:
                tree[key] = dict(sorted(entries.items()))
        for key, name in _SCOPES.items():
            limit = getattr(self.scopes, name)
            if not limit.is_default:
                tree[key] = _limit_shown(limit)
        for key, section in (("Connections", self.connections), ("ProcessMemory", self.memory)):
            if section:
                tree[key] = {name: _shown(value) for name, value in section.items()}
        if self.subnets is not None:
            tree["Subnets"] = _networks_shown(self.subnets)
        if self.rates is not None:
            tree["Rates"] = {
                **_networks_shown(self.rates),
                "overall": _shown(self.rates.overall), "max_networks": self.rates.max_networks,
                "on_full": self.rates.on_full,
            }
        return tree

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_toml(self) -> str:
        return "\n".join(_toml_lines(self.to_dict(), ())).lstrip("\n") + "\n"


# -- reading -----------------------------------------------------------------------------------


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written, repeated keys and all."""


class _Fraction(str):
    """A number with a fraction or exponent, which no count is; as it was written."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LimitsFileError("", f"not UTF-8: {error.reason} at byte {error.start}") from None


def _pairs_of(value: Any) -> Any:
    if isinstance(value, dict):
        return _Pairs((key, _pairs_of(each)) for key, each in value.items())
    if isinstance(value, list):
        return [_pairs_of(each) for each in value]
    return value


def _kind(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None:
        return "null"
    text = value if isinstance(value, _Fraction) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Reader:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient

    def read(self, value: Any) -> LimitsFile:
        scopes: dict[str, Any] = {}
        sections: dict[str, Any] = {}
        readers: dict[str, Callable[[str, Any], Any]] = {
            "Connections": partial(self._some_of, ConnectionLimits),
            "ProcessMemory": partial(self._some_of, ProcessMemoryLimits),
            "Subnets": self._subnets, "Rates": self._rates,
        }
        known = (*_SCOPES, *_MAPPINGS, *_SECTIONS)
        for key, each in self._items("", value, known):
            if each is None and self._lenient:
                if key in _MAPPINGS:  # a nil map; of other keys Go leaves what it has read
                    scopes.pop(_MAPPINGS[key], None)
            elif key in _SCOPES:
                name = _SCOPES[key]
                scopes[name] = self._limit(key, each, scopes.get(name, PartialLimit()))
            elif key in _MAPPINGS:
                entries = scopes.setdefault(_MAPPINGS[key], {})
                for entry, limit in self._items(key, each, None):
                    path = f"{key}.{entry}"
                    exact = _peer_key(path, entry) if key == "Peer" else entry
                    entries[exact] = self._limit(path, limit, PartialLimit())
            else:
                sections[key] = readers[key](key, each)
        return LimitsFile(
            PartialLimits(**scopes), sections.get("Connections", {}),
            sections.get("ProcessMemory", {}), sections.get("Subnets"), sections.get("Rates"),
        )

    def _items(
        self, path: str, value: Any, known: Iterable[str] | None
    ) -> Iterable[tuple[str, Any]]:
        """Keys and values of an object. known: the keys it may have; None: any."""
        if value is None and self._lenient:
            return
        if not isinstance(value, _Pairs):
            raise LimitsFileError(path, f"must be an object, not {_kind(value)}")
        seen: set[str] = set()
        for key, each in value:
            name: str | None = key
            if known is None:
                name = self._encodable(path, key)
            elif key not in known:
                name = self._meant(path, key, tuple(known))
            if name is None:
                continue
            if name in seen and not self._lenient:
                raise LimitsFileError(f"{path}.{key}".lstrip("."), "is there twice")
            seen.add(name)
            yield name, each

    def _encodable(self, path: str, key: str) -> str:
        """JSON can name half a character, which cannot be written back."""
        try:
            key.encode()
        except UnicodeEncodeError:
            if not self._lenient:
                raise LimitsFileError(f"{path}.{key!a}", "is not Unicode") from None
            return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return key

    def _meant(self, path: str, key: str, known: tuple[str, ...]) -> str | None:
        same = [name for name in known if name.casefold() == key.casefold()]
        if self._lenient:
            return same[0] if same else None
        folded = {name.lower(): name for name in known}
        close = same or [
            folded[name] for name in difflib.get_close_matches(key.lower(), folded, 1, 0.6)
        ]
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        raise LimitsFileError(f"{path}.{key}".lstrip("."), f"unknown key{hint}")

    def _limit(self, path: str, value: Any, so_far: PartialLimit) -> PartialLimit:
        values = {each.name: getattr(so_far, each.name) for each in fields(so_far)}
        for key, each in self._items(path, value, _FIELDS):
            values[_FIELDS[key]] = self._value(f"{path}.{key}", each, is_memory=key == "Memory")
        return PartialLimit(**values)

    def _value(self, path: str, value: Any, *, is_memory: bool) -> Any:
        if isinstance(value, str) and not isinstance(value, _Fraction):
            if value in _WORDS:
                return _WORDS[value]
            if is_memory and _DIGITS.fullmatch(value):
                value = int(value)
            else:
                self._refuse_word(path, value, is_memory)
        if value is None and self._lenient and not is_memory:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise LimitsFileError(
                path, f'must be a number, "default", "unlimited" or "blockAll", not {_kind(value)}'
            )
        if value in _NUMBERS:
            return _NUMBERS[value]
        if not -MAX_LIMIT - 1 <= value <= MAX_LIMIT:
            raise LimitsFileError(path, "does not fit in 64 bits")
        if value < 0:
            if self._lenient:
                return 0
            raise LimitsFileError(
                path, f'must be 0 or more, not {value}; "blockAll" allows nothing'
            )
        return value

    def _refuse_word(self, path: str, value: str, is_memory: bool) -> None:
        close = difflib.get_close_matches(value.lower(), [w.lower() for w in _WORDS], 1, 0.6)
        if close:
            [word] = [word for word in _WORDS if word.lower() == close[0]]
            hint = f"did you mean {word!r}?"
        elif _DIGITS.fullmatch(value):
            hint = "write it without the quotes"
        else:
            hint = "known words are " + ", ".join(_WORDS)
        number = "a number of bytes" if is_memory else "a number"
        raise LimitsFileError(path, f"must be {number} or a word, not {_kind(value)}; {hint}")

    # sections of our own: always strict, as no other program has files with them

    def _table(self, path: str, value: Any, known: Iterable[str] | None) -> dict[str, Any]:
        table = dict(_Reader(False)._items(path, value, known))
        for key, each in table.items():
            if isinstance(each, _Fraction):
                table[key] = float(each)
        return table

    def _some_of(self, kind: type[Any], path: str, value: Any) -> Mapping[str, Any]:
        """Those of its fields that are named, which make one of that kind."""
        known = [each.name for each in fields(kind)]
        named = self._words(self._table(path, value, known))
        _made(path, kind, named)
        return named

    def _words(self, table: dict[str, Any]) -> dict[str, Any]:
        """TOML has no null: "unlimited" for no limit."""
        return {key: None if each == "unlimited" else each for key, each in table.items()}

    def _subnets(self, path: str, value: Any) -> SubnetLimits:
        table = self._table(path, value, ("ipv4", "ipv6", "overrides"))
        arguments: dict[str, Any] = {}
        for key, each in table.items():
            entries = self._words(self._table(f"{path}.{key}", each, None))
            arguments[key] = entries if key == "overrides" else _lengths(f"{path}.{key}", entries)
        return _made(path, SubnetLimits, arguments)

    def _rates(self, path: str, value: Any) -> AddressRates:
        known = ("ipv4", "ipv6", "overrides", "overall", "max_networks", "on_full")
        table = self._table(path, value, known)
        arguments: dict[str, Any] = {}
        for key, each in table.items():
            where = f"{path}.{key}"
            if key in ("max_networks", "on_full"):
                arguments[key] = each
            elif key == "overall":
                arguments[key] = self._rate(where, each)
            else:
                entries = {
                    name: self._rate(f"{where}.{name}", rate)
                    for name, rate in self._table(where, each, None).items()
                }
                arguments[key] = entries if key == "overrides" else _lengths(where, entries)
        return _made(path, AddressRates, arguments)

    def _rate(self, path: str, value: Any) -> Rate | None:
        if value is None or value == "unlimited":
            return None
        return _made_by(path, Rate.from_dict,
                        self._table(path, value, [each.name for each in fields(Rate)]))


def _lengths(path: str, entries: Mapping[str, Any]) -> tuple[tuple[int, Any], ...]:
    for length in entries:
        if not (length.isascii() and length.isdigit() and len(length) <= 3):
            raise LimitsFileError(f"{path}.{length}", "must be a prefix length")
    return tuple((int(length), value) for length, value in entries.items())


def _made(path: str, kind: type[T], arguments: Mapping[str, Any]) -> T:
    return _made_by(path, lambda values: kind(**values), arguments)


def _made_by(path: str, make: Callable[[Any], T], arguments: Mapping[str, Any]) -> T:
    try:
        return make(arguments)
    except (TypeError, ValueError, OverflowError) as error:
        raise LimitsFileError(path, str(error)) from None


def _peer_key(path: str, text: str) -> bytes:
    """A peer id from base58 text or a CID. LimitsFileError: it is none."""
    import base58

    try:
        if text.startswith(("Qm", "1")):
            key = base58.b58decode(text)
        elif text.startswith("b"):  # multibase: base32; then CIDv1, libp2p-key
            data = base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8))
            if text != text.lower() or data[:2] != b"\x01\x72":
                raise ValueError
            key = data[2:]
        else:
            raise ValueError
        # a multihash: its code, its length, as many bytes; sha2-256 or identity
        if len(key) < 3 or key[0] not in (0x12, 0x00) or key[1] != len(key) - 2:
            raise ValueError
        if key[0] == 0x12 and key[1] != 32:
            raise ValueError
    except ValueError:
        raise LimitsFileError(path, "not a peer id") from None
    return key


# -- writing -----------------------------------------------------------------------------------


def _limit_shown(limit: PartialLimit) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, name in _FIELDS.items():
        value = getattr(limit, name)
        if value is DEFAULT:
            continue
        if value is None:
            shown[key] = "unlimited"
        elif value == 0:
            shown[key] = "blockAll"
        else:
            shown[key] = str(value) if key == "Memory" else value
    return shown


def _shown(value: Any) -> Any:
    if value is None:
        return "unlimited"
    return value.to_dict() if isinstance(value, Rate) else value


def _networks_shown(section: SubnetLimits | AddressRates) -> dict[str, Any]:
    return {
        "ipv4": {str(bits): _shown(value) for bits, value in section.ipv4},
        "ipv6": {str(bits): _shown(value) for bits, value in section.ipv6},
        "overrides": {network: _shown(value) for network, value in section.overrides.items()},
    }


def _toml_lines(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[str]:
    if path:
        yield ""
        yield f"[{'.'.join(map(_toml_key, path))}]"
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(value, (*path, key))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key, re.ASCII) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's strings are TOML's but for one character, which JSON leaves as it is
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
