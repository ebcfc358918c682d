"""Strategies of exact readouts: normal equations of sums that are read once or kept, or conjugate gradients without them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import groupby
from operator import add
from typing import Any

import torch
from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.heads.conjugate_gradients import solve_by_conjugate_gradients
from posenet_store.heads.erasure import fit_eraser
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import MomentAccumulator, Moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import Bands, RidgeHead, solve_ridge
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import InputBlock
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.group_sums import GroupSums, SumsTrial
from posenet_store.sweep.grouping import (
    Channels,
    FittedHeads,
    HeadGroup,
    MomentGroup,
    Targets,
    select_channels,
    target_indices,
)
from posenet_store.sweep.limits import FitCost
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.spans import Span, TrainingRows, count_rows, cut_into_spans, find_span, iterate_spans
from posenet_store.sweep.stopwatch import Stopwatch, repeat_random_image
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import limit_to_one_thread

FEW_UNKNOWNS, FEW_IMAGES = 600, 8
"""Of the problems that are timed for a plan."""


@dataclass(frozen=True)
class NormalEquations:
    """Solve heads from the second moments of each group of rows, pooled from those of its spans; one scan sums them all."""

    groups: tuple[MomentGroup, ...]
    protocol: RidgeProtocol
    device: str | None = None

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return f"exact, on {self.device}" if self.device else "exact"

    def cost(self, training: TrainingRows, cache: MomentCache, stopwatch: Stopwatch) -> FitCost:
        """Price the moments of every image that is not in kept sums, and the solution of every head."""
        groups = self.protocol.split_rows(training.count)
        rows = count_rows([span for span in training.split(groups) if not self._is_kept(training, span, cache)])
        spans = len(groups)
        seconds, memory, solving = 0.0, 0, 0
        for group in self.groups:
            size, positions = group.unknowns - 1, output_size(*group.shape) ** 2
            # the sums of every group of rows, of a span, of two parts of it that are joined, and what is being added
            maps = sum(c * h * w for c, h, w in training.source.stored_shapes) if group.keeps_maps(training.source) else 0
            memory += (spans + 4) * ((size + positions) * size + maps) * 8
            solving = max(solving, (8 * size**2 + 2 * size * positions) * 8)  # pooled groups and an eigendecomposition
            summing = SumsTrial(group, training.source, self.device)
            seconds += stopwatch.extrapolate(summing.kind, summing.add_steps, -(-rows // summing.images))
            memory += summing.memory
            for heads in group.members:
                channels = min(heads.width, max(1, FEW_UNKNOWNS // heads.shape[0] ** 2))
                equations = ("normal equations", self.device, channels, heads.shape, len(heads.cells), spans, self.protocol)
                solve = partial(self._solve_random_moments, heads, channels, spans)
                # an eigendecomposition takes the third power of its size
                seconds += stopwatch.extrapolate(equations, solve, 1) * (heads.width / channels) ** 3
        return FitCost(rows, memory + solving, seconds, reads_taps=all(group.reads_taps for group in self.groups))

    def _list_keys(self, training: TrainingRows, span: Span) -> list[dict[str, Any]]:
        """Return the key of each group's sums over a span."""
        return [training.cache_key("sums", span, group.cache_key(training.source)) for group in self.groups]

    def _is_kept(self, training: TrainingRows, span: Span, cache: MomentCache) -> bool:
        return all(cache.holds(key) for key in self._list_keys(training, span))

    def _solve_random_moments(self, heads: HeadGroup, channels: int, spans: int, times: int) -> None:
        sums = MomentAccumulator(*heads.shape)
        sums.add(torch.rand(2, channels, GRID, GRID))
        moments = [entry for entry in [sums.moments()] if entry is not None]
        for _ in range(times):
            solve_ridge(moments * spans, list(heads.alone().targets().values()), self.protocol, device=self.device)

    def list_parts(self, training: TrainingRows) -> list[Span]:
        """Return the parts of twentieths, of all rows of the store, that are summed on their own."""
        return training.split([*self.protocol.split_rows(training.count), (training.count, training.stored)])

    def start_sums(self, training: TrainingRows, span: Span) -> list[tuple[dict[str, Any], GroupSums]]:
        """Return each group's sums of no image yet, with the key of those of a span."""
        sums = (GroupSums.start(group, training.source, self.device) for group in self.groups)
        return list(zip(self._list_keys(training, span), sums, strict=True))

    def cost_sums(self, training: TrainingRows, stopwatch: Stopwatch) -> FitCost:
        """Price the sums of all rows of the store, a span at a time, which are held twice while they are saved."""
        seconds, memory = 0.0, 0
        for group in self.groups:
            size, summing = group.unknowns - 1, SumsTrial(group, training.source, self.device)
            seconds += stopwatch.extrapolate(summing.kind, summing.add_steps, -(-training.stored // summing.images))
            memory += 2 * (size + output_size(*group.shape) ** 2) * size * 8 + summing.memory
        return FitCost(0, memory, seconds)

    def list_lacking(self, training: TrainingRows, cache: MomentCache) -> list[Span]:
        """Return the twentieths of the rows of which some sums, or their sum, are not kept."""
        twentieths = cut_into_spans(training.stored)
        cut = training.split(self.protocol.split_rows(training.count))
        spans = [*cut, *(span for span in twentieths if span[1] <= training.count)]
        lacking = {find_span(span[0], twentieths) for span in spans if not self._is_kept(training, span, cache)}
        return [twentieths[position] for position in sorted(lacking)]

    def sum_twentieth(self, inputs: TrainingInputs, cache: MomentCache, twentieth: Span) -> None:
        """Sum and keep what is not kept of the rows of a twentieth."""
        groups = find_spans(inputs.reader, self.protocol, inputs.rows)
        spans = [span for span in self._list_spans(inputs, groups) if twentieth[0] <= span[0] < twentieth[1]]
        for _ in self._save_twentieths(inputs.training, self.sum_spans(inputs, spans, cache), cache):
            pass

    def fit(self, inputs: TrainingInputs, cache: MomentCache) -> list[FittedHeads]:
        """Pool the moments of every group of rows from those of its spans, in order, then solve."""
        groups = find_spans(inputs.reader, self.protocol, inputs.rows)
        sums: list[list[Moments]] = [[] for _ in groups]
        of_spans = self.sum_spans(inputs, self._list_spans(inputs, groups), cache)
        for (start, _), moments in self._save_twentieths(inputs.training, of_spans, cache):
            number = find_span(start, groups)
            sums[number] = _add_moments(sums[number], moments)
        fitted = []
        for number, group in enumerate(self.groups):
            targets = group.targets()
            for heads in group.members:
                features = group.feature_indices(heads)
                chosen = [of_rows[number].select(features) for of_rows in sums]
                bands = _list_bands(inputs, group, heads) if self.protocol.bands else None
                fitted.append(_assign(heads, targets, _solve(chosen, [*targets.values()], self.protocol, bands, self.device)))
        return fitted

    def _list_spans(self, inputs: TrainingInputs, groups: Sequence[Span]) -> list[Span]:
        """Return the parts of twentieths in groups of rows that have a readable image."""
        return [span for span in inputs.training.split(groups) if inputs.count_images(span)]

    def sum_spans(
        self, inputs: TrainingInputs, spans: Sequence[Span], cache: MomentCache
    ) -> Iterator[tuple[Span, list[Moments]]]:
        """Yield each moment group's sums over every one of ascending spans."""
        training = inputs.training
        lacking = [span for span in spans if not self._is_kept(training, span, cache)]
        for span, blocks in iterate_spans(inputs, spans, lacking, inputs.read):
            yield span, self._load_or_sum(training, span, blocks, cache)

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

    def _load_or_sum(
        self, training: TrainingRows, span: Span, blocks: Iterable[InputBlock], cache: MomentCache
    ) -> list[Moments]:
        """Return each group's sums over the images of a span, whose `blocks` are read only if the cache lacks some."""
        keys = self._list_keys(training, span)
        moments = [Moments.from_tensors(*g.shape, cache.load(key)) for g, key in zip(self.groups, keys, strict=True)]
        missing = {
            number: GroupSums.start(self.groups[number], training.source, self.device)
            for number, loaded in enumerate(moments)
            if loaded is None
        }
        for block in blocks if missing else ():
            for sums in missing.values():
                sums.add(block)
            del block  # so that its memory is free while the next is read
        for number, sums in missing.items():
            moments[number] = summed = sums.moments()
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

    def cost(self, training: TrainingRows, cache: MomentCache, stopwatch: Stopwatch) -> FitCost:
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
        loaded = [list(inputs.blocks(*span)) for span in spans] if self.in_memory else None
        fitted = []
        for heads in self.groups:

            def scan(span: int, channels: Channels = heads.channels) -> Iterable[Tensor]:
                blocks = loaded[span] if loaded is not None else inputs.blocks(*spans[span])
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


def _list_bands(inputs: TrainingInputs, group: MomentGroup, heads: HeadGroup) -> Bands:
    """Return where the features of each stage lie among those of a head group, by the stage's name."""
    channels = torch.arange(inputs.source.channels) if heads.channels is None else torch.tensor(heads.channels)
    stages = torch.repeat_interleave(torch.tensor(inputs.source.widths))[channels].repeat_interleave(group.shape[0] ** 2)
    names = [inputs.reader.spec.taps[tap].name for tap in inputs.source.taps]
    return {names[stage]: (stages == stage).nonzero()[:, 0] for stage in stages.unique().tolist()}


def _solve(
    groups: Sequence[Moments], targets: Sequence[Tensor], protocol: RidgeProtocol, bands: Bands | None, device: str | None
) -> list[RidgeHead]:
    """Return the exact heads of features from which targets are erased if the protocol says so, as heads of the features."""
    if not protocol.erase:
        return solve_ridge(groups, targets, protocol, bands, device)
    total = reduce(add, groups)
    maps = [torch.from_numpy(make_target_map(name, output_size(total.kernel, total.padding)).copy()) for name in protocol.erase]
    with limit_to_one_thread():
        eraser = fit_eraser(total, maps)
        erased = [eraser.erase_moments(moments) for moments in groups]
    heads = []
    for head in solve_ridge(erased, targets, protocol, bands, device):
        weight, bias = eraser.compose(head.weight.flatten(), head.bias)
        heads.append(RidgeHead(weight.reshape(head.weight.shape), bias, head.facts | {"erased": eraser.rank}))
    return heads


def _add_moments(total: list[Moments], moments: list[Moments]) -> list[Moments]:
    """Return the sums of each moment group over two spans together; an empty `total` adds nothing."""
    return list(map(add, total, moments)) if total else moments


def _assign(group: HeadGroup, targets: Targets, solved: Sequence[RidgeHead]) -> FittedHeads:
    """Give each cell of a group the head of its target."""
    heads = [solved[index] for index in target_indices(group, targets)]
    joined = Heads(torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads]), group.shape[1])
    return FittedHeads(group, joined, tuple(head.facts for head in heads))
