"""Tables that are handed on: no cell of theirs is a formula, a command of a terminal, or HTML."""

import csv
import io
from pathlib import Path

import pytest

from posenet_store.report.text_table import Listing
from posenet_store.sweep.tables import escape_cell, format_csv
from tests.support.runs import cell, cli, constant, write

FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1",
    "a;=1",
    "-x",
    "--",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_is_no_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(format_csv([{text: text}]), newline=""))
    for shown in (*row, *row.values()):
        assert shown.isprintable()
        for part in shown.split(";"):
            assert not part.lstrip().startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


@pytest.mark.parametrize(
    "value", [-1.5, -3, 0.1, 1e-9, -1e300, None, True, "-1.5", "+2", "-.5e-3", "f1", "a-b", "", "résumé", "猫"]
)
def test_numbers_and_plain_texts_stay_as_they_are(value: object) -> None:
    assert escape_cell(value) == value


def test_the_tables_of_a_run_from_outside_are_harmless(tmp_path: Path) -> None:
    contents = {"network": "a", "images": "b"}
    hostile = cell(constant(-0.5, test="=1+1\x1b[31m"), network="=cmd|x", images="\x1b[31m@x", contents=contents)
    run = write(tmp_path / "run", [hostile], title="\x1b]0;title\x07\n=1")
    for form in ("csv", "markdown", "terminal"):
        for words in (("--by", "network,images,target"), ()):
            result = cli("table", run, *words, "--format", form)
            assert result.exit_code == 0, result.output
            assert all(line.isprintable() for line in result.output.splitlines())
    rows = csv.DictReader(io.StringIO(cli("table", run, "--by", "network,images,target", "--format", "csv").stdout))
    assert "'=cmd|x" in {value for row in rows for value in row.values()}


def test_markdown_holds_no_html_no_links_and_no_lines_of_names() -> None:
    text = Listing(["<b>|a"], [["<script>x</script>\n| y |"], ["![i](http://x)"], [("<.0001", "[.1, .2]")]], []).markdown()
    assert len(text.splitlines()) == 5
    assert "<b" not in text
    assert "<s" not in text
    assert "](" not in text
    assert "<.0001 [.1, .2]" in text
