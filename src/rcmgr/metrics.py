"""Metrics for Prometheus, under a short name; see `rcmgr.report.metrics`."""

from rcmgr.report.metrics import MetricsCollector, MetricsServer

__all__ = ["MetricsCollector", "MetricsServer"]
