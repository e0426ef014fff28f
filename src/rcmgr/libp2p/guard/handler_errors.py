"""Let the error of a stream's handler end this stream, and not the whole host."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.errors import printable
from rcmgr.libp2p.hooks import Hook

__all__ = ["contain_handler_errors"]

logger = logging.getLogger(__name__)

# A stranger who finds such an error can repeat it. The others are logged at DEBUG.
_TRACEBACKS = TokenBucket(8, 0.1)


async def _handling(original: Callable[[Any], Awaitable[None]], stream: Any) -> None:
    """libp2p 0.8.1: network/connection/swarm_connection.py line 309. An exception passes through
    the nurseries of the connection and of the swarm, and `host.run` raises it.
    """
    try:
        await original(stream)
    except Exception:
        level = logging.ERROR if _TRACEBACKS.try_consume() else logging.DEBUG
        logger.log(
            level, "the handler of %s failed for a stream of %s; the stream is reset",
            printable(str(stream.get_protocol())), stream.muxed_conn.peer_id, exc_info=True)
        await stream.reset()


def contain_handler_errors(swarm: Any) -> Hook:
    """Log an error of a stream's handler and reset the stream, until `undo`.

    At most 8 errors at once, and one more in 10 s, are logged at ERROR with their traceback.
    """
    return Hook(swarm, "common_stream_handler", _handling)
