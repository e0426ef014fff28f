"""A Unix socket that answers with a given text, to stand in for a node."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def answers_once(path: Path, answer: bytes) -> Iterator[None]:
    """The first client of `path` receives this answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            connection.makefile("rb").readline()  # the request
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=reply)
        thread.start()
        yield
        thread.join()
