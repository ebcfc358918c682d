"""The figure of one head: what it predicts for each test, where it errs, and which channels contribute most."""

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import Picture, new_figure, show_map, styled
from posenet_store.report.text_table import format_number
from posenet_store.sweep.evaluate import Evaluation

CHANNELS = 8
COLUMNS = 4
ROW = 1.5
"""Inches."""
CAPTION = (
    "A row a test: the target map, the head's map of the first image, its mean over images, and the mean absolute error. "
    "Below, the channels that contribute most to the mean map (tap:channel and its share of the target; red adds, blue "
    "subtracts, each on its own scale)."
)


@styled
def draw_head_maps(evaluation: Evaluation) -> Picture:
    """Draw a row a test column (target, first image, mean, error), then the mean maps of the channels that add most."""
    strongest = [] if evaluation.contributions is None else evaluation.contributions.strongest(CHANNELS)
    target, limits, tests = evaluation.target, evaluation.value_range, list(evaluation.scored)
    height = len(tests) - (-len(strongest) // COLUMNS)
    figure = new_figure(ROW * height, ROW * COLUMNS + 1)
    panels = figure.subplots(height, COLUMNS, squeeze=False)
    largest = max(float(scored.maps["error"].max()) for scored in evaluation.scored.values())
    for row, (test, scored) in zip(panels, evaluation.scored.items(), strict=False):
        summary = scored.scores.summary()
        show_map(row[0], evaluation.goal, limits, f"{target}: {describe_target(target)}")
        show_map(row[1], scored.sample, limits, "the first image")
        show_map(row[2], scored.maps["mean"], limits, f"mean of {summary['images']}")
        show_map(row[3], scored.maps["error"], (0, largest), f"mean error {format_number(summary['mae'])}", "cividis")
        row[0].set_ylabel(test, rotation=0, ha="right", va="center")
    channel_panels = panels[len(tests) :].ravel()
    for panel in channel_panels[len(strongest) :]:
        panel.set_axis_off()
    for panel, (name, values, share) in zip(channel_panels, strongest, strict=False):
        centred = values - values.mean()
        limit = max(float(abs(centred).max()), 1e-12)
        show_map(panel, centred, (-limit, limit), f"{name}  {share:+.2f}", "RdBu_r")
    return Picture(
        name="head",
        title="What a head predicts",
        figure=figure,
        caption=CAPTION,
        description=f"Maps of one head for target {target} on {', '.join(tests)}.",
        head=("channel", "share"),
        rows=[[name, f"{share:+.4f}"] for name, _, share in strongest],
    )
