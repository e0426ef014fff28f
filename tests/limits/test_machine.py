"""The bounds on memory in trees of /proc and /sys, as kernels write them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from rcmgr import autoscale, memory_pressure, memory_report, total_memory
from rcmgr.limits.machine import MemoryBound, _Total

GIB = 1 << 30
PHYSICAL = psutil.virtual_memory().total


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = (
    "24 23 0:5 / /proc rw - proc proc rw\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
)


def test_without_cgroups_it_is_the_machine(tmp_path: Path) -> None:
    report = memory_report(tmp_path)
    assert report.total_bytes == PHYSICAL
    assert report.bound.kind == "physical memory"
    assert memory_pressure(tmp_path) is None


def test_v2_the_tightest_of_all_ancestors(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/system.slice/node.service"
    tree(tmp_path, {
        "proc/self/cgroup": "0::/system.slice/node.service\n",
        "proc/self/mountinfo": V2_MOUNT,
        f"{base}/memory.max": f"{4 * GIB}\n",
        f"{base}/memory.high": "max\n",
        "sys/fs/cgroup/system.slice/memory.max": f"{2 * GIB}\n",
        "sys/fs/cgroup/system.slice/memory.high": f"{3 * GIB}\n",
        f"{base}/memory.pressure": "some avg10=12.50 avg60=1.00 total=1\nfull avg10=1.0\n",
        "proc/pressure/memory": "some avg10=3.25 avg60=1.00 avg300=0.00 total=1\n",
    })
    report = memory_report(tmp_path)
    assert report.total_bytes == 2 * GIB
    assert report.bound.kind == "memory.max"
    assert report.bound.path == "/sys/fs/cgroup/system.slice/memory.max"
    assert {bound.bytes for bound in report.bounds} == {PHYSICAL, 4 * GIB, 2 * GIB, 3 * GIB}
    text = str(report)
    assert text.startswith("100 % of memory is 2,048 MiB, set by memory.max.")
    assert "* 2,048 MiB  memory.max  (/sys/fs/cgroup/system.slice/memory.max)" in text
    assert memory_pressure(tmp_path) == 12.5


def test_v2_high_may_be_the_tighter_one(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory.high": f"{GIB}\n",
    })
    assert memory_report(tmp_path).total_bytes == GIB
    assert memory_report(tmp_path).bound.kind == "memory.high"


def test_v1(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n1:cpu:/\n0::/\n",
        "proc/self/mountinfo": V1_MOUNT,
        "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    })
    report = memory_report(tmp_path)
    assert report.total_bytes == GIB
    assert report.bound.path == "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes"
    assert len(report.bounds) == 2


def test_a_container_that_sees_only_its_own_part_of_the_tree(tmp_path: Path) -> None:
    """Mounted from /docker/abc, while /proc/self/cgroup names the path on the machine."""
    tree(tmp_path, {
        "proc/self/cgroup": "4:memory:/docker/abc/inner\n",
        "proc/self/mountinfo": V1_MOUNT.replace(
            "0:32 / /sys/fs/cgroup/memory", "0:32 /docker/abc /sys/fs/cgroup/memory"),
        "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
    })
    assert memory_report(tmp_path).total_bytes == 2 * GIB


def test_a_path_outside_the_namespace_still_finds_the_mount(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/../../elsewhere\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": f"{GIB}\n",
    })
    assert memory_report(tmp_path).total_bytes == GIB


@pytest.mark.parametrize("text", ["", "max\n", "nonsense\n", "-5\n", "0\n", "1.5\n"])
def test_values_that_are_no_limit(tmp_path: Path, text: str) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "garbage\n" + V2_MOUNT,
        "sys/fs/cgroup/memory.max": text,
    })
    assert memory_report(tmp_path).total_bytes == PHYSICAL


def test_a_limit_above_the_machine_does_not_count(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": f"{PHYSICAL * 4}\n",
    })
    assert memory_report(tmp_path).total_bytes == PHYSICAL


def test_read_again_after_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    sizes = iter([1, 2, 3])

    def memory_bounds() -> tuple[MemoryBound]:
        return (MemoryBound("physical memory", next(sizes)),)

    monkeypatch.setattr("rcmgr.limits.machine.memory_bounds", memory_bounds)
    total = _Total(clock=lambda: now[0])
    assert total() == 1
    now[0] = 104.9
    assert total() == 1
    now[0] = 105.0
    assert total() == 2


def test_here() -> None:
    assert 0 < total_memory() <= PHYSICAL
    assert memory_report().total_bytes == total_memory()
    assert str(memory_report()).startswith("100 % of memory is ")


@pytest.mark.parametrize(
    "text", ["some avg10=x\n", "some avg10=\n", "some\n", "full avg10=9\n", ""])
def test_unreadable_pressure_is_unknown(tmp_path: Path, text: str) -> None:
    assert memory_pressure(tree(tmp_path, {"proc/pressure/memory": text})) is None


# -- sources that fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyError("MemTotal"), IndexError(), RuntimeError("no"), ImportError("psutil"),
              OSError(), ValueError()], ids=repr)
def test_a_psutil_that_fails_leaves_what_the_system_says(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails() -> object:
        raise error

    monkeypatch.setattr("psutil.virtual_memory", fails)
    expected = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_report(tmp_path).total_bytes == expected


@pytest.mark.parametrize("pages", [0, -1, None])
def test_a_total_that_no_source_knows_is_unknown(
    pages: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Nothing:
        total = 0

    def sysconf(name: str) -> int:
        if pages is None:
            raise ValueError("unrecognized configuration name")
        return pages

    monkeypatch.setattr("psutil.virtual_memory", Nothing)
    monkeypatch.setattr("os.sysconf", sysconf)
    report = memory_report(tmp_path)
    assert report.total_bytes is None
    assert report.bound is None
    assert str(report).startswith("100 % of memory is unknown")


def test_unknown_memory_gives_the_smallest_scaled_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcmgr.limits.scopes.total_memory", lambda: None)
    assert autoscale(fds=1024) == autoscale(memory=0, fds=1024)


def test_v2_a_mount_of_another_part_of_the_tree_does_not_hide_the_limit(tmp_path: Path) -> None:
    """Some hosts mount a cgroup of another container before their own tree."""
    tree(tmp_path, {
        "proc/self/cgroup": "0::/system.slice/node.service\n",
        "proc/self/mountinfo":
            "30 24 0:27 /other.slice /mnt/other rw - cgroup2 cgroup2 rw\n" + V2_MOUNT,
        "mnt/other/memory.max": "1000\n",
        "sys/fs/cgroup/system.slice/node.service/memory.max": "5000000\n",
    })
    assert memory_report(tmp_path).total_bytes == 5_000_000


def test_v2_the_tightest_of_several_mounts_of_the_tree(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": "30 24 0:27 /a /mnt/a rw - cgroup2 cgroup2 rw\n" + V2_MOUNT,
        "mnt/a/b/memory.max": "7000000\n",
        "sys/fs/cgroup/a/memory.max": "6000000\n",
    })
    assert memory_report(tmp_path).total_bytes == 6_000_000


@pytest.mark.parametrize("text", ["9" * 5000, "0" * 5000, "1" * 20, "\u0663" * 3, "1 2", "1\x002"])
def test_absurd_values_raise_nothing(tmp_path: Path, text: str) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/a\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/a/memory.max": text,
        "proc/pressure/memory": f"some avg10={text}\n",
    })
    report = memory_report(tmp_path)
    assert report.total_bytes in (PHYSICAL, 333)
    memory_pressure(tmp_path)


@pytest.mark.parametrize(("cgroup", "mountinfo"), [
    ("0::/a\0b\n", V2_MOUNT), ("0::/a\n", "31 23 0:28 / /sys/\0 rw - cgroup2 cgroup2 rw\n"),
    ("0::" + "/x" * 3000 + "\n", V2_MOUNT), ("0::/../../..\n", V2_MOUNT), ("0::\n", V2_MOUNT),
    ("\n\n:::\n0:\n", " - \n - cgroup2\n1 2 3 4 - cgroup2 a b\n"),
    ("\udcff\udcfe", "\udcff - \udcff"),
])
def test_absurd_trees_raise_nothing(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    for name, text in (("cgroup", cgroup), ("mountinfo", mountinfo)):
        file = tmp_path / "proc/self" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert memory_report(tmp_path).total_bytes == PHYSICAL


@pytest.mark.parametrize("error", [PermissionError, OSError, ValueError])
@pytest.mark.parametrize("function", ["stat", "open", "read"])
def test_files_that_may_not_be_read(
    tmp_path: Path, error: type[Exception], function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems show the folder of a cgroup only to its owner."""
    tree(tmp_path, {
        "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/a/memory.max": "5000000\n",
    })
    real = {"stat": os.stat, "open": Path.open, "read": Path.read_text}[function]

    def refused(path: object, *args: object, **kwargs: object) -> object:
        if "sys/fs" in str(path):
            raise error
        return real(path, *args, **kwargs)  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(os if function == "stat" else Path,
                      "read_text" if function == "read" else function, refused)
        found = memory_report(tmp_path).total_bytes
        memory_pressure(tmp_path)
    assert found in (PHYSICAL, 5_000_000)


def test_v1_and_v2_together_and_the_process_only_in_one(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "5:memory:/docker/x\n0::/init.scope\n",
        "proc/self/mountinfo": V1_MOUNT + "40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n",
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "4000000\n",
        "sys/fs/cgroup/unified/init.scope/memory.max": "max\n",
    })
    assert memory_report(tmp_path).total_bytes == 4_000_000


@pytest.mark.parametrize("first", [0, 1, 2])
def test_v1_the_first_of_several_mounts_is_irrelevant(tmp_path: Path, first: int) -> None:
    mounts = [
        "34 31 0:32 /other /mnt/other rw - cgroup cgroup rw,memory\n",
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "36 31 0:33 / /mnt/empty rw - cgroup cgroup rw,memory\n",
    ]
    tree(tmp_path, {
        "proc/self/cgroup": "5:memory:/a/b\n",
        "proc/self/mountinfo": "".join(mounts[first:] + mounts[:first]),
        "mnt/other/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "3000000\n",
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
    })
    assert memory_report(tmp_path).total_bytes == 3_000_000


def test_nested_cgroups_of_which_the_middle_one_is_tightest(tmp_path: Path) -> None:
    tree(tmp_path, {
        "proc/self/cgroup": "0::/a/b/c/d\n", "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/a/memory.max": "9000000\n", "sys/fs/cgroup/a/b/memory.max": "2000000\n",
        "sys/fs/cgroup/a/b/c/memory.max": "max\n", "sys/fs/cgroup/a/b/c/d/memory.max": "8000000\n",
    })
    assert memory_report(tmp_path).total_bytes == 2_000_000
