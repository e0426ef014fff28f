"""Compiles and runs the C tests."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXT = HERE.parent.parent / "ext"
SANITIZERS = "-fsanitize=address,undefined"


@functools.cache
def compiler() -> list[str] | None:
    """The command of a C compiler that takes gcc's flags, or None."""
    for command in (os.environ.get("CC"), "cc", "gcc", "clang", sysconfig.get_config_var("CC")):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return None


@functools.cache
def sanitizer_flags(folder: Path) -> list[str]:
    """The flags for ASan and UBSan, if a program made with them links and starts.

    `test_the_c_tests_run_under_sanitizers` says where they do not.
    """
    source = folder / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    command = compiler()
    assert command is not None
    probe = folder / "probe"
    made = subprocess.run(
        [*command, SANITIZERS, str(source), "-o", str(probe)], capture_output=True, check=False
    )
    works = made.returncode == 0 and subprocess.run([probe], check=False).returncode == 0
    return [SANITIZERS, "-fno-sanitize-recover=all"] if works else []


def run_c_test(name: str, folder: Path, sources: tuple[str, ...] = ()) -> None:
    """Compile tests/ext/<name>.c, with `sources` of ext/, and run it; it must exit with 0.

    folder: where the program goes.
    """
    command = compiler()
    if command is None:
        pytest.skip("no C compiler found")
    program = folder / name
    subprocess.run(
        [
            *command,
            "-std=c11",
            # the clock's functions are POSIX, which -std=c11 alone would hide
            "-D_GNU_SOURCE",
            "-g",
            "-O1",
            *("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion"),
            *sanitizer_flags(folder),
            f"-I{EXT}",
            f"-I{HERE}",
            str(HERE / f"{name}.c"),
            *(str(EXT / source) for source in sources),
            *("-o", str(program), "-lpthread"),
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
