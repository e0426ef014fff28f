"""Run Python in a separate process."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import NamedTemporaryFile


def run(
    *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120,
        cwd=cwd, env={**os.environ, **env},
    )


def run_fork(
    *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Like `run`, in a process that has imported libp2p already, where the system can fork."""
    if sys.platform != "linux":  # macOS and Windows cannot fork, or not safely
        return run(*arguments, cwd=cwd, **env)
    server = _forks()
    assert server.stdin is not None
    assert server.stdout is not None
    with NamedTemporaryFile("r") as stdout, NamedTemporaryFile("r") as stderr:
        order = {
            "arguments": arguments, "cwd": cwd and str(cwd), "env": {**os.environ, **env},
            "stdout": stdout.name, "stderr": stderr.name}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            _forks.cache_clear()
            raise RuntimeError("the process that forks has ended")
        status = int(answer)
        assert status != -signal.SIGALRM, f"{arguments} ran too long: {stderr.read()}"
        return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())


def check(code: str, **env: str) -> str:
    """Run code that must not fail, and return its output."""
    return _output(run("-c", textwrap.dedent(code), **env))


def check_fork(code: str, **env: str) -> str:
    """Like `check`, in a process that has imported libp2p already."""
    return _output(run_fork("-c", textwrap.dedent(code), **env))


def _output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _forks() -> subprocess.Popen[str]:
    """The process that forks for each program. It ends when its standard input is closed."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forks.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server
