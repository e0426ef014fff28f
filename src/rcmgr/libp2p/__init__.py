"""What needs to know py-libp2p's insides. Written for libp2p 0.8.1."""

from rcmgr.libp2p.protocols import LimitedProtocols, limit_protocols

__all__ = ["LimitedProtocols", "limit_protocols"]
