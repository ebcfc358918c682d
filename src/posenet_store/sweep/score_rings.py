"""Score the heads of a run once more, by rings of distance to the border: nothing is trained, held-out rows are read once."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.heads.file import load_head
from posenet_store.heads.metrics import Scores
from posenet_store.heads.model import join_heads
from posenet_store.heads.protocols import describe_stream
from posenet_store.heads.rings import RingWidths, cut_rings, score_rings
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.cell import HELD_OUT, Cell, make_cell_target
from posenet_store.sweep.grouping import FittedHeads, group_cells, select_channels
from posenet_store.sweep.inputs import join_inputs, parse_input
from posenet_store.sweep.results import Result, RunFiles
from posenet_store.sweep.ring_scores import RingScores, read_rings, write_rings
from posenet_store.sweep.score import read_inputs

Advance = Callable[[int, int], None]
"""Called with how many heads are scored by now, and of how many."""


def list_unscored(files: RunFiles, results: Iterable[Result], widths: RingWidths) -> list[Result]:
    """Return the results with held-out scores that lack scores in rings of these widths."""
    tested = [result for result in results if HELD_OUT in result.scores]
    scored = {result.id: scores for result in tested if (scores := read_rings(files, result.id)) is not None}
    done = {cell for cell, scores in scored.items() if np.array_equal(scores.edges, widths.find_edges(scores.pixels))}
    return [result for result in tested if result.id not in done]


def score_run(
    run: Path, results: Sequence[Result], root: Path, widths: RingWidths, advance: Advance = lambda done, total: None
) -> int:
    """Score the heads of a run in rings, and keep the scores in the run; return how many heads were scored now.

    Heads that share a stream are scored in one scan of the held-out rows of their store, which is looked for below `root`.
    Raises UsageError if a store is not there.
    """
    files = RunFiles(run)
    unscored = list_unscored(files, results, widths)
    paths = {info.spec.fingerprint: info.path for info in list_stores(root).stores if info.sealed}
    passes: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in (result.cell for result in unscored):
        shared = (cell.store, cell.train_rows, cell.held_out, cell.input.partition(":")[0], describe_stream(cell.protocol))
        passes.setdefault(shared, []).append(cell)
    done = 0
    for (store, *_), cells in passes.items():
        if store not in paths:
            raise UsageError(
                f"the store that {len(cells)} heads were trained on ({store[:8]}) is not below {root}; give --stores"
            )
        for cell, scores in _score_cells(files, open_store(paths[store]), cells, widths):
            write_rings(files, cell.id, scores)
        advance(done := done + len(cells), len(unscored))
    return len(unscored)


@torch.inference_mode()
def _score_cells(
    files: RunFiles, reader: Reader, cells: Sequence[Cell], widths: RingWidths
) -> Iterable[tuple[Cell, RingScores]]:
    """Return the scores of cells that share a stream of a store's held-out rows."""
    source = parse_input(join_inputs(dict.fromkeys(cell.input for cell in cells), reader.spec), reader.spec)
    groups = [
        FittedHeads(group, join_heads([load_head(files.head(cell.id))[0] for cell in group.cells]), ())
        for group in group_cells(cells, source, reader.spec)
    ]
    edges = widths.find_edges(reader.spec.preprocess.size)
    score = {cell: _make_scorer(cell, edges) for fitted in groups for cell in fitted.group.cells}
    parts: dict[Cell, list[Scores]] = {cell: [] for cell in score}
    for block in read_inputs(reader, source, cells[0].held_out, reader.spec.rows):
        for fitted in groups:
            maps = fitted.heads.predict(select_channels(block, fitted.group.channels)).numpy()
            for number, cell in enumerate(fitted.group.cells):
                parts[cell].append(score[cell](maps[:, number]))
    return [(cell, _join(of_cell, edges)) for cell, of_cell in parts.items()]


def _make_scorer(cell: Cell, edges: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], Scores]:
    """Return what scores maps [n, h, w] of a cell's head in rings."""
    target = make_cell_target(cell)
    return partial(score_rings, target=target, rings=cut_rings(len(target), edges))


def _join(parts: Sequence[Scores], edges: NDArray[np.float64]) -> RingScores:
    spc, mae = (np.concatenate([getattr(part, name) for part in parts]).astype(np.float32) for name in ("spc", "mae"))
    return RingScores(spc, mae, edges)
