"""Running one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.cells import HELD_OUT, Cell, Report, Ridge, target_of
from posenet_store.errors import StoreError
from posenet_store.families import Family, Goals, Unit, chosen, families, group_of, shifts, units
from posenet_store.files import sha256, write_json
from posenet_store.gram import Collector, ImageMoments, fits, train_in_gram_space
from posenet_store.heads import Heads, save_head
from posenet_store.inputs import Input, parse_input
from posenet_store.moments import Keep, Shelf
from posenet_store.planning import Pass
from posenet_store.provenance import provenance
from posenet_store.reader import Reader, open_store
from posenet_store.report_protocol import in_memory, train
from posenet_store.results import RunFiles, write_scores
from posenet_store.ridge import Accumulator, Moments, readouts, solvable
from posenet_store.scoring import Scorable, Scored, columns_of, score_heads, stream


@dataclass(frozen=True)
class Fitted:
    """The heads of a family, in the order of its cells, and for each what the fit says of itself."""

    family: Family
    heads: Heads
    facts: tuple[dict[str, float], ...]

    @property
    def scorable(self) -> Scorable:
        """What scoring needs to know."""
        return Scorable(self.heads, [target_of(vars(cell)) for cell in self.family.cells], self.family.channels)


def fit_report(reader: Reader, source: Input, cells: Sequence[Cell], protocol: Report, shelf: Shelf) -> list[Fitted]:
    """Train cells by the report's recipe: in Gram space where the moments fit in memory, else by convolution.

    Both take the same steps on the same batches; the choice shows in time only. `protocol` is what the cells agree in.
    """
    rows = cells[0].train_rows
    images = int(reader.readable[:rows].sum())
    if not images:
        raise StoreError(f"{reader.files} has no readable image among its first {rows} rows to train on")
    small, large = units(families(cells, source, reader.spec), source.channels, partial(fits, images))
    return [
        *(_in_gram_space(reader, source, rows, small, protocol, shelf) if small else ()),
        *(_by_convolution(reader, source, rows, large, protocol) if large else ()),
    ]


def _in_gram_space(
    reader: Reader, source: Input, rows: int, made: Sequence[Unit], protocol: Report, shelf: Shelf
) -> list[Fitted]:
    """One scan for the moments of as many units as fit in memory together, then their steps without reading again."""
    batches = partial(_batches, reader, source, rows, protocol)
    fitted = []
    for some in shifts(made, rows):
        goals = [unit.goals() for unit in some]
        with shelf.meanwhile() as keep:  # the disk is written to while heads are trained
            moments = _of_images(reader, source, rows, some, goals, shelf, keep)
            for unit, maps, whole in zip(some, goals, moments, strict=True):
                for family in unit.families:
                    mine = whole.of(unit.features(family))
                    heads = train_in_gram_space(mine, batches, family.width, group_of(family, maps), protocol)
                    fitted.append(Fitted(family, heads, _divergence(heads)))
    return fitted


def _batches(reader: Reader, source: Input, rows: int, protocol: Report, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of an epoch, as positions among the readable rows."""
    place = np.cumsum(reader.readable) - 1
    order = np.concatenate(reader.epoch(source.arrays, 0, rows, seed=protocol.order_seed, epoch=epoch))
    return [place[order[first : first + protocol.batch_size]] for first in range(0, len(order), protocol.batch_size)]


def _of_images(
    reader: Reader, source: Input, rows: int, made: Sequence[Unit], goals: Sequence[Goals], shelf: Shelf, keep: Keep
) -> list[ImageMoments]:
    """Return each unit's moments of every image: from the shelf, or summed in one scan and kept there."""
    keys = [{"kind": "images", "rows": rows} | unit.key(source) for unit in made]
    found = [_from_shelf(shelf, key, maps) for key, maps in zip(keys, goals, strict=True)]
    images = int(reader.readable[:rows].sum())
    collectors = {
        place: Collector(images, *made[place].shape, torch.stack(list(goals[place].values())))
        for place, one in enumerate(found)
        if one is None
    }
    for block in stream(reader, source, 0, rows if collectors else 0):
        for place, collector in collectors.items():
            collector.add(chosen(block, made[place].channels))
    for place, collector in collectors.items():
        whole = collector.whole()
        keep(keys[place], {"second": whole.second})
        for number, target in enumerate(goals[place].values()):
            keep(keys[place] | {"target": _digest(target)}, {"cross": whole.cross[:, number].contiguous()})
        found[place] = whole
    return [one for one in found if one is not None]


def _from_shelf(shelf: Shelf, key: dict[str, Any], maps: Goals) -> ImageMoments | None:
    targets = list(maps.values())
    crosses = [shelf.find(key | {"target": _digest(target)}) for target in targets]
    second = shelf.find(key) if all(crosses) else None
    if second is None:
        return None
    return ImageMoments(second["second"], torch.stack([one["cross"] for one in crosses if one], dim=1), targets[0].numel())


def _digest(target: Tensor) -> str:
    return sha256(target.numpy().tobytes())


def _by_convolution(reader: Reader, source: Input, rows: int, made: Sequence[Family], protocol: Report) -> list[Fitted]:
    """Train by the convolution itself: from memory where the input fits, else from the store in every epoch."""
    images = int(reader.readable[:rows].sum())
    held = torch.cat(list(stream(reader, source, 0, rows))) if in_memory(images, source.channels) else None

    def batches(epoch: int) -> Iterator[Tensor]:
        if held is not None:
            return (held[torch.from_numpy(batch)] for batch in _batches(reader, source, rows, protocol, epoch))
        order = {"batch_size": protocol.batch_size, "seed": protocol.order_seed, "epoch": epoch}
        return (source.assemble(values) for values in reader.batches(source.arrays, 0, rows, **order))

    epochs = protocol.epochs_over(images)
    groups = [group_of(family, Unit((family,), family.channels, family.width).goals()) for family in made]
    trained = train(batches, epochs, source.channels, groups, protocol, [family.channels for family in made])
    return [Fitted(family, heads, _divergence(heads)) for family, heads in zip(made, trained, strict=True)]


def _divergence(heads: Heads) -> tuple[dict[str, float], ...]:
    """Mark the heads that ran away; their neighbours are as they would be without them."""
    finite = torch.isfinite(heads.weight).flatten(1).all(1) & torch.isfinite(heads.bias)
    return tuple({} if sound else {"diverged": 1.0} for sound in finite.tolist())


def fit_ridge(reader: Reader, source: Input, cells: Sequence[Cell], protocol: Ridge, shelf: Shelf) -> list[Fitted]:
    """Solve cells exactly, from the moments of the fitting and of the validation rows, summed in one scan for all."""
    rows = cells[0].train_rows
    cut = rows - round(protocol.validation * rows)
    made, large = units(families(cells, source, reader.spec), source.channels, solvable)
    made += [Unit((family,), family.channels, family.width) for family in large]  # which say themselves that they are too large
    fitting = _sums(reader, source, (0, cut), made, [None] * len(made), shelf)
    validation = _sums(reader, source, (cut, rows), made, [None if one is None else one.shift for one in fitting], shelf)
    fitted = []
    for unit, first, second in zip(made, fitting, validation, strict=True):
        if first is None:
            raise StoreError(f"{reader.files} has no readable image among its first {cut} rows to train on")
        goals = unit.goals()
        for family in unit.families:
            features = unit.features(family)
            tried = second and second.of(features)
            found = readouts(first.of(features), tried, list(goals.values()), protocol.lambdas)
            mine = [found[place] for place in group_of(family, goals).goals]
            heads = Heads(torch.stack([r.weight for r in mine]), torch.stack([r.bias for r in mine]), family.shape[1])
            facts = tuple({"penalty": r.penalty, "validation_error": r.validation_error} for r in mine)
            fitted.append(Fitted(family, heads, facts))
    return fitted


def _sums(
    reader: Reader, source: Input, span: tuple[int, int], made: Sequence[Unit], shifts: Sequence[Tensor | None], shelf: Shelf
) -> list[Moments | None]:
    """Return each unit's moments summed over some rows: from the shelf, or in one scan and kept there."""
    keys = [{"kind": "sums", "rows": list(span)} | unit.key(source) for unit in made]
    found = [Moments.loaded(*unit.shape, shelf.find(key)) for unit, key in zip(made, keys, strict=True)]
    sums = {place: Accumulator(*made[place].shape, shifts[place]) for place, one in enumerate(found) if one is None}
    for block in stream(reader, source, span[0], span[1] if sums else span[0]):
        for place, one in sums.items():
            one.add(chosen(block, made[place].channels))
    for place, one in sums.items():
        found[place] = whole = one.moments()
        if whole is not None:
            shelf.keep(keys[place], whole.tensors())
    return found


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
    shelf = Shelf(task.moments and task.moments / reader.name, reader.manifest["store_id"])
    if isinstance(task.protocol, Report):
        fitted = fit_report(reader, source, task.cells, task.protocol, shelf)
    else:
        fitted = fit_ridge(reader, source, task.cells, task.protocol, shelf)
    scorable = [family.scorable for family in fitted]
    columns: dict[str, list[list[Scored]]] = {}
    for name, blocks in _test_columns(reader, tests, source, task.cells[0].train_rows):
        columns[name] = score_heads(blocks, scorable)
    seconds = (time.perf_counter() - began) / len(task.cells)
    for number, group in enumerate(fitted):
        for place in range(len(group.family.cells)):
            scored = {name: column[number][place] for name, column in columns.items()}
            _write_cell(RunFiles(run), reader, group, place, scored, seconds)
    return [cell.id for cell in task.cells]


def _write_cell(files: RunFiles, reader: Reader, group: Fitted, place: int, scored: dict[str, Scored], seconds: float) -> None:
    """Write head, scores, then the record that makes the cell count."""
    cell = group.family.cells[place]
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
