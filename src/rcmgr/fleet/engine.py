"""The connection to the engine: Valkey, or a server that speaks its protocol."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from rcmgr.extras import require

__all__ = ["Engine", "EngineError", "safe_url"]

_PLAIN: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
_KINDS: Final = ("", "cluster", "sentinel")
_SCHEMES: Final = "valkey, valkeys, redis, rediss, valkey+cluster, valkey+sentinel and unix"
_ESCAPE: Final = "escape / # ? and @ in the password (percent-encoding)"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _one_of(*texts: str) -> Callable[[str], object]:
    return texts.index


_OPTIONS: Final[Mapping[str, Callable[[str], object]]] = {
    "db": _count, "username": str, "password": str, "client_name": str,
    "protocol": _one_of("2", "3"), "max_connections": _count, "health_check_interval": _count,
    "socket_timeout": _seconds, "socket_connect_timeout": _seconds, "socket_keepalive": str,
    "retry_on_timeout": str,
}
"""Options of the client that a URL may have. Each function raises a ValueError for a bad text."""
_TLS_OPTIONS: Final[Mapping[str, Callable[[str], object]]] = {
    "ssl_keyfile": str, "ssl_certfile": str, "ssl_password": str, "ssl_ca_certs": str,
    "ssl_ca_path": str, "ssl_ca_data": str, "ssl_check_hostname": str, "ssl_ciphers": str,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
}


class EngineError(Exception):
    """The engine did not do it. The text says why, without the password."""


class Engine:
    """A client of the engine. One thread at a time may use it; each thread makes its own.

    url: valkey://USER:PASSWORD@HOST:PORT/DB, or valkeys:// for TLS. redis:// and rediss:// are the
        same. valkey+cluster:// and valkeys+cluster:// name a node of a cluster.
        valkey+sentinel://HOST:PORT,HOST:PORT/MASTER/DB names sentinels. unix:///PATH is a socket.
        Options of the client may follow, such as ?ssl_ca_certs=/path.
    timeout: seconds for one command, also to connect.

    ValueError: not such a URL, or a wrong option. ImportError: the client is missing. The
    constructor does not connect.
    """

    def __init__(self, url: str, timeout: float) -> None:
        require("valkey", "a fleet", "fleet")
        self.place = safe_url(url)
        """The URL without user, password and options."""
        _check_options(urlsplit(url))
        self._secrets = _secrets(url)
        self._url, self._timeout = url, timeout
        self._clients: list[Any] = []
        self._hashes: dict[str, str] = {}

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> Any:
        """The reply of a script. The engine keeps scripts by their hash, until it is restarted."""
        from valkey.exceptions import NoScriptError

        sha = self._hashes.get(script)
        if sha is None:
            sha = self._hashes[script] = hashlib.sha1(
                script.encode(), usedforsecurity=False).hexdigest()
        try:
            return self._call("evalsha", sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return self.call("eval", script, len(keys), *keys, *arguments)

    def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """The reply of a command. EngineError."""
        from valkey.exceptions import NoScriptError

        try:
            return self._call(command, *arguments, **options)
        except NoScriptError as error:
            raise EngineError(str(error)) from None

    def _call(self, command: str, *arguments: Any, **options: Any) -> Any:
        from valkey.exceptions import NoScriptError

        with self._lost_on_error(NoScriptError):
            return getattr(self._client(), command)(*arguments, **options)

    def listen(self, channel: str) -> Any:
        """A subscription, with `get_message(timeout=...)`. EngineError."""
        with self._lost_on_error():
            subscription = self._client().pubsub(ignore_subscribe_messages=True)
            subscription.subscribe(channel)
            return subscription

    def next_message(self, subscription: Any, timeout: float) -> bytes | None:
        """The next message; None: no message in so many seconds. EngineError: it is cut off."""
        with self._lost_on_error():
            message = subscription.get_message(timeout=timeout)
        return None if message is None else message["data"]

    def close(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def _client(self) -> Any:
        if not self._clients:
            self._clients = _clients_of(self._url, self._timeout)
        return self._clients[0]

    @contextmanager
    def _lost_on_error(self, *passed: type[Exception]) -> Iterator[None]:
        """EngineError for each exception of the client: it documents no base type of all."""
        try:
            yield
        except passed:
            raise
        except Exception as error:  # noqa: BLE001
            raise EngineError(self._safe(error)) from None

    def _safe(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:200]

    def __repr__(self) -> str:
        return f"Engine({self.place!r})"


def safe_url(url: object) -> str:
    """The URL without user, password and options. ValueError: it is no URL of an engine."""
    if not isinstance(url, str):
        raise TypeError(f"url must be text such as valkey://host:6379/0, not {type(url).__name__}")
    parts = _split(url)
    if any("@" in part for part in (parts.path, parts.query, parts.fragment)):
        raise ValueError(f"url is no URL of an engine: {_ESCAPE}")
    _check(parts.scheme, parts.netloc, parts.path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its text may have the password
        raise ValueError(
            "url is no URL of an engine: its host is no name or [IPv6] address, or the password "
            "has a character to escape (percent-encoding)") from None


def _check(scheme: str, netloc: str, path: str) -> None:
    """The messages repeat no part of the URL: any part may be one of the password."""
    wrong = "url is no URL of an engine"
    base, _, kind = scheme.partition("+")
    if scheme == "unix":
        if not path:
            raise ValueError(f"{wrong}: unix:// needs the path of a socket")
        return
    if base not in _PLAIN or kind not in _KINDS or scheme.endswith("+"):
        raise ValueError(f"{wrong}: its scheme must be one of {_SCHEMES}")
    hosts = netloc.rpartition("@")[2].split(",")
    if not all(hosts):
        raise ValueError(f"{wrong}: it names no host")
    if len(hosts) > 1 and kind != "sentinel":
        raise ValueError(f"{wrong}: only valkey+sentinel:// may name several hosts")
    for each in hosts:
        if _port(each) == 0:
            raise ValueError(f"{wrong}: port 0 cannot be connected to")
    if kind == "sentinel" and not path.strip("/"):
        raise ValueError(
            f"{wrong}: valkey+sentinel:// needs the name of the master after the hosts")


def _port(host: str) -> int | None:
    parts = _split(f"//{host}")
    try:
        return parts.port
    except ValueError:  # its text may have the password
        raise ValueError(
            "url is no URL of an engine: its port must be a number in the range 1 to 65535. "
            f"Also {_ESCAPE}") from None


def _check_options(parts: SplitResult) -> None:
    """ValueError: the client does not take an option. It names the option, not its value."""
    base, _, kind = parts.scheme.partition("+")
    known = {**_OPTIONS, **_TLS_OPTIONS} if _PLAIN.get(base) else _OPTIONS
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            hint = "needs valkeys://" if name in _TLS_OPTIONS else (
                f"must be one of {', '.join(known)}")
            raise ValueError(f"url: option {name!r} {hint}")
        try:
            known[name](text)
        except ValueError:  # its text has the value
            raise ValueError(f"url: option {name!r} has a wrong value") from None
        if name == "db" and kind == "cluster":
            raise ValueError("url: option 'db' is not for a cluster")


def _secrets(url: str) -> list[str]:
    """Texts that no message may have, the longest first."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    password = credentials.partition(":")[2]
    options = [value for name, value in parse_qsl(parts.query) if "password" in name]
    given = [password, *options]  # the client decodes options twice
    found = {*given, *map(unquote, given)} - {""}
    return sorted(found, key=len, reverse=True)


def _clients_of(url: str, timeout: float) -> list[Any]:
    """A client that tries each command once: the caller knows what a loss means.

    Those of its sentinels follow. To close the client does not close them.
    """
    import valkey
    from valkey.backoff import NoBackoff
    from valkey.retry import Retry

    parts = urlsplit(url)
    base, _, kind = parts.scheme.partition("+")
    options: dict[str, Any] = {
        "socket_timeout": timeout, "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    if _PLAIN.get(base) and "ssl_check_hostname" not in dict(parse_qsl(parts.query)):
        options["ssl_check_hostname"] = True
    plain = urlunsplit(("unix" if base == "unix" else base, *parts[1:]))
    if kind == "cluster":
        cluster: Any = valkey.ValkeyCluster
        return [cluster.from_url(plain, cluster_error_retry_attempts=1, **options)]
    if kind == "sentinel":
        return _master(parts, bool(_PLAIN[base]), options)
    return [valkey.Valkey.from_url(plain, **options)]


def _master(parts: Any, is_tls: bool, options: dict[str, Any]) -> list[Any]:
    from valkey import sentinel
    from valkey.connection import parse_url

    credentials, _, hosts = parts.netloc.rpartition("@")
    name, _, db = parts.path.strip("/").partition("/")
    known = [urlsplit(f"//{each}") for each in hosts.split(",")]
    query = urlencode(parse_qsl(parts.query))
    one = parse_url(f"{'valkeys' if is_tls else 'valkey'}://{credentials}@host/{db}?{query}")
    one.pop("host")
    one.pop("connection_class", None)
    kind: Any = sentinel.Sentinel
    sentinels = kind(
        [(each.hostname, each.port or 26379) for each in known],
        sentinel_kwargs={
            "socket_timeout": options["socket_timeout"],
            "socket_connect_timeout": options["socket_connect_timeout"]},
        ssl=is_tls, **{**options, **one})
    return [sentinels.master_for(name), *sentinels.sentinels]
