"""The text of each marked place in README.md and docs, from the kept figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.works import MILLION, NATIVE, WORKS
from benchmarks.stored import Results

Place = Callable[[Results], str]

SIZES = ("1,000", "100,000")
ALTERNATIVES = (  # to the bucket table, with the kinds of key that each takes
    "rcmgr", "rcmgr, ID", "floodgate-rs", "floodgate-rs, ID", "rust-py-rate-limit", "token-bucket",
    "aiolimiter", "libp2p.rcmgr, monitoring off", "limits", "throttled-py", "libp2p.rcmgr",
    "pyrate-limiter")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def time_of(nanoseconds: float) -> str:
    if nanoseconds < 1000:
        return f"{nanoseconds:.0f} ns"
    if nanoseconds < 1e6:
        return f"{nanoseconds / 1000:.{1 if nanoseconds < 1e4 else 0}f} us"
    return f"{nanoseconds / 1e6:.1f} ms"


def times(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def machines(results: Results) -> str:
    measured: dict[tuple[str, ...], dict[str, None]] = {}
    for benchmark, runs in results.runs.items():
        for run in runs:
            names = list(run.machine)
            measured.setdefault(tuple(run.machine.values()), {})[benchmark] = None
    return table([*names, "benchmarks"], [
        [*machine, ", ".join(found)] for machine, found in measured.items()])


def faster(
    results: Results, benchmark: str, rows: dict[str, str], sizes: tuple[str, ...]
) -> list[list[str]]:
    """Rows of our time, and how many times faster it is than libp2p.rcmgr, at each size."""
    found = []
    for what, shown in rows.items():
        cells = [shown]
        for size in sizes:
            name = f"{what}, {size}" if size else what
            if not results.has(benchmark, f"{name}: ns"):
                cells.append("")
                continue
            ns = results.value(benchmark, f"{name}: ns")
            ratio = results.value(benchmark, f"{name}: times faster")
            cells.append(f"{time_of(ns)}, {times(ratio)} times")
        found.append(cells)
    return found


def native(results: Results) -> str:
    """Our time and that of the native programs, and the ratio to the faster of them."""
    rows = []
    for work, about in WORKS.items():
        for size in map("{:,}".format, about.sizes):
            name = f"{work}, {size}"
            cells = [work, size, time_of(results.value("peers", f"{name}: ns"))]
            for other in NATIVE:
                figure = f"{name}: {other} ns"
                has = getattr(about, other) and results.has("peers", figure)
                cells.append(time_of(results.value("peers", figure)) if has else "")
            cells.append(times(results.value("peers", f"{name}: times native")))
            floor = f"{name}: times floor and native"
            cells.append(times(results.value("peers", floor)) if about.touches_peers else "")
            rows.append(cells)
    return table(["", "peers", "rcmgr", "Go", "Rust", "of native", "of floor + native"], rows)


def native_bytes(results: Results) -> str:
    rows = []
    for work, about in WORKS.items():
        if not about.holds:
            continue
        cells = [work]
        for who in ("", *(f"{each} " for each in NATIVE)):
            figure = f"{work}, 100,000: {who}bytes"
            has = results.has("peers", figure)
            cells.append(f"{results.value('peers', figure):.0f}" if has else "")
        rows.append(cells)
    return table(["bytes for each of 100,000 peers", "rcmgr", "Go", "Rust"], rows)


def native_growth(results: Results) -> str:
    """How many times longer any work takes with a million peers than with 100,000."""
    return times(max(
        results.value("peers", f"{work}, 1,000,000: times 100,000")
        for work, about in WORKS.items() if MILLION in about.sizes))


def what_each_does(results: Results) -> str:
    lines = []
    for work, about in WORKS.items():
        lines.append(f"* {work}")
        for who, text in (("rcmgr", about.rcmgr), ("Go", about.go), ("Rust", about.rust)):
            if text is not None:
                lines.append(f"  * {who}: {text}")
    return "\n".join(lines)


def ratios(results: Results) -> str:
    rows = faster(results, "ratios", {
        "tracker cycle": "tracker cycle", "lifecycle cycle": "lifecycle cycle (three coroutines)",
        "manager cycle": "all calls of a swarm for one TCP connection",
        "reconcile": "`reconcile` with nothing stale",
        "installed tracker cycle": "tracker cycle after `install()`",
        "installed lifecycle cycle": "lifecycle cycle after `install()`",
    }, ("1,000", "100,000", "1,000,000"))
    ours, theirs = (
        results.value("ratios", f"connection in the tracker, 100,000: {what}")
        for what in ("bytes", "libp2p bytes"))
    rows.append([
        "memory per connection, its ids not counted", "",
        f"{ours:.0f} bytes, {times(theirs / ours)} times less", ""])
    return table(["", "1,000", "100,000", "1,000,000"], rows)


def manager(results: Results) -> str:
    calls = (
        "acquire and release a stream", "open and close a connection",
        "open and close a connection, with a rate for each peer", "before and after a handshake",
        "deny a connection")
    return table(
        ["", "10 peers", "100,000 peers"],
        faster(results, "manager", dict(zip(calls, calls, strict=True)), ("10", "100,000")))


def scope(results: Results) -> str:
    rows = []
    for what, shown in (
        ("connection", "open and close a connection"), ("stream", "open and close a stream"),
        ("refusal", "refuse a connection"),
    ):
        rows.append([shown, *(
            time_of(results.value("counting.scope", f"{what}, {size}: ns"))
            for size in ("10", "1,000", "100,000"))])
    held = results.value("counting.scope", "connected peer in the ledger, 100,000: bytes")
    rows.append(["bytes of a connected peer, with its key", "", "", f"{held:.0f}"])
    return table(["", "10 peers", "1,000", "100,000"], rows)


def denials(results: Results) -> str:
    rows = []
    for what in (
        "a connection", "a connection before its handshake", "a connection by its state", "a stream"
    ):
        name = f"deny {what}"
        ratio = f"{name}: times faster"
        rows.append([
            name, time_of(results.value("counting.denials", f"{name}: ns")),
            times(results.value("counting.denials", f"{name}: calls")),
            times(results.value("counting.denials", ratio))
            if results.has("counting.denials", ratio) else ""])
    return table(["", "rcmgr", "empty calls", "times faster than libp2p.rcmgr"], rows)


def buckets(results: Results) -> str:
    sizes = ("1", "1,000", "100,000", "1,000,000")
    rows = []
    for name in ALTERNATIVES:
        cells = [name.replace(", ID", ", key is an `ID`")]
        for size in sizes:
            figures = [f"{name}, {size} keys, {what}: ns" for what in ("allowed", "denied")]
            has = results.has("counting.token_bucket", figures[0])
            cells.append(" / ".join(
                f"{results.value('counting.token_bucket', figure):,.0f}"
                for figure in figures) if has else "")
        rows.append(cells)
    return table(["ns, allowed / denied", "1 key", *sizes[1:]], rows)


def number(benchmark: str, figure: str, shown: Callable[[float], str], results: Results) -> str:
    return shown(results.value(benchmark, figure))


def accept(results: Results) -> str:
    def value(figure: str) -> float:
        return results.value("peers.accept", figure)

    rows = []
    for kind, shown in (
        ("c", "C program"), ("install", "`install()`"), ("harden", "`install(harden=True)`"),
        ("libp2p", "libp2p 0.8.1"),
    ):
        name, ping = f"refusal at accept, {kind}", f"ping, under the flood, {kind}"
        rows.append([
            shown, f"{value(f'{name}: per second'):,.0f}",
            f"{value(f'{name}: us of the processor'):.0f} us",
            "" if kind == "c" else times(value(f"{name}: times c")),
            *(" / ".join(
                f"{value(f'ping, {when}, {kind}: {what}, ms'):.1f}" for what in ("median", "p99"))
              for when in ("calm", "under the flood")),
            times(value(f"{ping}: p99, times calm")),
            "" if kind == "c" else times(value(f"{ping}: p99, times c")),
        ])
    return table([
        "", "refused a second", "processor time for each", "times the C program",
        "ping before, ms (median / p99)", "during", "p99, times before",
        "p99, times the C program"], rows)


def hosts(results: Results) -> str:
    def kinds(name: str, what: str, better: str, shown: Callable[[float], str]) -> list[str]:
        cells = [shown(results.value("libp2p.hosts", f"{name}, libp2p: {what}"))]
        for kind in ("install", "harden"):
            value = results.value("libp2p.hosts", f"{name}, {kind}: {what}")
            ratio = results.value("libp2p.hosts", f"{name}, {kind}: {what}, times {better}")
            cells.append(f"{shown(value)}, {times(ratio)} times {better}")
        return cells

    rows = []
    calls = ["acquire and release a connection", "acquire and release a stream"]
    for what in calls + [f"add a connection to {size}" for size in ("10", "1,000", "10,000")]:
        theirs = results.value("libp2p.hosts", f"{what}: libp2p ns")
        [[shown, ours]] = faster(results, "libp2p.hosts", {what: what}, ("",))
        rows.append([shown, time_of(theirs), f"{ours} faster", ""])
    for name, shown in (
        ("refusals, full", "`max_connections=50` reached"), ("refusals, default", "nothing set"),
    ):
        rows.append([
            f"refused a second, {shown}",
            *kinds(name, "per second", "as many", lambda value: f"{value:,.0f}")])
        rows.append([
            "processor time for each",
            *kinds(name, "us of the processor", "less", lambda value: f"{value:.0f} us")])
    rows.append([
        "eight peers that connect and disconnect: processor time",
        *kinds("connections", "us of the processor", "less",
               lambda value: f"{value / 1000:.1f} ms")])
    return table(["", "libp2p 0.8.1", "`install()`", "`install(harden=True)`"], rows)


def end_to_end(results: Results) -> str:
    def row(shown: str, figure: str, digits: int) -> list[str]:
        return [shown, *(
            f"{results.value('libp2p.end_to_end', figure.format(kind)):,.{digits}f}"
            for kind in ("none", "libp2p", "rcmgr"))]

    rows = []
    for what in ("connections", "streams"):
        rows.append(row(f"{what} a second", f"{what}, {{}}: per second", 0))
        rows.append(row(
            "the host's processor time for each, us",
            f"{what}, {{}}: us of the host's processor", 0))
    for when in ("calm", "under the flood"):
        for what in ("median", "p99"):
            rows.append(row(f"ping, {when}, {what}, ms", f"ping, {when}, {{}}: {what}, ms", 1))
    return table(["", "no limits", "libp2p.rcmgr", "rcmgr"], rows)


def million(results: Results) -> str:
    def value(figure: str) -> float:
        return results.value("million", figure)

    kinds = ("connections", "streams")
    return table(["", *kinds], [
        ["held at once", *(f"{value(f'{what}: number'):,.0f}" for what in kinds)],
        ["time to open one", *(time_of(value(f"{what}: ns to open")) for what in kinds)],
        ["bytes each", *(f"{value(f'{what}: bytes each'):,.0f}" for what in kinds)],
        ["resident memory", f"{value('process: MiB of resident memory'):,.0f} MiB", ""],
        ["wrong counts", f"{value('process: wrong counts'):.0f}", ""],
    ])


def threads(results: Results) -> str:
    return table(
        ["", "one thread", "two threads, one object each", "two threads, one shared object",
         "lost counts"],
        [[name, time_of(results.value("threads", f"{name}: ns with one thread")),
          *(f"{times(results.value('threads', f'{name}, {how}: times the work of one'))} times"
            for how in ("one each", "shared")),
          f"{results.value('threads', f'{name}: lost counts'):.0f}"]
         for name in (
             "a loop", "a lock", "a call", "a reference", "tracker", "ledger", "bucket table",
             "manager")])


PLACES: dict[str, Place] = {
    "machines": machines,
    "native": native,
    "native.bytes": native_bytes,
    "native.growth": native_growth,
    "native.work": what_each_does,
    "accept": accept,
    "ratios": ratios,
    "manager": manager,
    "scope": scope,
    "denials": denials,
    "buckets": buckets,
    "bucket.bytes": partial(
        number, "counting.token_bucket", "bucket, 1,000,000 keys: bytes", "{:.0f}".format),
    "memory.check": partial(
        number, "counting.memory_stats", "check_limit(), fresh: ns", time_of),
    "memory.check.times": partial(
        number, "counting.memory_stats", "check_limit(), fresh: times faster", times),
    "memory.refresh": partial(
        number, "counting.memory_stats", "force_refresh(): ns", time_of),
    "memory.refresh.times": partial(
        number, "counting.memory_stats", "force_refresh(): times faster", times),
    "hosts": hosts,
    "end_to_end": end_to_end,
    "million": million,
    "threads": threads,
    "connection": partial(
        number, "manager", "before and after a handshake, 100,000: ns", time_of),
    "stream": partial(
        number, "manager", "acquire and release a stream, 100,000: ns", time_of),
}


def draw(width: float, height: float, plot: Callable[[Any], None], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rcmgr"  # the same file each time
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    plot(axes)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def chart_of_ratios(results: Results, file: Path) -> None:
    """Our time divided by that of the fastest native program."""
    names = [name for name in WORKS if name != "state refused"]

    def plot(axes: Any) -> None:
        for offset, size, colour in ((-0.2, SIZES[0], "#4878a8"), (0.2, SIZES[1], "#e0923a")):
            values = [results.value("peers", f"{name}, {size}: times native") for name in names]
            places = [row + offset for row in range(len(names))]
            axes.barh(places, values, 0.38, label=f"{size} peers", color=colour)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("rcmgr's time / time of the fastest native program (shorter is faster)")
        axes.legend()

    draw(8, 4.5, plot, file)


def chart_of_growth(results: Results, file: Path) -> None:
    """Our time by the number of peers, connections or keys."""
    lines = {
        "tracker cycle": ("ratios", "tracker cycle, {}: ns", ("1,000", "100,000", "1,000,000")),
        "ledger: connection": ("counting.scope", "connection, {}: ns", ("10", "1,000", "100,000")),
        "ledger: stream": ("counting.scope", "stream, {}: ns", ("10", "1,000", "100,000")),
        "bucket, bytes as key": (
            "counting.token_bucket", "rcmgr, {} keys, allowed: ns",
            ("1", "1,000", "100,000", "1,000,000")),
        "bucket, ID as key": (
            "counting.token_bucket", "rcmgr, ID, {} keys, allowed: ns",
            ("1", "1,000", "100,000", "1,000,000")),
    }

    def plot(axes: Any) -> None:
        for label, (benchmark, figure, sizes) in lines.items():
            axes.plot(
                [int(size.replace(",", "")) for size in sizes],
                [results.value(benchmark, figure.format(size)) for size in sizes],
                marker="o", label=label)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("connections, peers or keys")
        axes.set_ylabel("ns")
        axes.legend()

    draw(8, 4.5, plot, file)


CHARTS: dict[str, Callable[[Results, Path], None]] = {
    "ratio": chart_of_ratios, "growth": chart_of_growth}
