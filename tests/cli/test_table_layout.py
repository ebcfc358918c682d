"""Tables of any content in terminals of any width: no line is too wide, and every cell is there in full."""

from collections import Counter
from string import ascii_letters

import numpy as np
import pytest
from rich.cells import cell_len

from posenet_store.cli.table_layout import lay_out_table

STORES = [
    ["name", "network", "images", "layout", "bytes", "state"],
    *(
        [f"{network}-images-of-holidays-{index:08x}", f"{network}-random0", "holidays", "readout", f"{index} MB", "sealed"]
        for index, network in enumerate(("vgg16", "timm-tf_efficientnet_lite0.in1k"))
    ),
]  # fmt: skip
SCORES = [
    ["target", "network", "test", "natural SPC / MAE", "black SPC / MAE", "natural p"],
    *([target, f"{network} (no padding)", test, f".895 [.883, .904] / .{len(network)}", f"undef. / .2{len(test)}", "<.0001"]
      for target in "HV" for network in ("vgg16-hed-padding-none", "vgg16-random0") for test in ("natural", "photo")),
]  # fmt: skip


def make_table(rng: np.random.Generator) -> list[list[str]]:
    """Return a table in which each cell is made of a letter of its own, so that what is lost can be counted."""
    rows, columns = rng.integers(1, 4), rng.integers(1, 13)
    letters = iter(ascii_letters)

    def make_cell() -> str:
        words = ["写" * int(rng.integers(1, 4))] if rng.random() < 0.05 else []
        letter = next(letters)
        words += [letter * int(rng.integers(1, 40)) for _ in range(rng.integers(1, 4))]
        return str(rng.choice([" ", "-", "/"])).join(words)

    return [[make_cell() for _ in range(columns)] for _ in range(rows + 1)]


@pytest.mark.parametrize("seed", range(40))
def test_no_line_is_too_wide_and_no_cell_is_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, limit = make_table(rng), int(rng.integers(20, 120))
    lines = lay_out_table(table, limit)
    assert max(map(cell_len, lines)) <= limit
    counts = Counter("".join(lines).replace("-", ""))
    asked = Counter("".join(cell for row in table for cell in row).replace("-", ""))
    assert {letter: count for letter, count in asked.items() if letter != " " and counts[letter] < count} == {}


def test_without_a_limit_each_row_is_one_line() -> None:
    lines = lay_out_table(STORES)
    assert len(lines) == len(STORES) + 1
    assert all(cell in line for row, line in zip(STORES[1:], lines[2:], strict=True) for cell in row)


def test_what_is_equal_in_all_rows_is_named_once_and_names_stay_in_one_piece() -> None:
    lines = lay_out_table(STORES, 80)
    assert lines[0] == "all rows: images holidays, layout readout, state sealed"
    text = "\n".join(lines)
    assert (text.count("readout"), text.count("sealed")) == (1, 1)
    assert all(row[0] in text and row[1] in text for row in STORES)


def test_the_first_columns_head_the_rows_that_they_have_in_common() -> None:
    lines = lay_out_table(SCORES, 60, ruled=True)
    assert max(map(len, lines)) <= 60
    assert sum("vgg16-hed-padding-none (no padding)" in line for line in lines) == 2
    assert sum(set(line) == {"-"} for line in lines) == 2


def test_a_table_that_fits_is_as_it_is_in_a_pipe() -> None:
    assert lay_out_table(STORES, 200) == lay_out_table(STORES)


def test_numbers_are_not_divided() -> None:
    lines = lay_out_table([["a", "b"], ["x" * 30, "-.013 [-.060, .035] / .251"], ["y", "1.2e+03"]], 40)
    assert any("[-.060, .035]" in line for line in lines)
    assert any("1.2e+03" in line for line in lines)


def test_a_wide_table_is_quick() -> None:
    """Its arrangement is chosen by its first rows."""
    lines = lay_out_table(SCORES[:1] + SCORES[1:] * 500, 60)
    assert len(lines) > 4000
