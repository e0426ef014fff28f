"""Run a Python program with our resource manager installed: `python -m rcmgr.libp2p.run`."""

from __future__ import annotations

import os
import runpy
import sys
from typing import NoReturn

from rcmgr.libp2p.installation import install
from rcmgr.limit_files import LimitsFileError

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """`["-m", "module", ...]` or `["script.py", ...]`, as after `python`; "--harden" before it."""
    harden = arguments[:1] == ["--harden"]
    arguments = arguments[harden:]
    if not arguments or arguments == ["-m"]:
        fail("what shall be run? script.py, or -m module")
    try:
        install(harden=harden)
    except (LimitsFileError, OSError) as error:
        fail(f"RCMGR_LIMITS={os.environ.get('RCMGR_LIMITS')}: {error}")
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


def fail(reason: str) -> NoReturn:
    print(f"rcmgr run: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
