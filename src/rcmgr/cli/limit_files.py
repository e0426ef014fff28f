"""Limits files that a command's arguments name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from rcmgr.errors import printable
from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.scaling_files import read_scaling_limits
from rcmgr.limits.scopes import ScalingLimits

__all__ = ["UnusableLimitsFile", "change_line", "read_limits_file", "read_scaling_file"]


class UnusableLimitsFile(click.ClickException):
    """Exit status 2. A command that found something wrong in readable limits ends with 1."""

    exit_code = 2


def read_limits_file(path: Path, *, lenient: bool = False) -> LimitsFile:
    """UnusableLimitsFile: it cannot be read, or says something wrong; the message has the place."""
    with _errors_name(path):
        return LimitsFile.read(path, lenient=lenient)


def read_scaling_file(path: Path, *, lenient: bool = False) -> ScalingLimits:
    """UnusableLimitsFile: as `read_limits_file`."""
    with _errors_name(path):
        return read_scaling_limits(path, lenient=lenient)


def change_line(limit: str, before: str | None, after: str | None) -> str:
    """A difference between limits, as a line."""
    return printable(f"{limit}: {before or 'not there'} -> {after or 'not there'}")


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except LimitsFileError as error:
        raise UnusableLimitsFile(f"{path}: {error}") from error
    except OSError as error:
        raise UnusableLimitsFile(f"{path}: {error.strerror or error}") from error
