"""The connection to the engine: Valkey, or a server that speaks its protocol."""

from __future__ import annotations

import hashlib
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from rcmgr.extras import require

__all__ = ["Engine", "EngineError", "safe_url"]

_PLAIN: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
_KINDS: Final = ("", "cluster", "sentinel")
_SCHEMES: Final = "valkey, valkeys, redis, rediss, valkey+cluster, valkey+sentinel and unix"


class EngineError(Exception):
    """The engine did not do it. The text says why, without the password."""


class Engine:
    """A client of the engine. One thread at a time may use it; each thread makes its own.

    url: valkey://USER:PASSWORD@HOST:PORT/DB, or valkeys:// for TLS. redis:// and rediss:// are the
        same. valkey+cluster:// and valkeys+cluster:// name a node of a cluster.
        valkey+sentinel://HOST:PORT,HOST:PORT/MASTER/DB names sentinels. unix:///PATH is a socket.
        Options of the client may follow, such as ?ssl_ca_certs=/path.
    timeout: seconds for one command, also to connect.

    ValueError: not such a URL. ImportError: the client is missing. No call of the constructor
    connects.
    """

    def __init__(self, url: str, timeout: float) -> None:
        require("valkey", "a fleet", "fleet")
        self.place = safe_url(url)
        """The URL without user, password and options."""
        self._secrets = _secrets(url)
        self._url, self._timeout = url, timeout
        self._client: Any = None
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
        from valkey.exceptions import NoScriptError, ValkeyError

        try:
            if self._client is None:
                self._client = _client_of(self._url, self._timeout)
            return getattr(self._client, command)(*arguments, **options)
        except NoScriptError:
            raise
        except (ValkeyError, OSError, ValueError) as error:
            raise EngineError(self._safe(error)) from None

    def listen(self, channel: str) -> Any:
        """A subscription, with `get_message(timeout=...)`. EngineError."""
        from valkey.exceptions import ValkeyError

        try:
            if self._client is None:
                self._client = _client_of(self._url, self._timeout)
            subscription = self._client.pubsub(ignore_subscribe_messages=True)
            subscription.subscribe(channel)
            return subscription
        except (ValkeyError, OSError, ValueError) as error:
            raise EngineError(self._safe(error)) from None

    def next_message(self, subscription: Any, timeout: float) -> bytes | None:
        """The next message; None: no message in so many seconds. EngineError: it is cut off."""
        from valkey.exceptions import ValkeyError

        try:
            message = subscription.get_message(timeout=timeout)
        except (ValkeyError, OSError, ValueError) as error:
            raise EngineError(self._safe(error)) from None
        return None if message is None else message["data"]

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

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
    try:
        parts = urlsplit(url)
        _check(parts.scheme, parts.netloc, parts.path)
    except ValueError as error:
        # the message must not repeat the URL, which has a password
        raise ValueError(f"url is no URL of an engine: {error}") from None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check(scheme: str, netloc: str, path: str) -> None:
    base, _, kind = scheme.partition("+")
    if scheme == "unix":
        if not path:
            raise ValueError("unix:// needs the path of a socket")
        return
    if base not in _PLAIN or kind not in _KINDS or scheme.endswith("+"):
        raise ValueError(f"its scheme must be one of {_SCHEMES}, not {scheme!r}")
    hosts = netloc.rpartition("@")[2]
    if not hosts:
        raise ValueError("it names no host")
    for each in hosts.split(","):
        port = urlsplit(f"//{each}").port  # ValueError: not a number, or too large
        if port == 0:
            raise ValueError("port 0 cannot be connected to")
    if kind == "sentinel" and not path.strip("/"):
        raise ValueError("valkey+sentinel:// needs the name of the master after the hosts")


def _secrets(url: str) -> list[str]:
    """Texts that no message may have, the longest first."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    password = credentials.partition(":")[2]
    options = [value for name, value in parse_qsl(parts.query) if "password" in name]
    found = {password, unquote(password), *options} - {""}
    return sorted(found, key=len, reverse=True)


def _client_of(url: str, timeout: float) -> Any:
    """A client that tries each command once: the caller knows what a loss means."""
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
        return cluster.from_url(plain, cluster_error_retry_attempts=1, **options)
    if kind == "sentinel":
        return _master(parts, bool(_PLAIN[base]), options)
    return valkey.Valkey.from_url(plain, **options)


def _master(parts: Any, is_tls: bool, options: dict[str, Any]) -> Any:
    from valkey import sentinel
    from valkey.connection import parse_url

    credentials, _, hosts = parts.netloc.rpartition("@")
    name, _, db = parts.path.strip("/").partition("/")
    known = [urlsplit(f"//{each}") for each in hosts.split(",")]
    query = urlencode(parse_qsl(parts.query))
    one = parse_url(f"{'valkeys' if is_tls else 'valkey'}://{credentials}@host/{db}?{query}")
    one.pop("host")
    one.pop("connection_class", None)
    sentinels: Any = sentinel.Sentinel
    return sentinels(
        [(each.hostname, each.port or 26379) for each in known],
        sentinel_kwargs={
            "socket_timeout": options["socket_timeout"],
            "socket_connect_timeout": options["socket_connect_timeout"]},
        ssl=is_tls, **options, **one).master_for(name)
