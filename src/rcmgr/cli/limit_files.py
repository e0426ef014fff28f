"""Limits files that a command's arguments name."""

from __future__ import annotations

from pathlib import Path

import click

from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.files import LimitsFile

__all__ = ["UnusableLimitsFile", "read_limits_file"]


class UnusableLimitsFile(click.ClickException):
    """Exit status 2. A command that found something wrong in readable limits ends with 1."""

    exit_code = 2


def read_limits_file(path: Path, *, lenient: bool = False) -> LimitsFile:
    """UnusableLimitsFile: it cannot be read, or says something wrong; the message has the place."""
    try:
        file = LimitsFile.read(path, lenient=lenient)
    except LimitsFileError as error:
        raise UnusableLimitsFile(f"{path}: {error}") from error
    except OSError as error:
        raise UnusableLimitsFile(f"{path}: {error.strerror or error}") from error
    if lenient and file == LimitsFile():
        raise UnusableLimitsFile(f"{path}: nothing in it is a limit")
    return file
