"""How figures are drawn and written: style, panels, files, and the form that stands in the page. The owner of matplotlib."""

import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure
from matplotlib.figure import SubFigure as SubFigure
from matplotlib.image import imsave
from numpy.typing import NDArray

from posenet_store.files import write_atomic
from posenet_store.report.figures.inline import inline_svg

INK = "#222222"
"""The colour of text and axes; in the page it is the page's own, light or dark."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind eyes can tell apart."""
GREY = "#7f7f7f"
"""The colour of the pixels, which are no network."""
MARKERS = "osD^vP"
MAX_NETWORKS = 8
"""Networks that one figure can show apart."""
WIDTH = 7.2
"""Inches: the width of a printed page between its margins."""

STYLE: Any = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK) | {
    "font.size": 8.5,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"), "medium"),
    "svg.fonttype": "none",
    "svg.hashsalt": "posenet",
    "xtick.bottom": False,
    "ytick.left": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "text.parse_math": False,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.composite_image": False,  # images of one panel stay as sharp as they are
}
styled = rc_context(STYLE)  # as a decorator: a notebook's own settings stay as they are


class Drawing(Figure):
    """A matplotlib figure that notebooks show by themselves."""

    def _repr_png_(self) -> bytes:
        return _render(self, "png")


@dataclass(frozen=True)
class Picture:
    """A finished figure: its name, caption, what it shows in words, its numbers as a table, and texts to hover over by id.

    `answer` is its result in one sentence.
    """

    name: str
    title: str
    figure: Drawing
    caption: str
    description: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    tips: dict[str, str] = field(default_factory=dict)
    answer: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.png and NAME.svg into a folder; return their paths."""
        paths = [folder / f"{self.name}.{form}" for form in ("png", "svg")]
        for path in paths:
            write_atomic(path, _render(self.figure, path.suffix[1:]))
        return paths

    def inline(self) -> str:
        """Return SVG for a page, in the page's colours and as wide as its share of it."""
        return inline_svg(
            _render(self.figure, "svg", facecolor="none"),
            name=self.name,
            title=self.title,
            description=self.description,
            tips=self.tips,
            ink=INK,
            page_width=WIDTH,
        )


@styled
def _render(figure: Figure, form: str, facecolor: str = "white") -> bytes:
    data = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    figure.savefig(data, format=form, dpi=200, bbox_inches="tight", metadata=metadata, facecolor=facecolor)
    return data.getvalue()


def first_networks(networks: Iterable[str], most: int = MAX_NETWORKS, kind: str = "networks") -> tuple[list[str], str]:
    """Return the first networks, each once, as many as a figure can show, and what its caption says if there are more.

    `kind` says what else they are.

    >>> first_networks(["a", "b", "a"]), first_networks("abc", most=2)
    ((['a', 'b'], ''), (['a', 'b'], ' The first 2 of 3 networks.'))
    """
    unique = list(dict.fromkeys(networks))
    return unique[:most], f" The first {most} of {len(unique)} {kind}." if len(unique) > most else ""


def wrap_name(network: str, width: int = 20) -> str:
    """Break a network's name behind hyphens, dots, underscores and spaces, so that a long one leaves room for the maps.

    >>> wrap_name("resnet18-random0-unit-64px (untrained)"), wrap_name("timm:vit_tiny_patch16_224.augreg")
    ('resnet18-random0-\\nunit-64px\\n(untrained)', 'timm:vit_tiny_\\npatch16_224.augreg')
    """
    lines = [""]
    for part in re.split(r"(?<=[-._ ])", network):
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines if line)


def new_figure(height: float, width: float = WIDTH) -> Drawing:
    """Return an empty figure of a size in inches."""
    return Drawing(figsize=(width, height), layout="constrained")


def add_panels(figure: Figure | SubFigure, count: int, columns: int = 3) -> list[Axes]:
    """Return `count` panels of one vertical range, in rows of up to `columns`."""
    across = min(count, columns)
    panels = figure.subplots(-(-count // across), across, squeeze=False, sharey=True).ravel().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    return list(panels[:count])


def add_legend(figure: Figure | SubFigure, panel: Axes, columns: int = 3) -> None:
    """Put the legend of one panel, each label once, below all."""
    entries = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    labels = [wrap_name(label, 32) for label in entries]
    figure.legend(entries.values(), labels, loc="outside lower center", ncols=min(columns, len(entries)))


def show_map(
    panel: Axes, values: NDArray[Any] | None, limits: tuple[float, float], title: str = "", colours: str = "gray"
) -> None:
    """Show a map [h, w] between two limits, or say that there is none."""
    panel.set(xticks=[], yticks=[], title=title)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    if values is None:
        panel.text(0.5, 0.5, "not\nkept", ha="center", va="center", transform=panel.transAxes)
    else:
        panel.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest", clip_on=False)


def encode_map(values: NDArray[Any], limits: tuple[float, float]) -> bytes:
    """Return a map [h, w] as a grey PNG of its own size; black and white are the two limits."""
    data = io.BytesIO()
    imsave(data, values, cmap="gray", vmin=limits[0], vmax=limits[1], format="png", metadata={"Software": ""})
    return data.getvalue()


@dataclass(frozen=True)
class Palette:
    """The colours and markers of networks in order; `grey` ones have no colour of their own."""

    networks: Sequence[str]
    grey: Collection[str] = ()

    def style(self, network: str) -> dict[str, Any]:
        """Return a network's colour and marker: colour alone says nothing in a grey print."""
        coloured = [name for name in self.networks if name not in self.grey]
        colour = COLOURS[coloured.index(network) % len(COLOURS)] if network in coloured else GREY
        return {"color": colour, "marker": choose_marker(network, self.networks) if network in self.networks else ""}


def choose_marker(name: str, names: Sequence[str]) -> str:
    """Return the marker of one of the names."""
    return MARKERS[list(names).index(name) % len(MARKERS)]


@dataclass
class Points:
    """Single points of a figure: drawn, with texts to hover over by id, and rows of a table with the same numbers."""

    rows: list[list[str]] = field(default_factory=list)
    tips: dict[str, str] = field(default_factory=dict)

    def draw(self, panel: Axes, x: float, y: float, tip: str, **style: Any) -> None:
        """Draw a point and keep its text."""
        name = f"tip{len(self.tips)}"
        self.tips[name] = tip
        panel.plot([x], [y], ls="", gid=name, **style)
