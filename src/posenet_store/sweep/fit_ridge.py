"""Strategies of exact readouts: normal equations of sums that are read once or kept, or conjugate gradients without them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.heads.conjugate_gradients import solve_by_conjugate_gradients
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import MomentAccumulator, Moments, compute_moments, count_parallel_sums
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, solve_ridge
from posenet_store.specs import GRID
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.grouping import (
    Channels,
    FittedHeads,
    HeadGroup,
    MomentGroup,
    Targets,
    select_channels,
    target_indices,
)
from posenet_store.sweep.limits import FitCost, Limits
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.stopwatch import Stopwatch, repeat_random_image
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import count_cpus

FEW_UNKNOWNS, FEW_IMAGES = 600, 8
"""Of the problems that are timed for a plan."""
Span = tuple[int, int]


@dataclass(frozen=True)
class NormalEquations:
    """Solve heads from the second moments of each group of rows, all summed in one scan."""

    groups: tuple[MomentGroup, ...]
    protocol: RidgeProtocol
    limits: Limits
    name: str = "exact"

    def cost(self, rows: int, stopwatch: Stopwatch) -> FitCost:
        """Price the moments of every image, and the solution of every head."""
        spans = len(self.protocol.split_rows(rows))
        seconds, memory, solving = 0.0, 0, 0
        for group in self.groups:
            size, positions = group.unknowns - 1, output_size(*group.shape) ** 2
            threads = count_parallel_sums(size, positions, count_cpus(), self.limits.memory)
            memory += ((spans - 1 + threads) * (size + positions) * size + (threads * size**2 if threads > 1 else 0)) * 8
            solving = max(solving, (8 * size**2 + 2 * size * positions) * 8)  # pooled groups and an eigendecomposition
            summing = ("moments", group.width, group.shape)
            seconds += stopwatch.extrapolate(summing, partial(self._sum_random_images, group), -(-rows // count_cpus()))
            for heads in group.members:
                channels = min(heads.width, max(1, FEW_UNKNOWNS // heads.shape[0] ** 2))
                equations = ("normal equations", channels, heads.shape, len(heads.cells), spans, self.protocol)
                solve = partial(self._solve_random_moments, heads, channels, spans)
                # an eigendecomposition takes the third power of its size
                seconds += stopwatch.extrapolate(equations, solve, 1) * (heads.width / channels) ** 3
        return FitCost(1, memory + solving, seconds)

    def _sum_random_images(self, group: MomentGroup, images_of_each_thread: int) -> None:
        images = repeat_random_image(images_of_each_thread * count_cpus(), group.width)
        compute_moments([images], *group.shape, self.limits.memory)

    def _solve_random_moments(self, heads: HeadGroup, channels: int, spans: int, times: int) -> None:
        sums = MomentAccumulator(*heads.shape, self.limits.memory)
        sums.add(torch.rand(2, channels, GRID, GRID))
        moments = [entry for entry in [sums.moments()] if entry is not None]
        for _ in range(times):
            solve_ridge(moments * spans, list(heads.alone().targets().values()), self.protocol)

    def fit(self, inputs: TrainingInputs, cache: MomentCache) -> list[FittedHeads]:
        """Sum the moments of every group of rows, then solve."""
        spans = find_spans(inputs.reader, self.protocol, inputs.rows)
        sums = [self._sum_moments(inputs, span, cache) for span in spans]
        fitted = []
        for number, group in enumerate(self.groups):
            targets = group.targets()
            for heads in group.members:
                features = group.feature_indices(heads)
                moments = [of_span[number].select(features) for of_span in sums]
                fitted.append(_assign(heads, targets, solve_ridge(moments, list(targets.values()), self.protocol)))
        return fitted

    def _sum_moments(self, inputs: TrainingInputs, span: Span, cache: MomentCache) -> list[Moments]:
        """Return each group's moments over some rows: from the cache, or summed in one scan and saved there."""
        keys = [{"kind": "sums", "rows": list(span)} | group.cache_key(inputs.source) for group in self.groups]
        moments = [Moments.from_tensors(*g.shape, cache.load(key)) for g, key in zip(self.groups, keys, strict=True)]
        missing = {
            number: MomentAccumulator(*self.groups[number].shape, self.limits.memory)
            for number, loaded in enumerate(moments)
            if loaded is None
        }
        for block in inputs.blocks(*span) if missing else ():
            for number, accumulator in missing.items():
                accumulator.add(select_channels(block, self.groups[number].channels))
        for number, accumulator in missing.items():
            moments[number] = summed = accumulator.moments()
            if summed is not None:
                cache.save(keys[number], summed.to_tensors())
        return [entry for entry in moments if entry is not None]


@dataclass(frozen=True)
class ConjugateGradients:
    """Solve heads of too many unknowns by iterations over the images: from memory, or from the store in every step."""

    groups: tuple[HeadGroup, ...]
    protocol: RidgeProtocol
    channels: int
    in_memory: bool

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return f"conjugate gradients, {'in memory' if self.in_memory else 'streamed'}"

    def cost(self, rows: int, stopwatch: Stopwatch) -> FitCost:
        """Price the iterations of every group, as if all that are allowed were taken."""
        spans, steps, lambdas = len(self.protocol.split_rows(rows)), self.protocol.iterations, len(self.protocol.lambdas)
        trials = len(self.protocol.list_left_out_groups(spans))
        scans_each = steps * (1 + (trials > 0)) + 1 + (trials > 0)  # of the trials and the refit, the sums and the errors
        seconds, solving = 0.0, 0
        for heads in self.groups:
            size, targets = heads.unknowns - 1, len(heads.alone().target_cells())
            solving = max(
                solving,
                ((2 * lambdas + 8) * trials * targets * size + 2 * (spans + trials) * heads.width * GRID**2) * 8,
            )
            kind = ("conjugate gradients", heads.width, heads.shape, targets, spans, self.protocol)
            iterate = partial(self._iterate_on_random_images, heads, spans)
            seconds += stopwatch.extrapolate(kind, iterate, steps) * rows / (spans * FEW_IMAGES)
        memory = rows * self.channels * GRID**2 * 4 if self.in_memory else 0
        return FitCost(1 if self.in_memory else scans_each * len(self.groups), memory + solving, seconds)

    def _iterate_on_random_images(self, heads: HeadGroup, spans: int, iterations: int) -> None:
        images = repeat_random_image(FEW_IMAGES, heads.width)
        maps = torch.stack(list(heads.alone().targets().values()))
        protocol = replace(self.protocol, iterations=iterations)
        solve_by_conjugate_gradients(lambda span: [images], spans, heads.shape, maps, protocol)

    def fit(self, inputs: TrainingInputs, cache: MomentCache) -> list[FittedHeads]:
        """Solve one group after another."""
        spans = find_spans(inputs.reader, self.protocol, inputs.rows)
        held = [list(inputs.blocks(*span)) for span in spans] if self.in_memory else None
        fitted = []
        for heads in self.groups:

            def scan(span: int, channels: Channels = heads.channels) -> Iterable[Tensor]:
                blocks = held[span] if held is not None else inputs.blocks(*spans[span])
                return (select_channels(block, channels) for block in blocks)

            targets = heads.alone().targets()
            maps = torch.stack(list(targets.values()))
            solved = solve_by_conjugate_gradients(scan, len(spans), heads.shape, maps, self.protocol)
            fitted.append(_assign(heads, targets, solved))
        return fitted


def find_spans(reader: Reader, protocol: RidgeProtocol, rows: int) -> list[Span]:
    """Return the groups of the training rows that have a readable image; raises StoreError if too few have one."""
    planned = protocol.split_rows(rows)
    spans = [span for span in planned if reader.readable[slice(*span)].any()]
    first = planned[-1] if protocol.folds else planned[0]
    if not spans or (spans[0] != first and not protocol.folds):
        raise StoreError(f"{reader.files} has no readable image among its first {first[1]} rows to train on")
    if protocol.folds and len(spans) < 2:
        raise StoreError(f"{reader.files} has readable images in one of {protocol.folds} folds only; use fewer folds, or none")
    return spans


def _assign(group: HeadGroup, targets: Targets, solved: Sequence[RidgeHead]) -> FittedHeads:
    """Give each cell of a group the head of its target."""
    heads = [solved[index] for index in target_indices(group, targets)]
    joined = Heads(torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads]), group.shape[1])
    return FittedHeads(group, joined, tuple(head.facts for head in heads))
