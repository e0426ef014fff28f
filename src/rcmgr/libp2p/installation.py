"""Make every py-libp2p node of this process use our resource manager."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rcmgr.libp2p.hooks import Libp2pMismatch, Undo, check_version, hook_new, place_all
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits

__all__ = ["install", "installed", "is_installed", "uninstall"]

logger = logging.getLogger(__name__)
_lock = threading.RLock()
_in_place: list[tuple[type, type]] = []  # py-libp2p's class and ours, while `install` is in effect
_named_before: set[tuple[str, str]] = set()  # modules and their names for our classes before it
_unguard_hosts: Undo | None = None


def install(limits: NodeLimits | None = None, *, harden: bool = False) -> None:
    """Put our `ResourceManager` in the place of `libp2p.rcmgr.ResourceManager` in every module.

    It replaces the other classes in `rcmgr.libp2p.dropin.REPLACED` too, and `new_host()` makes it
    by default. `Direction`, the exceptions and all other names stay py-libp2p's; our classes take
    their objects. New hosts with our manager ask it when they accept a TCP connection, before they
    spend anything on it. Existing managers and hosts do not change. A second call changes only
    `limits` and `harden`. Thread safe.

    limits: for managers made without limits. The default comes from the file that the environment
        variable RCMGR_LIMITS names (TOML, or go-libp2p's JSON). With RCMGR_LIMITS_LENIENT=1,
        unknown keys of JSON are skipped, like in Go. Without a file, py-libp2p's defaults apply. A
        file that sets no limits on states or memory leaves py-libp2p's in place. Other limits that
        it does not set are as in `NodeLimits.default()`.
    harden: call `rcmgr.libp2p.harden` for every new host.

    If RCMGR_RECORD names a file, the first manager made later records itself there; see
    `ResourceManager.record`. With RCMGR_RECORD_IDENTITIES=1, peers and addresses are not
    hashed.

    LimitsFileError, OSError: the file cannot be used. Libp2pMismatch: libp2p is not as expected.
    After an error nothing has changed.
    """
    global _unguard_hosts
    check_version("rcmgr.install")
    if limits is None:
        limits = _limits_of_environment()
    with _lock:
        before = is_installed()
        try:
            if not before:
                from rcmgr.libp2p.dropin import replacements

                found = replacements()
                _named_before.update(
                    (module.__name__, name)
                    for module, name, _ in _names_of({id(ours) for _, ours in found}))
                _rebind({id(theirs): ours for theirs, ours in found})
                _in_place.extend(found)
            unguard = place_all(_guarding_hosts(harden))
        except BaseException as error:
            if not before:
                uninstall()
            if isinstance(error, (ImportError, AttributeError, TypeError)):
                raise Libp2pMismatch(f"libp2p is not as expected: {error}") from error
            raise
        from rcmgr.libp2p.dropin.manager import set_default_limits

        set_default_limits(limits)
        if not before:
            _record_first_manager()
        if _unguard_hosts is not None:
            _unguard_hosts()
        _unguard_hosts = unguard


def uninstall() -> None:
    """Undo `install`: all names are py-libp2p's again. Existing managers stay. Thread safe."""
    global _unguard_hosts
    with _lock:
        if not _in_place:
            return
        from rcmgr.libp2p.dropin.manager import set_default_limits

        _rebind({id(ours): theirs for theirs, ours in _in_place})
        _in_place.clear()
        _named_before.clear()
        if _unguard_hosts is not None:
            _unguard_hosts()
            _unguard_hosts = None
        set_default_limits(None)


@contextmanager
def installed(limits: NodeLimits | None = None, *, harden: bool = False) -> Iterator[None]:
    """`install` for the duration of a block. An earlier `install` stays in effect after it."""
    before = is_installed()
    install(limits, harden=harden)
    try:
        yield
    finally:
        if not before:
            uninstall()


def is_installed() -> bool:
    """Whether `install` is in effect."""
    return bool(_in_place)


def _rebind(after_by_id: dict[int, type]) -> None:
    """Replace classes in every module, under any name that was not ours before `install`.

    The keys are ids, because some values of modules cannot be compared or hashed.
    """
    for module, name, value in _names_of(after_by_id.keys()):
        if (module.__name__, name) not in _named_before:
            setattr(module, name, after_by_id[id(value)])


def _names_of(ids: Collection[int]) -> Iterator[tuple[ModuleType, str, Any]]:
    """The names of these values in every module but ours."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith("rcmgr."):
            continue
        for name, value in list(vars(module).items()):
            if id(value) in ids:
                yield module, name, value


def _guarding_hosts(hardened: bool) -> Iterator[Undo]:
    """Guard every new host. Tries it with one host first, so that a mismatch is found now."""
    from libp2p import new_host
    from libp2p.host.basic_host import BasicHost
    from libp2p.network.swarm import Swarm

    from rcmgr.libp2p.guard.accept_gate import gate_accepts
    from rcmgr.libp2p.guard.hardening import harden
    from rcmgr.libp2p.guard.inbound_slots import free_inbound_slots
    from rcmgr.libp2p.guard.quic_listeners import single_refusals
    from rcmgr.libp2p.guard.quic_retry import quic_retries
    from rcmgr.libp2p.guard.quic_shares import quic_shares
    from rcmgr.manager import ResourceManager

    def guarding(host: Any) -> Iterator[Undo]:
        yield gate_accepts(host.get_network())
        # hardening frees the slots too
        yield harden(host).undo if hardened else free_inbound_slots(host.get_network())

    undo_trial = place_all(guarding(new_host(resource_manager=ResourceManager(fleet=""))))
    undo_trial()

    def guard_if_ours(host: Any) -> None:
        network = host.get_network()
        manager = getattr(network, "_resource_manager", None)
        if isinstance(manager, ResourceManager) and (hardened or isinstance(network, Swarm)):
            place_all(guarding(host))

    yield single_refusals.use()
    yield quic_shares.use()
    yield quic_retries.use()
    yield hook_new(BasicHost, guard_if_ours).undo


def _record_first_manager() -> None:
    """Let the first manager of the program record itself, if the environment asks for it."""
    path = os.environ.get("RCMGR_RECORD")
    if not path:
        return
    from rcmgr.libp2p.dropin.manager import ResourceManager

    def record(manager: Any) -> None:
        hook.undo()
        identities = os.environ.get("RCMGR_RECORD_IDENTITIES", "") not in ("", "0")
        try:
            manager.record(path, identities=identities)
        except (OSError, ImportError) as error:
            logger.error("RCMGR_RECORD=%s: no record: %s", path, error)

    hook = hook_new(ResourceManager, record)


def _limits_of_environment() -> NodeLimits | None:
    path = os.environ.get("RCMGR_LIMITS")
    if not path:
        return None
    from rcmgr.libp2p.dropin.manager import node_limits_by_default

    lenient = os.environ.get("RCMGR_LIMITS_LENIENT", "") not in ("", "0")
    return LimitsFile.read(Path(path), lenient=lenient).build(node_limits_by_default())
