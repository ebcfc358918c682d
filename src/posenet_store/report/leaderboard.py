"""All networks in order: SPC by target and stage, the trained networks of an architecture beside its untrained ones."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Any

from posenet_store.errors import UsageError, unknown
from posenet_store.report.records import (
    ALL_STAGES,
    find_stage,
    get_fields,
    group_alike_inputs,
    group_by,
    list_varying,
    name_architecture,
    name_network,
    order_stage,
)
from posenet_store.report.scores import MeanScore, ScoreArchive, pool_seeds
from posenet_store.report.table import order_targets
from posenet_store.report.text_table import Entry, Listing, format_number
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import Result

USUAL = ("H", "V")
"""The targets whose mean orders networks, unless the user chooses others."""
FREE = ("network", "input", "target", "seed")
"""Fields that differ among the heads of a leaderboard."""
UNSCORED = "no score on held-out images"
KINDS_SHOWN = 3
Commands = Callable[[Result], tuple[str, str]]
"""Returns the commands that built a result's store and ran its sweep (see `commands.list_commands`)."""


@dataclass(frozen=True)
class Order:
    """What networks are ordered by: mean SPC over `targets` at `stage`; without one, at each network's best single stage."""

    targets: tuple[str, ...]
    stage: str | None = None

    def __str__(self) -> str:
        return "+".join(self.targets) + (f"@{self.stage}" if self.stage else "")

    def describe(self) -> str:
        """Return what the numbers of the order are, in words."""
        mean = "mean SPC of " + " and ".join(self.targets) if len(self.targets) > 1 else f"SPC of {self.targets[0]}"
        return f"{mean} at {self.stage or 'the best stage'}"


@dataclass(frozen=True)
class RankedNetwork:
    """A network, its scores by target and stage, its commands, and where it is best in the order: (SPC, stage) or None."""

    labels: Labels
    scores: dict[tuple[str, str], MeanScore]
    commands: tuple[str, str]
    best: tuple[float, str] | None

    @property
    def title(self) -> str:
        """The network's name for people."""
        return name_network(self.labels)

    @property
    def architecture(self) -> str:
        """What trained and untrained networks have in common."""
        return name_architecture(self.labels.backbone)

    @property
    def sort_key(self) -> float:
        """What sorts networks, the best first."""
        return -self.best[0] if self.best else inf


@dataclass(frozen=True)
class Leaderboard:
    """Networks by architecture in order, their targets and stages; `about` says which images and heads they are scored with."""

    groups: tuple[tuple[RankedNetwork, ...], ...]
    order: Order
    targets: tuple[str, ...]
    stages: tuple[str, ...]
    about: str

    @property
    def networks(self) -> list[RankedNetwork]:
        """All networks in order."""
        return [network for group in self.groups for network in group]


def parse_order(text: str | None, targets: Sequence[str], stages: Sequence[str]) -> Order:
    """Parse TARGET[+TARGET...][@STAGE]; None is the mean of H and V, or the first target where neither is there.

    Raises UsageError for a target or stage that no head has.

    >>> str(parse_order(None, ["H", "V", "G"], ["f1"])), str(parse_order("G+ramp:30@f5", ["G", "ramp:30"], ["f1", "f5"]))
    ('H+V', 'G+ramp:30@f5')
    """
    if text is None:
        return Order(tuple(target for target in USUAL if target in targets) or (targets[0],))
    names, at, stage = text.partition("@")
    chosen = tuple(names.split("+"))
    for target in chosen:
        if target not in targets:
            raise unknown("target to sort by", target, targets)
    if at and stage not in stages:
        raise unknown("stage to sort by", stage, stages)
    return Order(chosen, stage or None)


def find_best(scores: dict[tuple[str, str], MeanScore], order: Order) -> tuple[float, str] | None:
    """Return the number that orders a network and its stage; None without a stage at which SPC is defined for all targets.

    All stages together count only where there are no heads on a single one.

    >>> scores = {("H", "f1"): MeanScore(0.25, 0.2), ("H", "f2"): MeanScore(0.5, 0.2), ("H", "all"): MeanScore(0.75, 0.1)}
    >>> find_best(scores, Order(("H",))), find_best(scores, Order(("H",), "all"))
    ((0.5, 'f2'), (0.75, 'all'))
    """
    stages = [stage for stage in dict.fromkeys(stage for _, stage in scores) if order.stage in (stage, None)]
    singles = stages if order.stage else [stage for stage in stages if stage != ALL_STAGES] or stages
    means = []
    for stage in singles:
        values = [score.spc for target in order.targets if (score := scores.get((target, stage)))]
        defined = [value for value in values if value is not None]
        if len(defined) == len(order.targets):
            means.append((fmean(defined), stage))
    return max(means, key=lambda mean: mean[0], default=None)


def _sort_groups(networks: Sequence[RankedNetwork]) -> list[tuple[RankedNetwork, ...]]:
    """Return networks by architecture, the trained ones first; architectures by their best trained network.

    Those without a trained network come last, by their best one.
    """
    groups = group_by(networks, lambda network: network.architecture).values()
    ordered = [sorted(group, key=lambda network: (not network.labels.trained, network.sort_key)) for group in groups]
    return [tuple(group) for group in sorted(ordered, key=lambda group: (not group[0].labels.trained, group[0].sort_key))]


def rank_networks(
    results: Sequence[Result], archive: ScoreArchive, commands: Commands, order: str | None = None
) -> Leaderboard:
    """Rank networks by held-out SPC: of the largest set of heads that differ in network, target, stage and seed only.

    Raises UsageError if no head reads one stage or all of them, and for an `order` (see `parse_order`) by what is not there.
    """
    tested = [result for result in results if HELD_OUT in result.scores and find_stage(result)]
    if not tested:
        raise UsageError("no head reads one stage or all of them and has held-out scores; `sweep networks` trains such heads")
    heads = max(group_alike_inputs(tested, "input"), key=lambda group: len({_find_key(result) for result in group}))
    targets = order_targets(result.cell.target for result in heads)
    stages = sorted({stage for result in heads if (stage := find_stage(result))}, key=order_stage)
    parsed = parse_order(order, targets, stages)
    networks = []
    for members in group_by(heads, lambda result: result.labels.network).values():
        cells = group_by(members, lambda result: (result.cell.target, find_stage(result) or ALL_STAGES))
        scores = {key: pool_seeds(seeds, HELD_OUT, archive) for key, seeds in cells.items()}
        networks.append(RankedNetwork(members[0].labels, scores, commands(members[0]), find_best(scores, parsed)))
    about = f"held-out images of {heads[0].labels.images}; {describe_kinds(heads, results)}"
    return Leaderboard(tuple(_sort_groups(networks)), parsed, tuple(targets), tuple(stages), about)


def describe_kinds(heads: Sequence[Result], results: Sequence[Result]) -> str:
    """Return what the heads have in common of what varies among the results, and which kinds of heads are left out."""
    ids = {head.id for head in heads}
    others = [result for result in results if result.id not in ids]
    varying = ["input", *(name for name in list_varying(results) if name not in FREE)]

    def list_facts(result: Result) -> list[str]:
        kind = result.cell.input.partition(":")[0] if find_stage(result) else result.cell.input
        values = get_fields(result) | {"input": kind}
        return [f"{name} {values[name]}" for name in varying if values[name] is not None]

    taken = list_facts(heads[0])
    kinds = Counter(", ".join(fact for fact in list_facts(result) if fact not in taken) or UNSCORED for result in others)
    shown = kinds.most_common(KINDS_SHOWN)
    texts = [f"{count} with {kind}" for kind, count in shown]
    if more := len(others) - sum(count for _, count in shown):
        texts.append(f"{more} of other kinds")
    return f"{len(heads)} heads with {', '.join(taken)}; left out: {'; '.join(texts) or 'none'}"


def _find_key(result: Result) -> tuple[str, str, str]:
    return result.labels.network, result.cell.target, result.cell.input


def find_half_width(score: MeanScore) -> float | None:
    """Return half the width of a score's 95 % interval, from the side that is not cut at the ends of SPC's range."""
    if score.spc is None or score.spc_bounds is None:
        return None
    return max(score.spc - score.spc_bounds[0], score.spc_bounds[1] - score.spc)


def _format_score(score: MeanScore | None) -> Entry:
    if score is None:
        return ("", "")
    half = find_half_width(score)
    return format_number(score.spc), "" if half is None else f"±{format_number(half)}"


def list_leaderboard(board: Leaderboard, top: int | None = None) -> Listing:
    """Return the first `top` architectures for printing: a row a target and network, a column a stage.

    There is a record for each target, network and stage, with both intervals and both commands.
    """
    networks = [network for group in board.groups[:top] for network in group]
    rows: list[list[Entry]] = []
    for target in board.targets:
        for network in networks:
            entries = [network.scores.get((target, stage)) for stage in board.stages]
            if any(entries):
                best = (format_number(network.best[0]), network.best[1]) if network.best else "undef."
                rows.append([target, network.title, best, *map(_format_score, entries)])
    records = [record for network in networks for record in _list_records(network, str(board.order))]
    return Listing(["target", "network", str(board.order), *board.stages], rows, records)


def _list_records(network: RankedNetwork, order: str) -> list[dict[str, Any]]:
    labels, (build, sweep) = network.labels, network.commands
    value, stage = network.best or (None, None)
    about = {"network": labels.network, "architecture": network.architecture, "weights_kind": labels.weights_kind}
    ranked = {"sorted_by": order, "best_spc": value, "best_stage": stage, "build": build, "sweep": sweep}
    names = ("spc", "spc_low", "spc_high", "mae", "mae_low", "mae_high", "undefined")
    return [
        about
        | {"images": labels.images, "target": target, "stage": stage}
        | {name: facts[name] for name in names}
        | {"scored": facts["images"]}
        | ranked
        for (target, stage), score in network.scores.items()
        if (facts := score.to_dict())
    ]


def describe_leaderboard(board: Leaderboard) -> str:
    """Return how to read the table, in one line."""
    return (
        "Mean SPC over held-out images ± half of its 95 % interval over images and seeds. Architectures are sorted by the "
        f"{board.order.describe()} of their best trained network; those without one come last. The number after a "
        f"network's name is its {board.order} with the stage. --where chooses other heads."
    )
