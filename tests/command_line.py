"""Run commands of `rcmgr` in this process."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import pytest

from rcmgr.cli import main


def run_command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `rcmgr ARGUMENTS`."""
    return captured(lambda: main(arguments), **env)


def captured(command: Callable[[], object], **env: str) -> subprocess.CompletedProcess[str]:
    """The exit status and the output of a command."""
    stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with mock.patch.dict(os.environ, env), pytest.raises(SystemExit) as ended, (
            redirect_stdout(stdout)), redirect_stderr(stderr):
        command()
    out, err = (each.buffer.getvalue().decode() for each in (stdout, stderr))
    return subprocess.CompletedProcess("rcmgr", ended.value.code, out, err)
