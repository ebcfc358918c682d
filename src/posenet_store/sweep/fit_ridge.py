"""Strategies of exact readouts: normal equations of sums that are read once or kept, or conjugate gradients without them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import add
from typing import Any

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
from posenet_store.sweep.spans import Span, TrainingRows, count_rows, cut_into_spans, find_span, iterate_spans
from posenet_store.sweep.stopwatch import Stopwatch, repeat_random_image
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import count_cpus

FEW_UNKNOWNS, FEW_IMAGES = 600, 8
"""Of the problems that are timed for a plan."""


@dataclass(frozen=True)
class NormalEquations:
    """Solve heads from the second moments of each group of rows, pooled from those of its spans; one scan sums them all."""

    groups: tuple[MomentGroup, ...]
    protocol: RidgeProtocol
    limits: Limits
    name: str = "exact"

    def cost(self, training: TrainingRows, kept: MomentCache, stopwatch: Stopwatch) -> FitCost:
        """Price the moments of every image that is not in kept sums, and the solution of every head."""
        groups = self.protocol.split_rows(training.count)
        rows = count_rows([span for span in training.split(groups) if not self._is_kept(training, span, kept)])
        spans = len(groups)
        seconds, memory, solving = 0.0, 0, 0
        for group in self.groups:
            size, positions = group.unknowns - 1, output_size(*group.shape) ** 2
            threads = count_parallel_sums(size, positions, count_cpus(), self.limits.memory)
            # the sums of every group and thread, of two parts of a twentieth that are joined, and what is being added
            memory += ((spans + threads + 3) * (size + positions) * size + (threads * size**2 if threads > 1 else 0)) * 8
            solving = max(solving, (8 * size**2 + 2 * size * positions) * 8)  # pooled groups and an eigendecomposition
            summing = ("moments", group.width, group.shape)
            seconds += stopwatch.extrapolate(summing, partial(self._sum_random_images, group), -(-rows // count_cpus()))
            for heads in group.members:
                channels = min(heads.width, max(1, FEW_UNKNOWNS // heads.shape[0] ** 2))
                equations = ("normal equations", channels, heads.shape, len(heads.cells), spans, self.protocol)
                solve = partial(self._solve_random_moments, heads, channels, spans)
                # an eigendecomposition takes the third power of its size
                seconds += stopwatch.extrapolate(equations, solve, 1) * (heads.width / channels) ** 3
        return FitCost(rows, memory + solving, seconds)

    def _list_keys(self, training: TrainingRows, span: Span) -> list[dict[str, Any]]:
        """Return the key of each group's sums over a span."""
        return [training.cache_key("sums", span, group.cache_key(training.source)) for group in self.groups]

    def _is_kept(self, training: TrainingRows, span: Span, cache: MomentCache) -> bool:
        return all(cache.holds(key) for key in self._list_keys(training, span))

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
        """Pool the moments of every group of rows from those of its spans, in order, then solve."""
        groups = find_spans(inputs.reader, self.protocol, inputs.rows)
        sums: list[list[Moments]] = [[] for _ in groups]
        for (start, _), moments in self._save_twentieths(inputs.training, self._sum_spans(inputs, groups, cache), cache):
            number = find_span(start, groups)
            sums[number] = _add_moments(sums[number], moments)
        fitted = []
        for number, group in enumerate(self.groups):
            targets = group.targets()
            for heads in group.members:
                features = group.feature_indices(heads)
                selected = [of_rows[number].select(features) for of_rows in sums]
                fitted.append(_assign(heads, targets, solve_ridge(selected, list(targets.values()), self.protocol)))
        return fitted

    def _sum_spans(
        self, inputs: TrainingInputs, groups: Sequence[Span], cache: MomentCache
    ) -> Iterator[tuple[Span, list[Moments]]]:
        """Yield each moment group's sums over every span of some rows that has a readable image, in order."""
        training = inputs.training
        spans = [span for span in training.split(groups) if inputs.count_images(span)]
        lacking = [span for span in spans if not self._is_kept(training, span, cache)]
        for span, blocks in iterate_spans(inputs, spans, lacking):
            yield span, self._load_or_sum(self._list_keys(training, span), blocks, cache)

    def _save_twentieths(
        self, training: TrainingRows, sums: Iterator[tuple[Span, list[Moments]]], cache: MomentCache
    ) -> Iterator[tuple[Span, list[Moments]]]:
        """Yield `sums`; save those of a twentieth that groups of rows cut as a whole too, for sweeps that cut elsewhere."""
        twentieths = cut_into_spans(training.stored)
        for position, parts in groupby(sums, key=lambda part: find_span(part[0][0], twentieths)):
            twentieth, joined = twentieths[position], list[Moments]()
            lacking = twentieth[1] <= training.count and not self._is_kept(training, twentieth, cache)
            for span, moments in parts:
                joined = _add_moments(joined, moments) if lacking else []
                yield span, moments
            for key, moments_of_group in zip(self._list_keys(training, twentieth), joined, strict=False):
                cache.save(key, moments_of_group.to_tensors())

    def _load_or_sum(self, keys: Sequence[Mapping[str, Any]], blocks: Iterable[Tensor], cache: MomentCache) -> list[Moments]:
        """Return each group's sums over the images of `blocks`, which are read only if the cache lacks some."""
        moments = [Moments.from_tensors(*g.shape, cache.load(key)) for g, key in zip(self.groups, keys, strict=True)]
        missing = {
            number: MomentAccumulator(*self.groups[number].shape, self.limits.memory)
            for number, loaded in enumerate(moments)
            if loaded is None
        }
        for block in blocks if missing else ():
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

    def cost(self, training: TrainingRows, kept: MomentCache, stopwatch: Stopwatch) -> FitCost:
        """Price the iterations of every group, as if all that are allowed were taken."""
        rows = training.count
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
        return FitCost(rows * (1 if self.in_memory else scans_each * len(self.groups)), memory + solving, seconds)

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


def _add_moments(total: list[Moments], moments: list[Moments]) -> list[Moments]:
    """Return the sums of each moment group over two spans together; an empty `total` adds nothing."""
    return list(map(add, total, moments)) if total else moments


def _assign(group: HeadGroup, targets: Targets, solved: Sequence[RidgeHead]) -> FittedHeads:
    """Give each cell of a group the head of its target."""
    heads = [solved[index] for index in target_indices(group, targets)]
    joined = Heads(torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads]), group.shape[1])
    return FittedHeads(group, joined, tuple(head.facts for head in heads))
