"""channels: which channels tell an image from its mirror image, and what heads lose without them."""

from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, json_option
from posenet_store.cli.output import print_listing
from posenet_store.errors import UsageError, unknown
from posenet_store.heads.own_maps import load_target
from posenet_store.heads.targets import PATTERNS, TARGETS, make_native_map
from posenet_store.store.reader import open_store

if TYPE_CHECKING:
    from posenet_store.report.text_table import Listing
    from posenet_store.sweep.channel_removal import Ranking, Removal

REMOVED, TOLD = (0, 10, 50, 100), ("H", "V", "G")
REMARK = (
    "SPC of exact 1x1 heads on the held-out fifth of the images, with 95 % intervals, without the channels that differ most "
    "between an image and its mirror image when averaged over all positions; random: without as many drawn at random, the mean "
    "of 5 draws"
)
RANKED = "mean over images of |pooled(image) - pooled(mirror image)|, and of the difference with its sign"


@command(example="channels stores/A stores/A-MIRRORED --remove 0 --remove 20")
@click.argument("store", metavar="STORE")
@click.argument("mirrored", metavar="MIRRORED")
@click.option("--tap", help="The tap whose channels are ranked.  [default: the last]")
@click.option("--remove", "removed", type=click.IntRange(0, 100_000), multiple=True,
              help="How many channels are removed; repeatable.  [default: 0, 10, 50, 100, if there are more]")  # fmt: skip
@click.option("--target", "targets", multiple=True, default=TOLD, show_default=True,
              help=f"The map that heads predict: {', '.join((*TARGETS, *PATTERNS))}; repeatable.")  # fmt: skip
@click.option("--list", "ranked", is_flag=True, help="List the channels in their order instead; no head is trained.")
@format_option
@json_option
def channels(
    store: str, mirrored: str, tap: str | None, removed: tuple[int, ...], targets: tuple[str, ...], ranked: bool, form: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Rank channels that tell an image from its mirror image.

    Then train heads without the first ones.
    MIRRORED is the store of the same network on the mirrored images: build-store --images SRC@mirrored.
    """
    names = [load_target(target) for target in dict.fromkeys(targets)]
    for name in names:
        make_native_map(name)
    reader, other = open_store(store), open_store(mirrored)
    taps = [known.name for known in reader.taps]
    if tap is not None and tap not in taps:
        raise unknown("tap", tap, taps)
    tap = tap or taps[-1]
    if tap not in reader:
        raise UsageError(f"{reader.name} keeps three channels a tap; build it with --layout readout or native")

    from posenet_store.sweep.channel_removal import rank_channels, score_without
    from posenet_store.sweep.evaluate import check_mirrored
    from posenet_store.sweep.pooling import pool_features

    check_mirrored(reader, other)
    ranking = rank_channels(pool_features(reader, tap), pool_features(other, tap))
    title = f"{reader.spec.network} on {reader.spec.images}, {tap}"
    if ranked:
        print_listing(_list_ranking(ranking), title, RANKED, form, as_json, ruled=False)
        return
    order = ranking.channels.tolist()
    counts = list(dict.fromkeys(removed)) or [count for count in REMOVED if count < len(order)]
    removals = score_without(reader, tap, order, counts, names)
    print_listing(_list_removals(removals), title, REMARK, form, as_json, ruled=False)


def _list_ranking(ranking: "Ranking") -> "Listing":
    from posenet_store.report.text_table import Entry, Listing

    facts = zip(ranking.channels.tolist(), ranking.differences.tolist(), ranking.signed.tolist(), strict=True)
    records = [{"channel": channel, "difference": size, "signed": signed} for channel, size, signed in facts]
    rows: list[list[Entry]] = [
        [str(record["channel"]), (f"{record['difference']:.4g}",), (f"{record['signed']:+.4g}",)] for record in records
    ]
    return Listing(["channel", "difference", "signed"], rows, records)


def _list_removals(removals: "list[Removal]") -> "Listing":
    """Return a row a target and number of removed channels."""
    from posenet_store.report.significance import estimate_mean
    from posenet_store.report.text_table import Entry, Listing, format_interval, format_number

    rows: list[list[Entry]] = []
    records = []
    for removal in sorted(removals, key=lambda removal: [r.target for r in removals].index(removal.target)):
        facts: dict[str, str | int | float | None] = {"target": removal.target, "removed": removal.removed}
        entries: list[Entry] = [removal.target, str(removal.removed)]
        for name, table in (("spc", removal.spc), ("random", removal.random)):
            estimate = estimate_mean(table)
            bounds = estimate.find_bounds() if estimate else None
            mean = estimate.mean if estimate else None
            low, high = bounds or (None, None)
            facts |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            entries.append((format_number(mean), format_interval(bounds)))
        rows.append(entries)
        records.append(facts | {"images": len(removal.spc)})
    return Listing(["target", "removed", "SPC", "random"], rows, records)
