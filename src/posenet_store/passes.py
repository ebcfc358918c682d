"""Running one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from posenet_store.cells import HELD_OUT, Cell, target_of
from posenet_store.errors import StoreError
from posenet_store.families import Fitted, Unit, chosen, families, places_of, units
from posenet_store.files import write_json
from posenet_store.heads import Heads, save_head
from posenet_store.inputs import Input, parse_input
from posenet_store.moments import Shelf
from posenet_store.planning import Pass
from posenet_store.provenance import provenance
from posenet_store.reader import Reader, open_store
from posenet_store.recipes import Recipe, Ridge
from posenet_store.results import RunFiles, write_scores
from posenet_store.ridge import Accumulator, Moments, readouts, solvable
from posenet_store.scoring import Scorable, Scored, columns_of, score_heads, stream
from posenet_store.training import fit_recipe


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
            mine = [found[place] for place in places_of(family, goals)]
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


def scorable_of(fitted: Fitted) -> Scorable:
    """Return what scoring needs to know of a family's heads."""
    targets = [target_of(cell.to_dict()) for cell in fitted.family.cells]
    return Scorable(fitted.heads, targets, fitted.family.channels)


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
    if isinstance(task.protocol, Recipe):
        fitted = fit_recipe(reader, source, task.cells, task.protocol, shelf)
    else:
        fitted = fit_ridge(reader, source, task.cells, task.protocol, shelf)
    scorable = [scorable_of(one) for one in fitted]
    columns: dict[str, list[list[Scored]]] = {}
    for name, blocks in _test_columns(reader, tests, source, task.cells[0].held_out):
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
    metadata = {"cell": cell.to_dict(), "network_key": reader.spec.network_key, **labels}
    save_head(files.head(cell.id), group.heads, place, metadata)
    arrays = [one.arrays(name) for name, one in scored.items()]
    write_scores(files.scores(cell.id), {name: array for some in arrays for name, array in some.items()})
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
