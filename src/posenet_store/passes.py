"""Running one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.cells import HELD_OUT, Cell, Report, Ridge, target_of
from posenet_store.errors import StoreError
from posenet_store.files import write_json
from posenet_store.gram import ImageMoments, fits, image_moments, joined, train_in_gram_space
from posenet_store.heads import Heads, save_head
from posenet_store.inputs import Input, parse_input
from posenet_store.planning import Pass
from posenet_store.provenance import provenance
from posenet_store.reader import Reader, open_store
from posenet_store.report_protocol import Group, train
from posenet_store.results import RunFiles, write_scores
from posenet_store.ridge import accumulate, readouts
from posenet_store.scoring import Scored, columns_of, score_heads, stream


@dataclass(frozen=True)
class Fitted:
    """Heads of one kernel and padding, their cells in order, and for each what the fit says of itself."""

    cells: tuple[Cell, ...]
    heads: Heads
    facts: tuple[dict[str, float], ...]


def _grouped(cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
    """Split cells by kernel and padding: each group is one convolution."""
    key: Callable[[Cell], tuple[int, int]] = lambda cell: (cell.kernel, cell.padding)  # noqa: E731
    return [tuple(group) for _, group in groupby(sorted(cells, key=key), key=key)]


def fit_report(reader: Reader, source: Input, cells: Sequence[Cell], protocol: Report) -> list[Fitted]:
    """Train cells by the report's recipe: in Gram space where the moments fit in memory, else by convolution.

    Both take the same steps on the same batches; the choice shows in time only.
    """
    rows = cells[0].train_rows
    images = int(reader.readable[:rows].sum())
    grouped = _grouped(cells)
    small = [group for group in grouped if fits(images, source.channels, group[0].kernel)]
    large = [group for group in grouped if group not in small]
    heads: dict[tuple[Cell, ...], Heads] = {}
    if small:
        heads |= dict(zip(small, _in_gram_space(reader, source, small, protocol), strict=True))
    if large:

        def batches(epoch: int) -> Iterator[Tensor]:
            order = {"batch_size": protocol.batch_size, "seed": protocol.order_seed, "epoch": epoch}
            return (source.assemble(values) for values in reader.batches(source.arrays, 0, rows, **order))

        trained = train(batches, protocol.epochs_over(images), source.channels, [_group(group) for group in large], protocol)
        heads |= dict(zip(large, trained, strict=True))
    return [Fitted(group, heads[group], ({},) * len(group)) for group in grouped]


def _group(cells: Sequence[Cell]) -> Group:
    targets = torch.stack([torch.from_numpy(target_of(vars(cell)).copy()) for cell in cells])
    return Group(cells[0].kernel, cells[0].padding, tuple(cell.seed for cell in cells), targets)


def _in_gram_space(reader: Reader, source: Input, grouped: Sequence[Sequence[Cell]], protocol: Report) -> list[Heads]:
    """One scan for the moments of all groups, then each group's steps without reading again."""
    rows = grouped[0][0].train_rows
    groups = [_group(cells) for cells in grouped]
    parts: list[list[ImageMoments]] = [[] for _ in groups]
    for block in stream(reader, source, 0, rows):
        for group, held in zip(groups, parts, strict=True):
            held.append(image_moments(block, group.kernel, group.padding, group.targets))
    place = np.cumsum(reader.readable) - 1  # a row's position among the readable ones

    def batches(epoch: int) -> list[NDArray[np.int64]]:
        order = np.concatenate(reader.epoch(source.arrays, 0, rows, seed=protocol.order_seed, epoch=epoch))
        return [place[order[first : first + protocol.batch_size]] for first in range(0, len(order), protocol.batch_size)]

    return [
        train_in_gram_space(joined(held), batches, source.channels, group, protocol)
        for group, held in zip(groups, parts, strict=True)
    ]


def fit_ridge(reader: Reader, source: Input, cells: Sequence[Cell], protocol: Ridge) -> list[Fitted]:
    """Solve cells exactly, from the moments of the fitting and of the validation rows."""
    rows = cells[0].train_rows
    cut = rows - round(protocol.validation * rows)
    fitted = []
    for group in _grouped(cells):
        kernel, padding = group[0].kernel, group[0].padding
        fitting = accumulate(stream(reader, source, 0, cut), kernel, padding)
        if fitting is None:
            raise StoreError(f"{reader.files} has no readable image among its first {cut} rows to train on")
        validation = accumulate(stream(reader, source, cut, rows), kernel, padding, fitting.shift)
        found = readouts(fitting, validation, list(_group(group).targets), protocol.lambdas)
        heads = Heads(torch.stack([r.weight for r in found]), torch.stack([r.bias for r in found]), padding)
        facts = tuple({"penalty": r.penalty, "validation_error": r.validation_error} for r in found)
        fitted.append(Fitted(group, heads, facts))
    return fitted


def _test_columns(reader: Reader, tests: Sequence[Reader], source: Input, start: int) -> Iterator[tuple[str, Iterable[Tensor]]]:
    if start < reader.spec.rows:
        yield HELD_OUT, stream(reader, source, start, reader.spec.rows)
    for test in tests:
        yield from columns_of(test, source)


def _opened(path: Path, fingerprint: str) -> Reader:
    reader = open_store(path)
    if reader.spec.fingerprint != fingerprint:
        raise StoreError(f"{path} is not the store that the sweep was planned with (fingerprint {fingerprint[:8]})")
    return reader


def run_pass(task: Pass, run: Path, threads: int) -> list[str]:
    """Train, score and write all cells of a pass below the folder `run`; returns their ids."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    reader = _opened(task.train, task.cells[0].store)
    tests = [_opened(path, fingerprint) for path, fingerprint in zip(task.tests, task.cells[0].tests, strict=True)]
    source = parse_input(task.input, reader.spec)
    if isinstance(task.protocol, Report):
        fitted = fit_report(reader, source, task.cells, task.protocol)
    else:
        fitted = fit_ridge(reader, source, task.cells, task.protocol)
    scorable = [(group.heads, [target_of(vars(cell)) for cell in group.cells]) for group in fitted]
    columns: dict[str, list[list[Scored]]] = {}
    for name, blocks in _test_columns(reader, tests, source, task.cells[0].train_rows):
        columns[name] = score_heads(blocks, scorable)
    seconds = (time.perf_counter() - began) / len(task.cells)
    for number, group in enumerate(fitted):
        for place in range(len(group.cells)):
            scored = {name: column[number][place] for name, column in columns.items()}
            _write_cell(RunFiles(run), reader, group, place, scored, seconds)
    return [cell.id for cell in task.cells]


def _write_cell(files: RunFiles, reader: Reader, group: Fitted, place: int, scored: dict[str, Scored], seconds: float) -> None:
    """Write head, scores, then the record that makes the cell count."""
    cell = group.cells[place]
    labels = {"network": reader.spec.network, "backbone": reader.spec.backbone, "images": reader.spec.images}
    metadata = {"cell": cell.to_dict(), "padding": cell.padding, "network_key": reader.spec.network_key, **labels}
    save_head(files.head(cell.id), group.heads.weight[place], group.heads.bias[place], metadata)
    arrays: dict[str, NDArray[np.float64] | NDArray[np.float32]] = {}
    for name, one in scored.items():
        arrays |= {f"spc/{name}": one.scores.spc, f"mae/{name}": one.scores.mae, f"map/{name}": one.sample}
    write_scores(files.scores(cell.id), arrays)
    write_json(
        files.record(cell.id),
        {
            "id": cell.id,
            "cell": cell.to_dict(),
            "labels": labels,
            "scores": {name: one.scores.summary() for name, one in scored.items()},
            "fit": group.facts[place],
            "seconds": round(seconds, 4),
            "provenance": provenance(),
        },
    )
