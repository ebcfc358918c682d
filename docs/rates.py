"""How often tests and intervals err: the table of docs/explanation/numbers.md, from what benchmarks/inference.py measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK = re.compile(r"(<!-- rates: rendered by docs/render.py -->\n).*?(<!-- /rates -->)", re.DOTALL)
HEAD = ("what", "shown by", "test or interval", "errs at .05", "finds", "covers at .95")


@dataclass(frozen=True)
class Row:
    """What is shown, by what, how it is tested, and the names of its ratios in the benchmark, each the beginning of a name."""

    what: str
    shown: str
    test: str
    level: str = ""
    power: str = ""
    cover: str = ""


ROWS = (
    Row("SPC", "page, `table`, `evaluate`, `leaderboard`", "Student's t over images", "level_spc", "power_spc", "cover_spc"),
    Row("MAE", "page, `table`, `evaluate`", "the same", cover="cover_mae"),
    Row("SPC of several seeds", "page, `table`", "Graybill and Wang over images and seeds", "level_seeds", "", "cover_seeds"),
    Row("any of five targets", "page, `table`", "Holm's correction", "level_holm"),
    Row("difference of two heads, gain", "page, `compare`", "t over the images of both", "level_difference", "power_difference",
        "cover_difference"),
    Row("*position is read*", "page", "SPC and gain, corrected", "level_claim"),
    Row("ring of distance to the border", "page, `rings`", "t over images", cover="cover_rings"),
    Row("share of variance", "page, `variance`", "random signs; jackknife over spans", "level_variance", "power_variance",
        "cover_variance"),
    Row("share of a direction", "page, `variance`", "jackknife over spans", cover="cover_directions"),
    Row("SPC before and after an erasure", "page, `compare`", "t over the images of both", "level_erasure", "power_erasure",
        "cover_erasure"),
    Row("top-1 and its differences", "`accuracy`", "McNemar, exact; Wilson, Newcombe", "level_mcnemar", "power_mcnemar",
        "cover_top1"),
    Row("erasure against random draws", "`accuracy`", "Crawford and Howell", "level_draws", "power_draws", "cover_draws"),
    Row("a stage's own share", "page, `stage-shares`", "t over images", "level_unique", "power_unique", "cover_unique"),
    Row("a stage alone, and what it shares", "page, `stage-shares`", "t over images", cover="cover_alone cover_shared"),
    Row("cross-validated error", "`table`, results", "t over folds that share images", cover="cover_folds"),
    Row("where an image was placed", "`pooling`", "Wilson", cover="cover_places"),
    Row("permuted positions", "`table --permuted`", "Edgington; nothing is concluded from it", "level_permuted"),
)  # fmt: skip


def format_range(ratios: Mapping[str, float], beginnings: str) -> str:
    """Return the least and the largest ratio of those whose names begin so, empty without one.

    >>> ratios = {"level_spc_H_30": 0.0512, "level_spc_G_30": 0.0478, "cover_spc_30": 1.0}
    >>> format_range(ratios, "level_spc"), format_range(ratios, "cover_spc"), format_range(ratios, "")
    ('.048 to .051', '1.000', '')
    """
    prefixes = tuple(f"{beginning}_" for beginning in beginnings.split())
    values = [value for name, value in ratios.items() if prefixes and name.startswith(prefixes)]
    ends = (f"{value:.3f}" if value >= 1 else f"{value:.3f}"[1:] for value in (min(values), max(values))) if values else ()
    return " to ".join(dict.fromkeys(ends))


def render_rates(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with the table between its markers filled in; it stays as it is if nothing was measured."""
    if "inference" not in results:
        return text
    ratios = results["inference"]["ratios"]
    rows: list[Sequence[str]] = [
        (row.what, row.shown, row.test, *(format_range(ratios, name) for name in (row.level, row.power, row.cover)))
        for row in ROWS
    ]
    lines = ("| " + " | ".join(row) + " |\n" for row in (HEAD, ["---"] * len(HEAD), *rows))
    return BLOCK.sub(lambda match: match[1] + "".join(lines) + match[2], text)
