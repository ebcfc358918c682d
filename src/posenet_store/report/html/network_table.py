"""The leaderboard for the page: a table a target, a row a network, a column a stage, and the commands of each network."""

from collections.abc import Sequence
from dataclasses import dataclass

from posenet_store.heads.targets import describe_target
from posenet_store.report.leaderboard import Commands, Leaderboard, RankedNetwork, rank_networks
from posenet_store.report.records import find_stage
from posenet_store.report.scores import MeanScore, ScoreArchive
from posenet_store.report.text_table import format_interval, format_number
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.results import Result


@dataclass(frozen=True)
class NetworkRow:
    """A row: the network's name, whether it was trained, whether it begins an architecture, its place and numbers as text.

    `best` is (SPC, stage), an entry (SPC, interval), or None where the network has no such head.
    """

    title: str
    trained: bool
    first: bool
    best: tuple[str, str]
    entries: tuple[tuple[str, str] | None, ...]


@dataclass(frozen=True)
class NetworkTable:
    """What the template shows: (target, what it is, rows) by target, and (network, build, sweep) by network."""

    order: str
    meaning: str
    stages: tuple[str, ...]
    tables: tuple[tuple[str, str, tuple[NetworkRow, ...]], ...]
    commands: tuple[tuple[str, str, str], ...]
    about: str


def make_network_table(results: Sequence[Result], archive: ScoreArchive, commands: Commands) -> NetworkTable | None:
    """Return the leaderboard as texts, None unless there are several networks and heads on single stages."""
    tested = [result for result in results if HELD_OUT in result.scores and find_stage(result)]
    if not tested:
        return None
    board = rank_networks(results, archive, commands)
    if len(board.networks) < 2 or len(board.stages) < 2:
        return None
    tables = ((target, describe_target(target), tuple(_list_rows(board, target))) for target in board.targets)
    made = tuple((network.title, *network.commands) for network in board.networks)
    return NetworkTable(str(board.order), board.order.describe(), board.stages, tuple(tables), made, board.about)


def _list_rows(board: Leaderboard, target: str) -> list[NetworkRow]:
    return [
        _make_row(network, [network.scores.get((target, stage)) for stage in board.stages], first=network is group[0])
        for group in board.groups
        for network in group
    ]


def _make_row(network: RankedNetwork, scores: Sequence[MeanScore | None], first: bool) -> NetworkRow:
    best = (format_number(network.best[0]), f"at {network.best[1]}") if network.best else ("undef.", "")
    entries = tuple((format_number(score.spc), format_interval(score.spc_bounds)) if score else None for score in scores)
    return NetworkRow(network.title, network.labels.trained, first, best, entries)
