"""The alert rules for our metrics, judged by Prometheus itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rcmgr import ConnectionLimits, NodeLimits, ProcessMemoryLimits, ResourceManager
from rcmgr.metrics import MetricsCollector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "grafana" / "alerts.yml"
CASES = ROOT / "tests" / "data" / "alerts_test.yml"
SERIES = re.compile(r"(?:libp2p_)?rcmgr_\w+")

pytestmark = pytest.mark.skipif(not RULES.exists(), reason="only in a checkout")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool, of the package prometheus")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", "--lint-fatal", RULES)


def test_each_rule_fires_when_it_should(promtool: str) -> None:
    run(promtool, "test", "rules", CASES)


def test_each_rule_has_a_case() -> None:
    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    cases = re.findall(r"alertname: (\w+)|alertname=\"(\w+)\"", CASES.read_text())
    assert rules == {one or other for one, other in cases}


def test_each_series_of_the_rules_is_served() -> None:
    expressions = re.findall(r"expr: (\|\n(?: {10}.*\n)+|.*\n)", RULES.read_text())
    used = {name for expression in expressions for name in SERIES.findall(expression)}
    registry = CollectorRegistry()
    registry.register(MetricsCollector(ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_pending_inbound=1),
        memory=ProcessMemoryLimits(max_bytes=2**40)))))
    text = generate_latest(registry).decode()
    served = set(re.findall(r"^([a-z]\w+)[{ ]", text, re.M)) | {"libp2p_rcmgr_limit"}
    assert len(used) >= 12
    assert used - served == set()
