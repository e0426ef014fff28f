"""Numbers that go-libp2p computed from its default limits: data/go_libp2p_limits.json."""

from __future__ import annotations

import json
from pathlib import Path

from rcmgr import Limit

GO = json.loads((Path(__file__).parent / "data" / "go_libp2p_limits.json").read_text())
ORDER = (
    "streams", "streams_inbound", "streams_outbound", "conns", "conns_inbound", "conns_outbound",
    "fd", "memory",
)
GO_NAMES = {
    "System": "system", "Transient": "transient", "AllowlistedSystem": "allowlisted_system",
    "AllowlistedTransient": "allowlisted_transient", "ServiceDefault": "service_default",
    "ServicePeerDefault": "service_peer_default", "ProtocolDefault": "protocol_default",
    "ProtocolPeerDefault": "protocol_peer_default", "PeerDefault": "peer_default",
    "Conn": "conn", "Stream": "stream",
}


def row(limit: Limit) -> list[int | None]:
    return [getattr(limit, name) for name in ORDER]
