"""The only room that knows py-libp2p's insides. Written for libp2p 0.8.1."""

from rcmgr.libp2p.guard.handlers import Guarding, guard_handlers, limit_protocols
from rcmgr.libp2p.guard.hardening import Hardening, harden
from rcmgr.libp2p.guard.remote_addresses import RemoteAddresses, report_remote_addresses
from rcmgr.libp2p.guard.stream_scopes import ScopedStreams, manager_of, scope_streams
from rcmgr.libp2p.hooks import Libp2pMismatch, UnverifiedLibp2pWarning
from rcmgr.libp2p.installation import install, installed, is_installed, uninstall
from rcmgr.libp2p.observe.host_observer import HostObserver, observe

__all__ = [
    "Guarding",
    "Hardening",
    "HostObserver",
    "Libp2pMismatch",
    "RemoteAddresses",
    "ScopedStreams",
    "UnverifiedLibp2pWarning",
    "guard_handlers",
    "harden",
    "install",
    "installed",
    "is_installed",
    "limit_protocols",
    "manager_of",
    "observe",
    "report_remote_addresses",
    "scope_streams",
    "uninstall",
]
