"""Lay out a table in lines of a terminal's width: every cell in full, wrapped where a row is too wide for one line.

Where rows are too wide, columns that are equal in all rows are named once above the table. Of the arrangements of the other
columns, the shortest table is taken: the first columns may stand on a line of their own, above the rows that they have in
common, and cells may be wrapped.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from rich.cells import cell_len, chop_cells

GAP = 2
"""Spaces between columns, and before the columns that stand below the first ones."""
MOST_LINES = 4
"""Lines of a wrapped cell that are tried before columns are divided among several lines."""
MOST_HEADING = 3
"""Columns that may stand above the rows that they have in common."""
SAMPLE = 60
"""Rows by which arrangements are compared."""
WORD = re.compile(r"\s*(?:\[[^]]*\]|/ +\S+|\S+)")
"""What is not divided between lines while there is room: words, intervals, and a number with the slash before it."""
NUMBER = re.compile(r"[\[(</±+-]*[\d.,:%x ]+(e[+-]?\d+)?[\]),;%]*")
PIECE = re.compile(r"[^-_:/.@=+,→]*[-_:/.@=+,→]+|[^-_:/.@=+,→]+")
"""Where a name is divided that is too long: behind its punctuation."""

Row = Sequence[str]


@lru_cache(100_000)
def split_word(word: str) -> list[str]:
    """Return the pieces of a word between which it may be divided, those of a number together.

    >>> split_word("vgg16-hed"), split_word("[.1, -.2]"), split_word("1.2e+03")
    (['vgg16-', 'hed'], ['[.1, -.2]'], ['1.2e+03'])
    """
    return [word] if word.startswith("[") or NUMBER.fullmatch(word.strip()) else PIECE.findall(word)


@lru_cache(100_000)
def wrap_cell(text: str, width: int) -> list[str]:
    """Return the lines of a cell, each at most `width` columns wide: between words, in names behind punctuation, else anywhere.

    >>> wrap_cell(".895 [.883, .904] / .102", 17), wrap_cell("vgg16-hed (no padding)", 9), wrap_cell("abcdef", 4)
    (['.895 [.883, .904]', '/ .102'], ['vgg16-hed', '(no', 'padding)'], ['abcd', 'ef'])
    """
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in WORD.findall(text):
        if cell_len(lines[-1] + word) <= width:
            lines[-1] += word
            continue
        for piece in [word] if cell_len(word.strip()) <= width else split_word(word):
            if cell_len(lines[-1] + piece) <= width:
                lines[-1] += piece
            else:
                lines += chop_cells(piece.lstrip(), width)
    return [line for line in lines if line] or [""]


def find_width(cells: Row, lines: int, limit: int) -> int:
    """Return the least width, at most `limit`, in which each cell takes so many lines at most and no piece is divided."""
    pieces = (cell_len(piece.strip()) for text in cells for word in WORD.findall(text) for piece in split_word(word))
    most = min(max(map(cell_len, cells)), limit)
    least = most if lines == 1 else min(max(pieces, default=0), most)
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if all(len(wrap_cell(text, middle)) <= lines for text in cells) else (middle + 1, most)
    return least


@dataclass(frozen=True)
class Band:
    """Columns that share a line, with their widths; one that `heads` rows is printed only where it changes."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]
    indent: int
    heads: bool

    @property
    def width(self) -> int:
        """The columns of the terminal that it takes."""
        return self.indent + sum(self.widths) + GAP * (len(self.widths) - 1)

    def list_lines(self, row: Row) -> Iterator[str]:
        """Yield the lines of a row's cells."""
        cells = [wrap_cell(row[column], width) for column, width in zip(self.columns, self.widths, strict=True)]
        for texts in zip_longest(*cells, fillvalue=""):
            padded = (text + " " * (width - cell_len(text)) for text, width in zip(texts, self.widths, strict=True))
            yield (" " * self.indent + (" " * GAP).join(padded)).rstrip()

    def count_divided(self, row: Row) -> int:
        """Return how many words of a row are divided between lines."""
        words = ((word, width) for column, width in zip(self.columns, self.widths, strict=True)
                 for word in WORD.findall(row[column]))  # fmt: skip
        return sum(cell_len(word.strip()) > width for word, width in words)


def make_bands(needs: Sequence[Sequence[int]], heading: int, lines: int, limit: int) -> list[Band]:
    """Divide columns into bands: the first `heading` ones, then the others, each as many as fit into `limit`.

    `needs` are the widths of a column by the lines that its cells may take, one line first; `lines` are what they do take, or
    fewer where there is room.
    """
    groups: list[list[int]] = []
    for column, need in enumerate(needs):
        indent = GAP if len(groups) > 1 or heading else 0
        if column in (0, heading) or indent + sum(needs[c][lines - 1] + GAP for c in groups[-1]) + need[lines - 1] > limit:
            groups.append([])
        groups[-1].append(column)
    return [
        Band(tuple(group), widen([needs[column] for column in group], lines, limit - indent), indent, group[-1] < heading)
        for index, group in enumerate(groups) for indent in [GAP if index else 0]
    ]  # fmt: skip


def widen(needs: Sequence[Sequence[int]], lines: int, limit: int) -> tuple[int, ...]:
    """Return the widths of a band's columns: what is left of the limit goes to columns that then need fewer lines."""
    widths = [need[lines - 1] for need in needs]
    room = limit - sum(widths) - GAP * (len(widths) - 1)
    for column in sorted(range(len(needs)), key=lambda column: needs[column][0] - widths[column]):
        width = next(width for width in needs[column][:lines] if width <= widths[column] + max(room, 0))
        widths[column], room = width, room - (width - widths[column])
    return tuple(widths)


def list_body(rows: Iterable[Row], bands: Sequence[Band], rule: str | None = None) -> Iterator[str]:
    """Yield the lines of all rows, with a rule wherever the first column changes if there is one."""
    before: Row | None = None
    for row in rows:
        if rule and before and row[0] != before[0]:
            yield rule
        changed = before is None or any(row[c] != before[c] for band in bands if band.heads for c in band.columns)
        for band in bands:
            if changed or not band.heads:
                yield from band.list_lines(row)
        before = row


def arrange_columns(table: Sequence[Row], limit: int) -> list[Band]:
    """Return the arrangement of columns that makes the table shortest.

    A name that is divided counts as three more lines, since names are copied, and a second line of columns as half of one.
    """
    needs = [[find_width(column, lines, limit - GAP) for lines in range(1, MOST_LINES + 1)]
             for column in zip(*table, strict=True)]  # fmt: skip
    choices = [make_bands(needs, heading, lines, limit)
               for heading in range(min(MOST_HEADING, len(needs) - 1) + 1) for lines in range(1, MOST_LINES + 1)]  # fmt: skip

    def count_lines(bands: Sequence[Band]) -> float:
        sample = table[:SAMPLE]
        divided = sum(band.count_divided(row) for row in sample for band in bands)
        return len(list(list_body(sample, bands))) + 3 * divided + len(sample) * sum(not band.heads for band in bands) / 2

    return min(choices, key=count_lines)


def find_constant(table: Sequence[Row]) -> list[int]:
    """Return the columns that are equal in all rows of several, the heading apart; none if all are."""
    same = [column for column, (_, *cells) in enumerate(zip(*table, strict=True)) if len(cells) > 1 and len({*cells}) == 1]
    return same if len(same) < len(table[0]) else []


def lay_out_table(table: Sequence[Row], limit: int | None = None, ruled: bool = False) -> list[str]:
    """Return the lines of a table, whose first row is the heading, at most `limit` columns wide; without one, a line a row.

    `ruled` draws a line wherever the first column changes.
    """
    widths = tuple(max(map(cell_len, column)) for column in zip(*table, strict=True))
    bands, above = [Band(tuple(range(len(widths))), widths, 0, heads=False)], list[str]()
    if limit is not None and bands[0].width > limit:
        if constant := find_constant(table):
            facts = ", ".join(f"{table[0][column]} {table[1][column].strip() or 'none'}" for column in constant)
            above = wrap_cell(f"all rows: {facts}", limit)
            ruled = ruled and 0 not in constant
            table = [[cell for column, cell in enumerate(row) if column not in constant] for row in table]
        bands = arrange_columns(table, limit)
    rule = "-" * max(band.width for band in bands)
    return [*above, *list_body(table[:1], bands), rule, *list_body(table[1:], bands, rule if ruled else None)]
