"""Metrics for OpenTelemetry, under a short name; see `rcmgr.report.otel`."""

from rcmgr.report.otel import OpenTelemetryMetrics

__all__ = ["OpenTelemetryMetrics"]
