"""The examples in the README and in docs/ work as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from programs import run_fork

from rcmgr.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/*.md"))]
COMMANDS = [
    pytest.param(line, id=f"{page.stem}: {line}")
    for page in PAGES
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.M | re.S)
    for line in re.findall(r"^\$ .*?\b(rcmgr .*)", block, re.M)
]

pytestmark = pytest.mark.libp2p


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    ended = run_fork(str(ROOT / "tests/run_page.py"), str(page), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_page_is_one_that_rcmgr_takes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"[\w-]+\.(?:toml|json|py)\b", line):
        Path(name).touch()
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context(line, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_figure_begins_a_line(page: Path) -> None:
    """Markdown would take the line for HTML, and end the paragraph before it."""
    assert re.findall(r"^<!-- figures: [\w.]+ -->\S.*", page.read_text(), re.M) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx 8.2 needs Python 3.11")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", tmp_path],
        capture_output=True, text=True, timeout=250)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "searchindex.js").read_text().startswith("Search.setIndex(")
