"""Make every py-libp2p node of this process use our resource manager."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, check_version
from rcmgr.limits.files import LimitsFile, NodeLimits

__all__ = ["install", "installed", "is_installed", "uninstall"]

_lock = threading.RLock()
_in_place: list[tuple[type, type]] = []  # theirs, ours, while ours are in their places
_hooks: list[Hook] = []


def install(limits: NodeLimits | None = None, *, harden: bool = False) -> None:
    """From now on, `libp2p.rcmgr.ResourceManager` is ours, under whatever name it was imported.

    Also what `new_host()` makes by default, and every other class that
    `rcmgr.libp2p.dropin.REPLACED` names. `Direction`, the exceptions and all other names stay
    py-libp2p's, and ours take their objects. Hosts that are made with ours ask it when they accept
    a TCP connection, before they spend anything on it. What was made before stays as it is. A
    second call changes limits and `harden` only. Thread safe.

    limits: of managers that are made without any; default those of the file that the environment's
        RCMGR_LIMITS names (TOML or go-libp2p's JSON), else py-libp2p's own defaults. What the file
        leaves open is as in `NodeLimits.default()`, and on states and memory as in py-libp2p.
    harden: call `rcmgr.libp2p.harden` for every host that is made from now on.
    LimitsFileError, OSError: the file cannot be used. Libp2pMismatch: libp2p is not as expected.
    After an error nothing has changed.
    """
    check_version("rcmgr.install")
    if limits is None:
        limits = _limits_of_environment()
    with _lock:
        before = is_installed()
        try:
            if not before:
                from rcmgr.libp2p.dropin import replacements

                found = replacements()
                _rebind({id(theirs): ours for theirs, ours in found})
                _in_place.extend(found)
            hook = _guard_hosts(harden)
        except BaseException as error:
            if not before:
                uninstall()
            if isinstance(error, (ImportError, AttributeError, TypeError)):
                raise Libp2pMismatch(f"libp2p is not as expected: {error}") from error
            raise
        from rcmgr.libp2p.dropin.manager import set_default_limits

        set_default_limits(limits)
        _take_hooks_away()
        _hooks.append(hook)


def uninstall() -> None:
    """Undo `install`: all names are py-libp2p's again. Managers that exist stay. Thread safe."""
    with _lock:
        if not _in_place:
            return
        from rcmgr.libp2p.dropin.manager import set_default_limits

        _rebind({id(ours): theirs for theirs, ours in _in_place})
        _in_place.clear()
        _take_hooks_away()
        set_default_limits(None)


@contextmanager
def installed(limits: NodeLimits | None = None, *, harden: bool = False) -> Iterator[None]:
    """`install` for the duration of a block; what was installed before stays."""
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
    """In every module, whatever the name. By identity: not every value can be compared or hashed.
    """
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith("rcmgr."):
            continue
        for name, value in list(vars(module).items()):
            after = after_by_id.get(id(value))
            if after is not None:
                setattr(module, name, after)


def _take_hooks_away() -> None:
    while _hooks:
        _hooks.pop().undo()


def _guard_hosts(hardened: bool) -> Hook:
    """What the hosts get that are made from now on; tried with one, as to fail now if at all."""
    from libp2p import new_host
    from libp2p.host.basic_host import BasicHost
    from libp2p.network.swarm import Swarm

    from rcmgr.libp2p.dropin.manager import ResourceManager as DropIn
    from rcmgr.libp2p.guard.accept_gate import gate_accepts
    from rcmgr.libp2p.guard.hardening import Hardening, harden
    from rcmgr.manager import ResourceManager

    def guard(host: Any) -> Hardening | None:
        gate_accepts(host.get_network())
        return harden(host) if hardened else None

    on_trial = guard(new_host(resource_manager=DropIn()))
    if on_trial is not None:
        on_trial.undo()

    def made(original: Any) -> Any:
        def init(host: Any, *args: Any, **kwargs: Any) -> None:
            original(host, *args, **kwargs)
            network = host.get_network()
            manager = getattr(network, "_resource_manager", None)
            if isinstance(manager, ResourceManager) and (hardened or isinstance(network, Swarm)):
                guard(host)

        return init

    return Hook(BasicHost, "__init__", made)


def _limits_of_environment() -> NodeLimits | None:
    path = os.environ.get("RCMGR_LIMITS")
    if not path:
        return None
    from rcmgr.libp2p.dropin.manager import node_limits_by_default

    return LimitsFile.read(Path(path)).build(node_limits_by_default())
