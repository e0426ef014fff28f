"""How much memory this process may have: the machine's, or less in a container."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MemoryBound", "MemoryReport", "memory_pressure", "memory_report", "total_memory"]

# cgroup v1 writes its largest page count for no limit
_NO_LIMIT_V1 = 1 << 62
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
        return f"{_size(self.bytes)}  {self.kind}" + (f"  ({self.path})" if self.path else "")


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """All bounds. The smallest one applies. Prints as a few lines."""

    bounds: tuple[MemoryBound, ...]
    address_space_limit: int | None
    """RLIMIT_AS in bytes; None: no limit. It only bounds address space, so no limit uses it."""

    @property
    def bound(self) -> MemoryBound:
        return min(self.bounds, key=lambda bound: bound.bytes)

    @property
    def total_bytes(self) -> int:
        return self.bound.bytes

    def __str__(self) -> str:
        winner = self.bound
        lines = [f"100 % of memory is {_size(winner.bytes)}, set by {winner.kind}."]
        for bound in sorted(self.bounds, key=lambda bound: bound.bytes):
            lines.append(f"  {'*' if bound is winner else ' '} {bound}")
        if self.address_space_limit is not None:
            lines.append(
                f"    {_size(self.address_space_limit)}  RLIMIT_AS (address space; not applied)"
            )
        return "\n".join(lines)


def memory_report(root: Path = Path("/")) -> MemoryReport:
    """The bounds on the memory of this process now. Reads some ten small files (about 0.3 ms).

    root: the folder of /proc and /sys. On systems other than Linux only the physical memory counts.
    Source: the kernel's admin-guide, cgroup-v2 and cgroup-v1/memory.
    """
    bounds = [MemoryBound("physical memory", _physical_memory()), *_cgroup_bounds(root)]
    return MemoryReport(tuple(bounds), _address_space_limit())


class _Total:
    """`memory_report().total_bytes`, read again every few seconds: containers are resized live."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = float("-inf")
        self._bytes = 0

    def __call__(self) -> int:
        now = self._clock()
        if now - self._read_at >= _MAX_AGE_S:
            self._bytes = memory_report().total_bytes
            self._read_at = now
        return self._bytes


_total = _Total()


def total_memory() -> int:
    """Bytes: the smallest of physical memory and the limits of the process's own cgroups.

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


def _physical_memory() -> int:
    import psutil

    try:
        # /proc/meminfo first: in some containers it is their own
        return int(psutil.virtual_memory().total)
    except OSError:
        # systemd's ProcSubset=pid hides /proc/meminfo, and limits must still work
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _cgroup_bounds(root: Path) -> Iterator[MemoryBound]:
    for version, kinds in ((2, ("memory.max", "memory.high")), (1, ("memory.limit_in_bytes",))):
        for folder, _ in _cgroup_folders(root, version=version):
            for kind in kinds:
                limit = _limit(folder / kind)
                if limit is not None:
                    yield MemoryBound(kind, limit, f"/{folder.relative_to(root)}/{kind}")


def _cgroup_folders(root: Path, *, version: int) -> Iterator[tuple[Path, str]]:
    """The folders of the process's memory cgroup and its ancestors up to the mount, inside out."""
    cgroup = _own_cgroup(root, version)
    mount = _mount(root, version)
    if cgroup is None or mount is None:
        return
    mounted, point = mount
    if mounted != "/" and (cgroup == mounted or cgroup.startswith(mounted + "/")):
        cgroup = cgroup[len(mounted) :]
    parts = [part for part in cgroup.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = root.joinpath(point.lstrip("/"), *parts[:depth])
        if folder.is_dir():
            yield folder, "/".join(parts[:depth])


def _own_cgroup(root: Path, version: int) -> str | None:
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (version == 2 and number == "0" and controllers == "") or (
            version == 1 and "memory" in controllers.split(",")
        ):
            return path
    return None


def _mount(root: Path, version: int) -> tuple[str, str] | None:
    """Which cgroup is mounted where."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (version == 2 and kind[0] == "cgroup2") or (
            version == 1 and kind[0] == "cgroup" and "memory" in kind[2].split(",")
        ):
            return _unescape(fields[3]), _unescape(fields[4])
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks in paths as octal escapes."""
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(escape, char)
    return path


def _limit(file: Path) -> int | None:
    text = "".join(_lines(file)[:1])
    if not text.isdecimal():
        return None  # "max", or no such file
    limit = int(text)
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
    except OSError:
        return []  # not Linux, not mounted, or not for us: nothing is bounded by it


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
