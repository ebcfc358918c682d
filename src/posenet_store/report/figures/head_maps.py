"""The figure of one head: what it paints for each test, where it errs, and which channels paint it."""

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import Picture, canvas, show_map, styled
from posenet_store.report.text_table import short
from posenet_store.sweep.evaluate import Evaluation

CHANNELS = 8
ACROSS = 4
ROW = 1.5
"""Inches."""


@styled
def head_maps(one: Evaluation) -> Picture:
    """Draw a row a test column (target, first image, mean, error), then the mean maps of the channels that add most."""
    strongest = [] if one.contributions is None else one.contributions.strongest(CHANNELS)
    tests, deep = list(one.scored), -(-len(strongest) // ACROSS)
    figure = canvas(ROW * (len(tests) + deep), ROW * ACROSS + 1)
    panels = figure.subplots(len(tests) + deep, ACROSS, squeeze=False)
    most = max(float(scored.maps["error"].max()) for scored in one.scored.values())
    for row, (test, scored) in zip(panels, one.scored.items(), strict=False):
        summary = scored.scores.summary()
        show_map(row[0], one.goal, one.value_range, f"{one.target}: {describe_target(one.target)}")
        show_map(row[1], scored.sample, one.value_range, "the first image")
        show_map(row[2], scored.maps["mean"], one.value_range, f"mean of {summary['images']}")
        show_map(row[3], scored.maps["error"], (0, most), f"mean error {short(summary['mae'])}", "cividis")
        row[0].set_ylabel(test, rotation=0, ha="right", va="center", fontsize=7)
    rows = []
    places = panels[len(tests) :].ravel()
    for panel in places[len(strongest) :]:
        panel.set_axis_off()
    for panel, (name, values, share) in zip(places, strongest, strict=False):
        centred = values - values.mean()
        limit = max(float(abs(centred).max()), 1e-12)
        show_map(panel, centred, (-limit, limit), f"{name}  {share:+.2f}", "RdBu_r")
        rows.append([name, f"{share:+.4f}"])
    return Picture(
        "head", "What a head paints", figure,
        "A row a test: the map to paint, what the head paints for the first image, its mean over images, and the mean absolute "
        "error. Below, the channels that add most to the mean map (tap:channel and its share of the target; red adds, blue "
        "takes away, each on its own scale).",
        f"Maps of one head for target {one.target} on {', '.join(tests)}.", ("channel", "share"), rows,
    )  # fmt: skip
