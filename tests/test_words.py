"""The project's words: plain ones in documents, help, messages and docstrings; one sentence a line in Markdown."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from posenet_store.cli import main

ROOT = Path(__file__).parents[1]
MARKDOWN = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "stores/README.md", ROOT / "pipeline/README.md")
)
TEXTS = [*MARKDOWN, *sorted(ROOT.glob("pipeline/**/*.toml")), *sorted(ROOT.glob("pipeline/**/*.s*"))]
MODULES = sorted((ROOT / "src/posenet_store").rglob("*.py"))
PLAIN_WORDS = {
    r"(same|command) (\w+ )?(again|once more)": "rerun the command",
    r"type\w* (it|the( \w+)*) again|type\w* the same|typed again": "rerun the command",
    r"(block|one) in hand": "the block being processed",
    r"mend(s|ed|ing)?": "repair, or fix",
    r"put(s|ting)? (it |them )?right": "repair, or fix",
    r"(a|one|each|two|per) processors?": "CPU, or CPU cores",
    r"(run|runs|ran|running) away": "diverge",
    r"paint(s|ed|ing)?": "predict (a map), fill (a border)",
    r"cautions?": "warning",
    r"heads? from elsewhere": "an external head",
    r"asks? the network for nothing": "loads nothing from the internet",
    r"remedy|remedies": "repair",
}
"""Phrases that no reader should meet -> what to write instead."""
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|Eq|Fig|Sec|vs|pp|D)\. ")


def find_phrases(text: str) -> list[str]:
    """Return what to change in a text; code in backticks is not looked at.

    >>> find_phrases("This mends `paint`")
    ["'mends': write repair, or fix"]
    """
    prose = re.sub(r"`[^`]*`", "", " ".join(text.split()))
    hits = ((re.search(rf"\b({phrase})\b", prose, re.IGNORECASE), plain) for phrase, plain in PLAIN_WORDS.items())
    return sorted({f"{match[0]!r}: write {plain}" for match, plain in hits if match})


def list_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string of a module: docstrings, messages, parts of f-strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def list_help(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield (command, help) of a command and all below it."""
    yield name, command.get_help(click.Context(command, info_name=name))
    for key, child in getattr(command, "commands", {}).items():
        yield from list_help(child, f"{name} {key}")


def list_prose(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (number, line, next line) of Markdown's sentences: no code, tables, headings or HTML; code spans are `x`."""
    lines = [*text.splitlines(), ""]
    inside = False
    for number, (line, following) in enumerate(itertools.pairwise(lines), 1):
        inside ^= line.lstrip().startswith("```")
        if not inside and line.strip() and not re.match(r"\s*(```|\||#|<|!\[|\{\{)", line):
            yield number, re.sub(r"`[^`]*`", "`x`", re.sub(r"^\s*(\d+\.|[-*]) ", "", line)), following


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_plain_words(path: Path) -> None:
    assert not find_phrases(re.sub(r"(?m)^#", "", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src/posenet_store")))
def test_strings_use_plain_words(path: Path) -> None:
    assert not [(line, hit) for line, text in list_strings(path) for hit in find_phrases(text)]


def test_help_uses_plain_words() -> None:
    assert not [(name, hit) for name, text in list_help(main, "posenet-store") for hit in find_phrases(text)]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_markdown_has_one_sentence_a_line(path: Path) -> None:
    for number, line, following in list_prose(path.read_text(encoding="utf-8")):
        where = f"{path.name}, line {number}: {line}"
        assert not re.search(r"[.?!] +[A-Z`]", ABBREVIATIONS.sub("", line)), f"two sentences in {where}"
        goes_on = following.strip() and not re.match(r"\s*([-*|#<]|\d+\.|```)", following)
        assert not goes_on or re.search(r"[.:?!][)*_\"”]*\s*$", line), f"a sentence is broken after {where}"
