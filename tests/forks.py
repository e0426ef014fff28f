"""Run Python programs in forks of one process that has imported libp2p: `python forks.py`.

The import takes longer than most programs. Each program imports the rest itself, as rcmgr, so that
a missing import is found. programs.py starts this process and gives it the orders,
one JSON object a line. The answer is the exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
from types import ModuleType
from typing import Any

PATIENCE_S = 200


def main() -> None:
    """Fork for each order. A fork returns from here when its program ends."""
    importlib.import_module("libp2p")
    gc.freeze()
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            be(**json.loads(line))
            return
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def be(
    arguments: list[str], cwd: str | None, env: dict[str, str], stdout: str, stderr: str
) -> None:
    """Run `python ARGUMENTS`, where the first is -c, -m or a script."""
    signal.alarm(PATIENCE_S)
    for descriptor, path in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(path, os.O_RDWR), descriptor)
    os.environ.clear()
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    how, *sys.argv[1:] = arguments
    if how == "-m":
        program = sys.argv.pop(1)
        sys.path[0] = os.getcwd()
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif how == "-c":
        program = sys.argv.pop(1)
        sys.argv[0], sys.path[0] = how, ""
        module: Any = ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(program, "<string>", "exec"), vars(module))
    else:
        sys.argv[0], sys.path[0] = how, os.path.dirname(how)
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    main()
