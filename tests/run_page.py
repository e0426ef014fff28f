"""Run the Python blocks of a Markdown page from top to bottom, as one program.

    python run_page.py PAGE

A block whose first line is the name of a file, such as `# limits.toml`, becomes that file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

FILE_NAME = re.compile(r"# ([\w.-]+\.\w+)\n")


def write(example: Example) -> bool:
    """Write the block to the file that its first line names, if it names one."""
    name = FILE_NAME.match(example.parsed)
    if name:
        Path(name[1]).write_text(example.parsed)
    return name is not None


def write_only(example: Example) -> None:
    """For languages that cannot run."""
    write(example)


class RunOrWrite(PythonEvaluator):
    """For Python."""

    def __call__(self, example: Example) -> None:
        if not write(example):
            super().__call__(example)


def main(page: str) -> None:
    """Run this page in the current directory."""
    parsers = [
        CodeBlockParser("python", RunOrWrite()),
        *(CodeBlockParser(language, write_only) for language in ("toml", "json")),
    ]
    for example in Sybil(parsers).parse(Path(page)).examples():
        example.evaluate()


if __name__ == "__main__":
    main(sys.argv[1])
