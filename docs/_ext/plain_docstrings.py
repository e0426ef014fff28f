"""Show the docstrings of this project, which are plain text, as reStructuredText.

A docstring names a field, or the errors that a call raises, at the start of a line:

    burst: tokens at once, 1 or more.
    TypeError, ValueError: a bucket cannot count this rate.

The page has them as terms with definitions. Other text that is indented is code.
"""

from __future__ import annotations

import re
from typing import Any

NAME = r"(?:\*{0,2}[a-z_][a-z0-9_]*|[A-Z]\w*(?:Error|Exceeded|Closed|Denied|Warning))"
FIELD = re.compile(rf"(?P<names>{NAME}(?:, {NAME})*): (?P<text>\S.*)")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring with definitions and code blocks."""
    done: list[str] = []
    in_field = in_code = False
    for at, line in enumerate(lines):
        after_blank = not (done and done[-1])
        field = FIELD.fullmatch(line)
        if not line:
            in_field = in_field and at + 1 < len(lines) and lines[at + 1].startswith(" ")
        elif field:
            if not in_field and not after_blank:
                done.append("")
            names = ", ".join(f"``{name}``" for name in field["names"].split(", "))
            done.append(names)
            line, in_field, in_code = f"    {field['text']}", True, False
        elif in_field:
            line = f"    {line.removeprefix('    ')}"
        elif line[0] != " ":
            in_code = False
        elif after_blank and not in_code and not line.lstrip().startswith(("* ", "- ")):
            done += ["::", ""]
            in_code = True
        done.append(line)
    return done


def _process(
    app: Any, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> dict[str, bool]:
    """Register the hook with Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
