"""How much memory this process may have: the machine's, or less in a container.

A bound that cannot be read is no bound. Nothing here raises if a system or a library fails.
"""

from __future__ import annotations

import logging
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MemoryBound",
    "memory_bounds",
    "memory_pressure",
    "shown_size",
    "tightest",
    "total_memory",
]

logger = logging.getLogger(__name__)

# cgroup v1 writes its largest page count for no limit
_NO_LIMIT_V1 = 1 << 62
_MOST_DIGITS = 19
_MAX_AGE_S = 5.0


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """One bound on the memory of this process."""

    kind: str
    """physical memory, or the cgroup's file: memory.max, memory.high, memory.limit_in_bytes."""
    bytes: int
    path: str = ""
    """The file that has it; empty for physical memory."""

    def __str__(self) -> str:
        return f"{shown_size(self.bytes)}  {self.kind}" + (f"  ({self.path})" if self.path else "")


def memory_bounds(root: Path = Path("/")) -> tuple[MemoryBound, ...]:
    """The bounds on the memory of this process now, as far as they can be read.

    root: the folder of /proc and /sys. On systems other than Linux only the physical memory counts.
    Reads some ten small files (about 0.3 ms). Source: the kernel's admin-guide, cgroup-v2 and
    cgroup-v1/memory.
    """
    physical = _physical_memory()
    bounds = [] if physical is None else [MemoryBound("physical memory", physical)]
    return (*bounds, *_cgroup_bounds(root))


def tightest(bounds: Iterable[MemoryBound]) -> MemoryBound | None:
    """The smallest bound. None: no bound is known."""
    return min(bounds, key=lambda bound: bound.bytes, default=None)


class _Total:
    """The smallest bound in bytes, read again every few seconds: containers are resized live."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = float("-inf")
        self._bytes: int | None = None

    def __call__(self) -> int | None:
        now = self._clock()
        if now - self._read_at >= _MAX_AGE_S:
            bound = tightest(memory_bounds())
            self._bytes = None if bound is None else bound.bytes
            self._read_at = now
        return self._bytes


_total = _Total()


def total_memory() -> int | None:
    """Bytes: the smallest of physical memory and the limits of the process's own cgroups.

    None: both are unknown.
    At most 5 s old; about 100 ns unless it is read again. Thread safe.
    """
    return _total()


def memory_pressure(root: Path = Path("/")) -> float | None:
    """How much of the last 10 s some task waited for memory, in percent. None: unknown.

    The larger of /proc/pressure/memory and the own cgroup's memory.pressure ("some avg10").
    """
    files = [root / "proc/pressure/memory"]
    files += [folder / "memory.pressure" for folder, _ in _cgroup_folders(root, version=2)][:1]
    found = [value for value in map(_some_avg10, files) if value is not None]
    return max(found, default=None)


def _physical_memory() -> int | None:
    # /proc/meminfo first: some containers have their own
    # systemd's ProcSubset=pid hides it, and limits must still work
    for source in (_memory_by_psutil, _memory_by_sysconf):
        try:
            total = source()
        except Exception:
            logger.debug("%s failed", source.__name__, exc_info=True)
            continue
        if total > 0:
            return total
    return None


def _memory_by_psutil() -> int:
    import psutil

    return operator.index(psutil.virtual_memory().total)


def _memory_by_sysconf() -> int:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size if pages > 0 else 0


def _cgroup_bounds(root: Path) -> Iterator[MemoryBound]:
    for version, kinds in ((2, ("memory.max", "memory.high")), (1, ("memory.limit_in_bytes",))):
        for folder, _ in _cgroup_folders(root, version=version):
            for kind in kinds:
                limit = _limit(folder / kind)
                if limit is not None:
                    yield MemoryBound(kind, limit, f"/{folder.relative_to(root)}/{kind}")


def _cgroup_folders(root: Path, *, version: int) -> Iterator[tuple[Path, str]]:
    """The folders of the process's memory cgroup and its ancestors up to the mount, inside out.

    A machine may mount the tree, or other parts, several times. A mount that does not hold the
    process's cgroup counts only if no mount holds it.
    """
    cgroup = _own_cgroup(root, version)
    if cgroup is None:
        return
    mounts = _mounts(root, version)
    for mounted, point in [each for each in mounts if _below(cgroup, each[0])] or mounts:
        path = cgroup.removeprefix(mounted) if _below(cgroup, mounted) else cgroup
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = root.joinpath(point.lstrip("/"), *parts[:depth])
            if os.path.isdir(folder):  # unlike `Path.is_dir`, this does not raise
                yield folder, "/".join(parts[:depth])


def _below(cgroup: str, mounted: str) -> bool:
    return mounted == "/" or cgroup == mounted or cgroup.startswith(mounted + "/")


def _own_cgroup(root: Path, version: int) -> str | None:
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (version == 2 and number == "0" and controllers == "") or (
            version == 1 and "memory" in controllers.split(",")
        ):
            return path
    return None


def _mounts(root: Path, version: int) -> list[tuple[str, str]]:
    """The cgroup at the top of each mount, and the mount's folder."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (version == 2 and kind[0] == "cgroup2") or (
            version == 1 and kind[0] == "cgroup" and "memory" in kind[2].split(",")
        ):
            found.append((_unescape(fields[3]), _unescape(fields[4])))
    return found


def _unescape(path: str) -> str:
    """mountinfo writes blanks in paths as octal escapes."""
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(escape, char)
    return path


def _limit(file: Path) -> int | None:
    text = "".join(_lines(file)[:1])
    if not text.isdecimal():
        return None  # "max", or no such file
    digits = text.lstrip("0")
    limit = int(digits) if 0 < len(digits) <= _MOST_DIGITS else 0
    return limit if 0 < limit < _NO_LIMIT_V1 else None


def _some_avg10(file: Path) -> float | None:
    for line in _lines(file):
        if line.startswith("some "):
            for field in line.split():
                if field.startswith("avg10="):
                    return _number(field.removeprefix("avg10="))
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, ValueError):  # ValueError: the path has a NUL
        return []  # not Linux, not mounted, or not for us: nothing is bounded by it


def shown_size(count: int) -> str:
    """Bytes as text."""
    return f"{count / (1 << 20):,.0f} MiB"
