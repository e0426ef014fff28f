"""The prose check: the sentences that it reports, and the text that it reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from load_script import SCRIPTS, load_script

SCRIPT = SCRIPTS / "prose"


prose = load_script("prose")


def rules(sentence: str) -> set[str]:
    return {rule for rule, _ in prose.judge(sentence)}


def read(source: str, name: str = "src/module.py") -> list[tuple[int, str]]:
    """(line, sentence) of all that the check reads in a file."""
    return sorted(
        (sentence.line, sentence.text)
        for passage in prose.passages(Path(name), source)
        for sentence in prose.sentences(passage)
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "what whoever makes a node with WORD knows the system's limits by",
        "Ending makes others end it too, for a reason that is none: the first one holds.",
        "So it is one when reading gets there.",
        "That there is none counts in WORD",
        "who used it up stays",
        "mends the first and the last three",
        "A place that nobody keeps is free.",
        "The demo lets somebody dial.",
        "Such a network hears of it.",
        "A handler that comes by later is asked, too.",
        "It keeps what is of the peer.",
        "The reason is such.",
        "As to the address, it is the relay's.",
        "The record knows the end of it.",
        "The table keeps it for ever.",
        "A handshake is on its way.",
        "No limit holds, and there is none.",
        "All streams but those of the host.",
        "It is the manager that the swarm is guarded by.",
    ],
)
def test_hard_words_are_reported(sentence: str) -> None:
    assert rules(sentence) & {"word", "order"}


@pytest.mark.parametrize(
    "sentence",
    [
        "Nor does the swarm count it.",
        "Neither does the swarm count it.",
        "So does the tracker.",
        "What the swarm counts is a stream.",
        "Who connects too often loses the connection.",
        "One that is refused costs little.",
        "Of two limits, the lower applies.",
        "Only then does the host close it.",
        "Had the peer closed, it would say so.",
    ],
)
def test_inverted_clauses_are_reported(sentence: str) -> None:
    assert "order" in rules(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "names of the system's limits in WORD",
        "Several callbacks report the same end.",
        "Keep the first reason.",
        "The reset is reported once the buffered data has been read.",
        "A release without a matching acquire increments WORD.",
        "a peer that has used up its rate keeps its bucket",
        "closes items 1, 8, 9 and 10 of the list above",
        "16 peers chosen at random",
        "0 or more; None: no limit.",
        "The limit of the node, or None.",
        "The value is None if no limit applies.",
        "Whether the peer may open a stream.",
        "What does the swarm count?",
        "The tracker says what it saw.",
    ],
)
def test_plain_sentences_are_not_reported(sentence: str) -> None:
    assert rules(sentence) == set()


def test_a_sentence_may_have_25_words() -> None:
    assert rules("word " * 25) == set()
    assert rules("word " * 26) == {"long"}


def test_a_sentence_with_a_semicolon_may_have_15_words() -> None:
    assert rules("a; " + "word " * 14) == set()
    assert rules("a; " + "word " * 15) == {"chain"}


def test_one_sentence_in_four_may_be_passive(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    passive, active = "The stream is closed. ", "The peer closes the stream. "
    page.write_text(passive * 2 + active * 6)
    assert prose.check(page, page) == []
    page.write_text(active + passive * 3 + active * 4)
    (finding,) = prose.check(page, page)
    assert (finding.rule, finding.advice) == ("passive", "3 of 8 sentences, at most 2")
    page.write_text(passive * 7)
    assert prose.check(page, page) == [], "a short file"


@pytest.mark.parametrize(
    "sentence",
    ["It was never written down.", "They are not yet taken.", "The stream has been reset."],
)
def test_the_passive_is_found(sentence: str) -> None:
    assert prose.PASSIVE.search(sentence)


@pytest.mark.parametrize("sentence", ["There is need for one.", "The peer has closed it."])
def test_other_verbs_are_not_passive(sentence: str) -> None:
    assert not prose.PASSIVE.search(sentence)


PYTHON = '''\
"""The module. It has two
sentences."""

import logging

# A comment on two
# lines.
VALUE = "not prose, whoever reads"  # A remark.
OTHER = 1                           # Another remark.


class Thing:
    """A thing.

        whatever(code)

    name: its name.
    """

    field: int
    """A field."""

    def method(self, path):
        """A method with `whoever` in code."""
        if not path:
            raise ValueError(f"{path!r} is wrong. "
                             "It must be right.")
        logging.getLogger(__name__).warning("the file %s is gone", path)
        return ["not prose"]
'''


def test_python_docstrings_comments_and_messages() -> None:
    assert read(PYTHON) == [
        (1, "It has two sentences."),
        (1, "The module."),
        (6, "A comment on two lines."),
        (8, "A remark."),
        (9, "Another remark."),
        (13, "A thing."),
        (17, "its name."),
        (21, "A field."),
        (24, "A method with WORD in code."),
        (26, "It must be right."),
        (26, "WORD is wrong."),
        (28, "the file WORD is gone"),
    ]


def test_tests_are_read_without_messages() -> None:
    lines = [line for line, _ in read(PYTHON, "tests/test_module.py")]
    assert 24 in lines
    assert not {26, 28} & set(lines)


def test_click_help_and_output_are_messages() -> None:
    source = (
        '@click.option("--seconds", default="long", help="How long it runs.")\n'
        "def run(seconds):\n"
        '    click.echo("The demo is over.")\n'
        '    show("not a message")\n'
    )
    assert (1, "How long it runs.") in read(source)
    assert (3, "The demo is over.") in read(source)
    assert not any(line == 4 for line, _ in read(source))


def test_cython_is_read_like_python() -> None:
    source = (
        "cdef class Thing:\n"
        '    """A thing."""\n'
        "    cdef uint64_t *rows  # Not owned.\n"
        "    cdef int add(self, double? n) except? -1 nogil:\n"
        '        raise ValueError("n is wrong")\n'
    )
    assert read(source, "src/thing.pyx") == [(2, "A thing."), (3, "Not owned."), (5, "n is wrong")]


def test_comments_of_c() -> None:
    source = (
        "/* One file.\n"
        " *\n"
        " * Two paragraphs. */\n"
        '#define TEXT "/* whoever */"\n'
        "int a; // Left.\n"
        "       // Right.\n"
    )
    assert read(source, "ext/a.h") == [
        (1, "One file."),
        (3, "Two paragraphs."),
        (5, "Left."),
        (6, "Right."),
    ]


def test_comments_of_toml_and_shell() -> None:
    toml = 'name = "a # no comment"  # A name.\n# All of\n# one sentence.\n'
    assert read(toml, "a.toml") == [(1, "A name."), (2, "All of one sentence.")]
    shell = "#!/bin/sh\n# Runs tests:\n#\n#   run whoever\nset -eu # Strict.\n"
    assert read(shell, "run") == [(2, "Runs tests:"), (5, "Strict.")]


def test_text_of_markdown() -> None:
    page = (
        "# What a title says\n"
        "Some [linked\ntext](https://whoever.example). See https://nobody.example/x.\n"
        "\n"
        '* An item is: with "whoever" quoted.\n'
        "* Another item.\n"
        "\n"
        "| whoever | nobody |\n"
        "|---|---|\n"
        "\n"
        "    indented code, whoever\n"
        "\n"
        "```python\n# whoever\n```\n"
        "\n"
        "The end.\n"
    )
    assert read(page, "page.md") == [
        (2, "Some linked text."),
        (3, "See WORD."),
        (5, "An item is: with WORD quoted."),
        (6, "Another item."),
        (17, "The end."),
    ]


def test_abbreviations_and_dots_do_not_end_a_sentence() -> None:
    source = "# Streams, e.g. of ping, (a, b, ...) count as in libp2p 0.8.1 (2.1). Or 1. Next.\n"
    assert [text for _, text in read(source)] == [
        "Next.",
        "Or 1.",
        "Streams, e.g. of ping, (a, b, ...) count as in libp2p 0.8.1 (2.1).",
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_names_file_line_rule_and_sentence(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Plain text.\n\nWhoever reads it stops.\n")
    result = run(str(tmp_path))
    assert result.returncode == 1
    first, sentence, count = result.stdout.splitlines()
    assert first.startswith(f"{page}:3: word: 'Whoever': ")
    assert sentence.strip() == "Whoever reads it stops."
    assert count == "1 findings in 1 files"


def test_the_command_passes_on_plain_text(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Plain text.\n")
    (tmp_path / "thing.pyx").write_text("# Plain text.\n")
    (tmp_path / "thing.c").write_text("/* Generated for whoever. */\n")
    (tmp_path / "data.bin").write_bytes(b"\xff")
    assert run(str(tmp_path)).returncode == 0


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    assert run(str(tmp_path / "missing")).returncode == 2
