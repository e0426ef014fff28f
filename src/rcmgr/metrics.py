"""Metrics for Prometheus; see `rcmgr.report.metrics`."""

from rcmgr.report.metrics import *  # noqa: F403
