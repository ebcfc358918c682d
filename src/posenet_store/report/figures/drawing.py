"""How figures are drawn and written: style, panels, files, and the form that stands in the page. The owner of matplotlib."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from posenet_store.files import write_atomic

INK = "#222222"
"""The colour of text and axes; in the page it is the page's own, light or dark."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette: told apart with colour-blind eyes; the pixels, which are no network, are grey."""
GREY = "#7f7f7f"
MARKERS = "osD^vP"
MANY = 8
"""Networks that one figure can show apart."""
WIDTH = 7.2
"""Inches: the width of a printed page between its margins."""

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "svg.fonttype": "none", "svg.hashsalt": "posenet",
    "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "text.parse_math": False, "legend.frameon": False, "image.cmap": "gray",
}  # fmt: skip
styled = rc_context(STYLE)  # as a decorator: a notebook's own settings stay as they are


class Drawing(Figure):
    """A matplotlib figure that notebooks show by themselves."""

    def _repr_png_(self) -> bytes:
        return _written(self, "png")


@dataclass(frozen=True)
class Picture:
    """A finished figure: its name, caption, what it shows in words, the numbers behind it, and texts to hover over by id.

    `answer` is what it says in one sentence.
    """

    name: str
    title: str
    figure: Drawing
    caption: str
    description: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    tips: dict[str, str] = field(default_factory=dict)
    answer: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.png and NAME.svg into a folder; return their paths."""
        paths = [folder / f"{self.name}.{form}" for form in ("png", "svg")]
        for path in paths:
            write_atomic(path, _written(self.figure, path.suffix[1:]))
        return paths

    def inline(self) -> str:
        """Return SVG for a page: ids of its own, text in the page's colour, a title a person hears or hovers over."""
        text = _written(self.figure, "svg", facecolor="none").decode()
        svg = text[text.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r'(<image [^>]*?) id="[^"]*"', r"\1", svg)  # of equal images they are equal
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{self.name}-", svg)
        for name, tip in self.tips.items():
            svg = svg.replace(f'<g id="{self.name}-{name}">', f"<g class='tip'><title>{escape(tip)}</title>", 1)
        opening = f'<svg role="img" aria-labelledby="{self.name}-title" aria-describedby="{self.name}-desc" '
        said = f'<title id="{self.name}-title">{escape(self.title)}</title>'
        said += f'<desc id="{self.name}-desc">{escape(self.description)}</desc>'
        return re.sub(r"<svg ([^>]*)>", lambda found: f"{opening}{found[1]}>{said}", svg, count=1)


@styled
def _written(figure: Figure, form: str, facecolor: str = "white") -> bytes:
    data = io.BytesIO()
    dated = {"Date": None} if form == "svg" else {}
    figure.savefig(data, format=form, dpi=200, bbox_inches="tight", metadata=dated, facecolor=facecolor)
    return data.getvalue()


def few(networks: Iterable[str], most: int = MANY) -> tuple[list[str], str]:
    """Return the first networks, each once, as many as a figure can show, and what its caption says if there are more.

    >>> few(["a", "b", "a"]), few("abc", most=2)
    ((['a', 'b'], ''), (['a', 'b'], ' The first 2 of 3 networks.'))
    """
    found = list(dict.fromkeys(networks))
    return found[:most], f" The first {most} of {len(found)} networks." if len(found) > most else ""


def in_lines(network: str, width: int = 20) -> str:
    """Break a network's name behind hyphens, so that a long one leaves room for the maps.

    >>> in_lines("resnet18-random0-unit-64px-padding-reflect")
    'resnet18-random0-\\nunit-64px-padding-\\nreflect'
    """
    lines = [""]
    for part in re.split(r"(?<=-)", network):
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def canvas(height: float, width: float = WIDTH) -> Drawing:
    """Return an empty figure of a size in inches."""
    return Drawing(figsize=(width, height), layout="constrained")


def grid_of(figure: Figure | SubFigure, count: int, columns: int = 3) -> list[Axes]:
    """Return `count` panels of one vertical range, in rows of up to `columns`."""
    across = min(count, columns)
    panels = figure.subplots(-(-count // across), across, squeeze=False, sharey=True).ravel().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    return list(panels[:count])


def legend_below(figure: Figure | SubFigure, panel: Axes, columns: int = 3) -> None:
    """Put the legend of one panel, each label once, below all."""
    entries = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(columns, len(entries)))


def show_map(
    panel: Axes, values: NDArray[Any] | None, limits: tuple[float, float], title: str = "", colours: str = "gray"
) -> None:
    """Show a map [h, w] between two limits, or say that there is none."""
    panel.set(xticks=[], yticks=[], title=title)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    if values is None:
        panel.text(0.5, 0.5, "not\nkept", ha="center", va="center", fontsize=7, transform=panel.transAxes)
    else:
        panel.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")


def colour_of(network: str, networks: Sequence[str]) -> str:
    """Return a network's colour among all: grey for the pixels, the others in order."""
    others = [one for one in networks if not one.startswith("pixels")]
    return COLOURS[others.index(network) % len(COLOURS)] if network in others else GREY


def marker_of(network: str, networks: Sequence[str]) -> str:
    """Return a network's marker: colour alone tells nothing in a grey print."""
    return MARKERS[list(networks).index(network) % len(MARKERS)]
