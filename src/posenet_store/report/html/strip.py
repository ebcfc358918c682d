"""The strip at the top of the page: a row a network, a column a target, and under each predicted map its score."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import encode_map
from posenet_store.report.figures.maps import find_first_seed
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import NATURAL, Line, arrange_lines
from posenet_store.report.text_table import format_interval, format_number
from posenet_store.sweep.cell import make_cell_target


@dataclass(frozen=True)
class PaintedMap:
    """One map of the strip: its picture as a data URL ("" if the run kept none), what it shows, and its scores as text."""

    picture: str
    alt: str
    spc: str = ""
    bounds: str = ""
    mae: str = ""


@dataclass(frozen=True)
class StripRow:
    """The maps of a network, or the targets; None where there is no head."""

    title: str
    maps: tuple[PaintedMap | None, ...]


@dataclass(frozen=True)
class Strip:
    """The targets' names with what they are, and the rows: the targets themselves, then a row a network."""

    targets: tuple[tuple[str, str], ...]
    rows: tuple[StripRow, ...]
    images: int
    """Held-out images behind each score."""


def make_strip(lines: Sequence[Line], archive: ScoreArchive) -> Strip | None:
    """Return the strip of our lines with held-out scores, all of one kind of head; None without one.

    Networks are in the order of `arrange_lines`. A map is the first seed's for the first held-out image; SPC and MAE are the
    means over all held-out images.
    """
    if not lines:
        return None
    cells = {line.target: line.results[0].cell for line in lines}
    targets = [_encode(make_cell_target(cell), cell.value_range, f"target {name}") for name, cell in cells.items()]
    rows = [StripRow("target", tuple(PaintedMap(*target) for target in targets))]
    for network in dict.fromkeys(line.network for line in arrange_lines(lines)):
        of_network = {line.target: line for line in lines if line.network == network}
        title = next(iter(of_network.values())).title
        rows.append(StripRow(title, tuple(_paint(of_network.get(target), archive) for target in cells)))
    images = max(line.values[NATURAL].images for line in lines)
    return Strip(tuple((name, describe_target(name)) for name in cells), tuple(rows), images)


def _paint(line: Line | None, archive: ScoreArchive) -> PaintedMap | None:
    """Return a line's map of the first held-out image with its mean scores."""
    if line is None:
        return None
    value, first = line.values[NATURAL], find_first_seed(line.results)
    values = archive.array(first.id, f"map/{line.test(NATURAL)}")
    spc = format_number(value.spc)
    picture, alt = _encode(values, first.cell.value_range, f"{line.title} on {line.target}: SPC {spc}")
    return PaintedMap(picture, alt, spc, format_interval(value.spc_bounds), format_number(value.mae))


def _encode(values: NDArray[Any] | None, limits: tuple[float, float], alt: str) -> tuple[str, str]:
    """Return a map as a data URL, "" for None, and its text."""
    if values is None:
        return "", alt
    return f"data:image/png;base64,{base64.b64encode(encode_map(values, limits)).decode()}", alt
