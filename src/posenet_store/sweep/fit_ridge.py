"""Fitting the exact readouts of a pass: from sums that are read once or kept, or by iterations where those are too large."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.heads.conjugate_gradients import Scan, solve_by_conjugate_gradients
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import MomentAccumulator, Moments, solvable
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, solve_ridge
from posenet_store.heads.train_convolution import in_memory
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.grouping import FittedHeads, Goals, HeadGroup, MomentGroup, Places, chosen, families, places_of, units
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.score import read_inputs

Span = tuple[int, int]


def fit_ridge(
    reader: Reader, source: Input, cells: Sequence[Cell], protocol: RidgeProtocol, shelf: MomentCache
) -> list[FittedHeads]:
    """Solve cells exactly: from the moments of each group of rows, summed in one scan for all, or else by iterations.

    Raises StoreError if a group that must not be empty has no readable image.
    """
    spans = _groups(reader, protocol, cells[0].train_rows)
    small, large = units(families(cells, source, reader.spec), source.channels, solvable)
    sums = [_sums(reader, source, span, small, shelf) for span in spans] if small else []
    fitted = []
    for number, unit in enumerate(small):
        groups, goals = [found[number] for found in sums], unit.goals()
        for family in unit.families:
            features = unit.features(family)
            mine = [one.select(features) for one in groups]
            fitted.append(_fitted(family, goals, solve_ridge(mine, list(goals.values()), protocol)))
    if large:
        fitted += _by_iterations(_scan(reader, source, spans), len(spans), large, protocol)
    return fitted


def _groups(reader: Reader, protocol: RidgeProtocol, rows: int) -> list[Span]:
    """The groups of the training rows that have a readable image."""
    asked = protocol.split_rows(rows)
    spans = [span for span in asked if reader.readable[slice(*span)].any()]
    first = asked[-1] if protocol.folds else asked[0]
    if not spans or (spans[0] != first and not protocol.folds):
        raise StoreError(f"{reader.files} has no readable image among its first {first[1]} rows to train on")
    if protocol.folds and len(spans) < 2:
        raise StoreError(f"{reader.files} has readable images in one of {protocol.folds} folds only; use fewer folds, or none")
    return spans


def _sums(reader: Reader, source: Input, span: Span, made: Sequence[MomentGroup], shelf: MomentCache) -> list[Moments]:
    """Return each unit's moments summed over some rows: from the shelf, or in one scan and kept there."""
    keys = [{"kind": "sums", "rows": list(span)} | unit.key(source) for unit in made]
    found = [Moments.from_tensors(*unit.shape, shelf.find(key)) for unit, key in zip(made, keys, strict=True)]
    sums = {place: MomentAccumulator(*made[place].shape) for place, one in enumerate(found) if one is None}
    for block in read_inputs(reader, source, span[0], span[1] if sums else span[0]):
        for place, one in sums.items():
            one.add(chosen(block, made[place].channels))
    for place, one in sums.items():
        found[place] = whole = one.moments()
        if whole is not None:
            shelf.keep(keys[place], whole.to_tensors())
    return [one for one in found if one is not None]


def _scan(reader: Reader, source: Input, spans: Sequence[Span]) -> Scan:
    """Return what yields the blocks of a group of rows: from memory where the input fits, else from the store anew."""
    if in_memory(sum(int(reader.readable[slice(*span)].sum()) for span in spans), source.channels):
        held = [list(read_inputs(reader, source, *span)) for span in spans]
        return lambda group: held[group]
    return lambda group: read_inputs(reader, source, *spans[group])


def _by_iterations(scan: Scan, groups: int, made: Sequence[HeadGroup], protocol: RidgeProtocol) -> list[FittedHeads]:
    """Solve families whose moments are too large to hold, one after another."""
    fitted = []
    for family in made:

        def mine(group: int, channels: Places = family.channels) -> Iterable[Tensor]:
            return (chosen(block, channels) for block in scan(group))

        goals = MomentGroup((family,), family.channels, family.width).goals()
        found = solve_by_conjugate_gradients(mine, groups, family.shape, torch.stack(list(goals.values())), protocol)
        fitted.append(_fitted(family, goals, found))
    return fitted


def _fitted(family: HeadGroup, goals: Goals, found: Sequence[RidgeHead]) -> FittedHeads:
    """Give each cell of a family the head of its target, of those for `goals`."""
    mine = [found[place] for place in places_of(family, goals)]
    heads = Heads(torch.stack([one.weight for one in mine]), torch.stack([one.bias for one in mine]), family.shape[1])
    return FittedHeads(family, heads, tuple(one.facts for one in mine))
