"""A node's numbers for OpenTelemetry: those for Prometheus, under the same names.

OpenTelemetry has no histogram that is read instead of recorded. So each histogram is three gauges,
named as Prometheus names its samples: `..._bucket` with `le`, `..._count` and `..._sum`.

Needs opentelemetry-api and prometheus_client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rcmgr import __version__
from rcmgr.report.metrics import MetricsCollector
from rcmgr.report.node import Node

try:
    from opentelemetry.metrics import CallbackOptions, Observation, get_meter_provider
except ModuleNotFoundError:
    raise ImportError(
        "rcmgr.otel needs opentelemetry: pip install 'rcmgr[otel]'", name="opentelemetry") from None

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client.core import Metric

__all__ = ["OpenTelemetryMetrics"]


class OpenTelemetryMetrics(AbstractContextManager["OpenTelemetryMetrics"]):
    """Gives a meter provider the metrics of a node, until `close`. A context manager.

    node: a manager, or several by the value of their attribute `instance`.
    meter_provider: default: the global one, as `opentelemetry.metrics.set_meter_provider` sets it.
    protocols: as for `MetricsCollector`.

    Names, attributes and values are those of `MetricsCollector`. A counter has its name without
    `_total`, which exporters to Prometheus add. Values are read when a reader collects. Then it
    costs as much as a scrape, and between collections nothing runs. Thread safe.
    """

    def __init__(
        self,
        node: Node | Mapping[str, Node],
        *,
        meter_provider: MeterProvider | None = None,
        protocols: Iterable[str] | None = None,
    ) -> None:
        self._collector: MetricsCollector | None = MetricsCollector(node, protocols=protocols)
        self._lock = threading.Lock()
        self._points: dict[str, list[Observation]] = {}
        self._asked: set[str] = set()
        provider = get_meter_provider() if meter_provider is None else meter_provider
        meter = provider.get_meter("rcmgr", __version__)
        for family in self._collector.collect():
            create = (
                meter.create_observable_counter if family.type == "counter"
                else meter.create_observable_gauge)
            for name in _names(family):
                create(name, [self._reader_of(name)], description=family.documentation)

    def close(self) -> None:
        """Report nothing any more. A second call does nothing."""
        with self._lock:
            self._collector = None
            self._points = {}

    def __exit__(self, *error: object) -> None:
        self.close()

    def _reader_of(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterable[Observation]:
            return self._read(name)

        return read

    def _read(self, name: str) -> list[Observation]:
        """The points of one instrument. The first one of a collection reads those of all."""
        with self._lock:
            if self._collector is None:
                return []
            if name in self._asked or not self._points:  # the next collection has begun
                self._points, self._asked = _points(self._collector.collect()), set()
            self._asked.add(name)
            return self._points.get(name, [])


def _names(family: Metric) -> Iterator[str]:
    if family.type == "histogram":
        yield from (f"{family.name}_{part}" for part in ("bucket", "count", "sum"))
    else:
        yield family.name


def _points(families: Iterable[Metric]) -> dict[str, list[Observation]]:
    points: dict[str, list[Observation]] = {}
    for family in families:
        for sample in family.samples:
            name = family.name if family.type == "counter" else sample.name
            attributes: dict[str, Any] = dict(sample.labels)
            points.setdefault(name, []).append(Observation(sample.value, attributes))
    return points
