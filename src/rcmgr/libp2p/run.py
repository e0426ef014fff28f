"""Run a Python program with our resource manager installed: `python -m rcmgr.libp2p.run`."""

from __future__ import annotations

import itertools
import os
import runpy
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from rcmgr.libp2p.hooks import hook_new
from rcmgr.libp2p.installation import install
from rcmgr.limits.documents import LimitsFileError
from rcmgr.manager import ResourceManager
from rcmgr.record.segments import check_replaceable

__all__ = ["main"]

_OPTIONS = ("--harden", "--status", "--dry-run")


def main(arguments: list[str]) -> None:
    """Run `["-m", "module", ...]` or `["script.py", ...]`, as `python` takes them.

    "--harden", "--status" and "--dry-run" may come first.
    """
    options = list(itertools.takewhile(_OPTIONS.__contains__, arguments))
    arguments = arguments[len(options):]
    if not arguments or arguments == ["-m"]:
        fail("nothing to run: give script.py, or -m module")
    record = os.environ.get("RCMGR_RECORD")
    if record:
        try:
            check_replaceable(Path(record))
        except OSError as error:
            fail(f"cannot record to {record}: {error.strerror}")
    check_fleet()
    try:
        install(harden="--harden" in options)
    except ImportError as error:
        fail(str(error))
    except (LimitsFileError, OSError) as error:
        fail(f"RCMGR_LIMITS={os.environ.get('RCMGR_LIMITS')}: {error}")
    if "--dry-run" in options:
        hook_new(ResourceManager, refuse_nothing)
    if "--status" in options:
        serve_status()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        check_module(arguments[1])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        check_script(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")


def check_fleet() -> None:
    """Fail in one line if no manager could join the fleet. It does not connect."""
    url = os.environ.get("RCMGR_FLEET")
    if not url:
        return
    from rcmgr.fleet.fleet import Fleet

    try:
        Fleet(url)
    except (ImportError, ValueError) as error:
        fail(f"RCMGR_FLEET: {error}")


def check_module(name: str) -> None:
    """Fail in one line if `python -m` cannot run it. Errors of the program itself pass."""
    if name.startswith("."):
        fail(f"no module named {name!r}: give its whole name")
    missing: str | None = name
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
            if spec is None:
                fail(f"{name} is a package without __main__.py: it cannot be run")
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a package of the program imports it
        spec, missing = None, error.name
    if spec is None:
        hint = f"; did you mean -m {name[:-3]}, or {name}?" if name.endswith(".py") else ""
        fail(f"no module named {missing!r}{hint}")
    with one_line_errors(name):
        if getattr(spec.loader, "get_code", lambda _: None)(spec.name) is None:
            fail(f"{name} is no Python source: it cannot be run")


def check_script(path: str) -> None:
    """Fail in one line if `python` cannot run it."""
    if not os.path.exists(path):
        fail(f"can't open file {path!r}: no such file")
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
        if not os.path.exists(path):
            fail(f"{os.path.dirname(path)!r} is a folder without __main__.py: it cannot be run")
    with one_line_errors(path):
        with open(path, "rb") as file:
            source = file.read()
        if not path.endswith(".pyc") and not zipfile.is_zipfile(path):
            compile(source, path, "exec", dont_inherit=True)


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Errors of reading and compiling a program, which has not begun to run."""
    try:
        yield
    except SyntaxError as error:
        fail(f"{error.filename or program}, line {error.lineno}: {error.msg}")
    except ValueError as error:  # NUL characters
        fail(f"{program} is no Python source: {error}")
    except OSError as error:
        fail(f"can't open file {program!r}: {error.strerror or error}")


def refuse_nothing(manager: ResourceManager) -> None:
    """Make a dry run of a new manager, under any limits that the program gave it."""
    manager.enforce = False


def serve_status() -> None:
    """Serve the status of the program's first manager, which is that of its node."""
    from rcmgr.libp2p.dropin.manager import ResourceManager as DropIn

    def serve(manager: Any) -> None:
        hook.undo()
        try:
            manager.serve_status()
        except OSError as error:
            print(f"rcmgr run: no status: {error}", file=sys.stderr)

    hook = hook_new(DropIn, serve)


def fail(reason: str) -> NoReturn:
    print(f"rcmgr run: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
