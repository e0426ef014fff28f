"""An HTTP server for a few readers, which strangers cannot exhaust."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

__all__ = ["BoundedHTTPServer"]

MOST_CONNECTIONS = 32
LONGEST_S = 10.0

logger = logging.getLogger(__name__)


class BoundedHTTPServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves each connection in a thread, at most 32 of them, and none for longer than 10 s.

    A further connection ends the oldest one, so that clients who never finish a request do not
    keep others out. It serves in a thread, from the constructor until `close`.

    OSError: the port is taken, or the address is none of this machine.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, addr: str, handler: type[BaseHTTPRequestHandler]) -> None:
        found = socket.getaddrinfo(
            addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = found[0][0], found[0][4]
        self._since: dict[socket.socket, float] = {}  # oldest first
        self._lock = threading.Lock()
        super().__init__(address, handler)  # type: ignore[arg-type]
        self._thread = threading.Thread(
            target=self.serve_forever, name=f"rcmgr http {self.port}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._since[request] = time.monotonic()
            oldest = next(iter(self._since)) if len(self._since) > MOST_CONNECTIONS else None
        if oldest is not None:
            self._end(oldest)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second: end the connections that take too long."""
        before = time.monotonic() - LONGEST_S
        with self._lock:
            late = [each for each, since in self._since.items() if since < before]
        for each in late:
            self._end(each)

    def _end(self, request: socket.socket) -> None:
        """Wake the thread of a connection, which then closes it."""
        with self._lock:  # its thread must not close it meanwhile
            if self._since.pop(request, None) is not None:
                with suppress(OSError):  # the client has ended it
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients end connections at any point. That is no news for the terminal."""
        logger.debug("a client of port %s failed", self.port, exc_info=True)

    def close(self) -> None:
        """Stop listening, and end all connections. A second call does nothing."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            rest = list(self._since)
        for each in rest:
            self._end(each)
