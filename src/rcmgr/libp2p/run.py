"""Run a Python program with our resource manager installed: `python -m rcmgr.libp2p.run`."""

from __future__ import annotations

import itertools
import os
import runpy
import sys
from typing import Any, NoReturn

from rcmgr.libp2p.hooks import hook_new
from rcmgr.libp2p.installation import install
from rcmgr.limits.documents import LimitsFileError

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Run `["-m", "module", ...]` or `["script.py", ...]`, as `python` takes them.

    "--harden" and "--status" may come first.
    """
    options = list(itertools.takewhile(("--harden", "--status").__contains__, arguments))
    arguments = arguments[len(options):]
    if not arguments or arguments == ["-m"]:
        fail("nothing to run: give script.py, or -m module")
    try:
        install(harden="--harden" in options)
    except ImportError as error:
        fail(str(error))
    except (LimitsFileError, OSError) as error:
        fail(f"RCMGR_LIMITS={os.environ.get('RCMGR_LIMITS')}: {error}")
    if "--status" in options:
        serve_status()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        if not os.path.exists(arguments[0]):
            fail(f"can't open file {arguments[0]!r}: no such file")
        runpy.run_path(arguments[0], run_name="__main__")


def serve_status() -> None:
    """Serve the status of the program's first manager, which is that of its node."""
    from rcmgr.libp2p.dropin.manager import ResourceManager

    def serve(manager: Any) -> None:
        hook.undo()
        try:
            manager.serve_status()
        except OSError as error:
            print(f"rcmgr run: no status: {error}", file=sys.stderr)

    hook = hook_new(ResourceManager, serve)


def fail(reason: str) -> NoReturn:
    print(f"rcmgr run: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
