"""A drawing of use against limits over the time of a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rcmgr.extras import require
from rcmgr.limits.scopes import Limit
from rcmgr.replay.replay import Replay

__all__ = ["draw"]

_PANELS: Final = (
    # title, fields of `ScopeStat` that are added, and of the limit
    ("connections", (3, 4), "conns"), ("inbound connections", (3,), "conns_inbound"),
    ("streams", (1, 2), "streams"), ("inbound streams", (1,), "streams_inbound"),
    ("file descriptors", (5,), "fd"), ("reserved MiB", (0,), "memory"),
)


def draw(result: Replay, path: Path, title: str) -> None:
    """Draw to a file whose ending says the format (.svg, .png, .pdf).

    ImportError: matplotlib is missing, which the extra `plot` brings. OSError: it cannot be
    written. ValueError: no such format.
    """
    require("matplotlib", "rcmgr replay --plot", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limit = result.player.manager.node_limits.scopes.system
    panels = [panel for panel in _PANELS if any(_values(result, panel[1]))] or [_PANELS[0]]
    figure = Figure(figsize=(9, 1.2 + 1.7 * (len(panels) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(panels) + 1, 1, sharex=True, squeeze=False)[:, 0]
    times = _times(result)
    for axis, (name, which, field) in zip(axes, panels, strict=False):
        _draw_use(axis, times, _values(result, which), name, limit, field)
    axes[-1].step(times, [each.refused for each in result.samples], color="#c0392b", where="post")
    axes[-1].set_ylabel("refused\nso far", fontsize=8)
    axes[-1].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=10)
    figure.autofmt_xdate()
    figure.savefig(path)


def _times(result: Replay) -> list[Any]:
    from datetime import datetime

    return [datetime.fromtimestamp(each.wall) for each in result.samples]


def _values(result: Replay, which: tuple[int, ...]) -> list[float]:
    scale = 1 << 20 if which == (0,) else 1
    return [sum(each.held[at] for at in which) / scale for each in result.samples]


def _draw_use(
    axis: Any, times: list[Any], values: list[float], name: str, limit: Limit, field: str
) -> None:
    axis.fill_between(times, values, color="#2e86c1", alpha=0.35, step="post", linewidth=0)
    axis.step(times, values, color="#2e86c1", where="post", linewidth=1)
    most = getattr(limit, field)
    top = max(values, default=1.0) or 1.0
    if most is not None:
        shown = most / (1 << 20) if field == "memory" else most
        if shown <= 20 * top:
            axis.axhline(shown, color="#c0392b", linewidth=1, linestyle="--")
            top = max(top, shown)
        axis.annotate(
            f"limit {shown:,.0f}", (1, 1), xycoords="axes fraction", ha="right", va="bottom",
            fontsize=7, color="#c0392b")
    axis.set_ylabel(name.replace(" ", "\n"), fontsize=8)
    axis.set_ylim(0, 1.1 * top)
    axis.tick_params(labelsize=7)
