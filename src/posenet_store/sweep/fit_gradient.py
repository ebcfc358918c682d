"""Strategies of gradient steps: in Gram space where second moments tell all, else by the convolution itself.

All take the same steps on the same batches; the choice shows in time and memory only. Per step of four images on 15
channels, one core (AMD EPYC), milliseconds for 5 and 60 heads: Gram space 0.1 and 0.2 (kernel 3), 0.5 and 1.1 (kernel 5),
1.9 and 4.3 (kernel 7); the convolution 1.6 and 4.5, 2.5 and 8.2, 7.2 and 12. Moments take 0.4, 2.3 and 6.6 ms an image, once:
recomputed in every step they would cost more than the convolution. So whatever fits in memory is trained in Gram space.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posenet_store.files import sha256
from posenet_store.heads.device_moments import DeviceImageMomentAccumulator
from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.moments import ImageMomentAccumulator, ImageMoments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.sizes import count_moment_bytes
from posenet_store.heads.train_convolution import train_by_convolution
from posenet_store.heads.train_gram import STEP_BYTES, train_in_gram_space
from posenet_store.specs import GRID
from posenet_store.sweep.assemble import InputBlock
from posenet_store.sweep.grouping import (
    FittedHeads,
    HeadGroup,
    MomentGroup,
    Targets,
    make_training_group,
    select_channels,
    split_by_memory,
)
from posenet_store.sweep.limits import FitCost, Limits
from posenet_store.sweep.moment_cache import MomentCache, Save
from posenet_store.sweep.spans import Span, TrainingRows, count_rows, iterate_spans
from posenet_store.sweep.stopwatch import Stopwatch, repeat_random_image
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import count_cpus

UNCACHED_BYTES = 64 << 20
"""Of the moments that are timed for a plan: more than the cache of a CPU."""


@dataclass(frozen=True)
class GramSpace:
    """Train linear heads from per-image second moments, which are summed in one scan for as many groups as fit in memory.

    They are kept by spans of rows, so that a sweep on fewer images, or with a larger holdout, reads none.
    """

    groups: tuple[MomentGroup, ...]
    protocol: GradientProtocol
    limits: Limits
    name: str = "gram"

    def cost(self, training: TrainingRows, cache: MomentCache, stopwatch: Stopwatch) -> FitCost:
        """Price the moments of every image that is not in kept ones, and all steps of every group."""
        rows, seconds, rows_read = training.count, 0.0, 0
        runs = split_by_memory(self.groups, rows, self.limits.memory)
        for run in runs:
            lacking = [span for span in training.split() if not all(_is_kept(training, span, group, cache) for group in run)]
            rows_read += count_rows(lacking)
        for group in self.groups:
            lacking = [span for span in training.split() if not _is_kept(training, span, group, cache)]
            seconds += _time_moments(group, count_rows(lacking), stopwatch, self.limits.device)
            for heads in group.members:
                steps = self.protocol.count_epochs(rows) * self.protocol.count_steps(rows)
                stepping = ("Gram steps", heads.width, heads.shape, len(heads.cells), self.protocol)
                seconds += stopwatch.extrapolate(stepping, _prepare_gram_steps(heads), steps)
        memory = 2 * STEP_BYTES + max(sum(_moment_bytes(group, rows) for group in run) for run in runs)
        partial_groups = [heads for group in self.groups for heads in group.members if group.feature_indices(heads) is not None]
        memory += max((count_moment_bytes(rows, heads.width, heads.shape[0]) for heads in partial_groups), default=0)
        return FitCost(rows_read, memory, seconds)

    def list_parts(self, training: TrainingRows) -> list[Span]:
        """Return the parts of twentieths, of all rows of the store, that are summed on their own."""
        return training.split([(0, training.count), (training.count, training.stored)])

    def start_sums(self, training: TrainingRows, span: Span) -> list[tuple[dict[str, Any], "ImageSums"]]:
        """Return each group's moments of no image yet, with the key of those of a span."""
        return [
            (_make_key(training, span, group), ImageSums(group, span[1] - span[0], self.limits.device)) for group in self.groups
        ]

    def cost_sums(self, training: TrainingRows, stopwatch: Stopwatch) -> FitCost:
        """Price the moments of all rows of the store, a span at a time."""
        seconds = sum(_time_moments(group, training.stored, stopwatch, self.limits.device) for group in self.groups)
        longest = max(stop - start for start, stop in self.list_parts(training))
        return FitCost(0, 2 * sum(_moment_bytes(group, longest) for group in self.groups), seconds)

    def list_lacking(self, training: TrainingRows, cache: MomentCache) -> list[Span]:
        """Return the spans of the rows of which some moments are not kept."""
        return [span for span in training.split() if not all(_is_kept(training, span, group, cache) for group in self.groups)]

    def sum_twentieth(self, inputs: TrainingInputs, cache: MomentCache, twentieth: Span) -> None:
        """Sum and keep what is not kept of the rows of a twentieth."""
        if inputs.count_images(twentieth):
            targets = [group.targets() for group in self.groups]
            _sum_moments(inputs, [twentieth], self.groups, targets, cache, cache.save, self.limits.device)

    def fit(self, inputs: TrainingInputs, cache: MomentCache) -> list[FittedHeads]:
        """Sum moments, then take all steps without reading again."""
        fitted = []
        batches = partial(inputs.batch_positions, self.protocol)
        for run in split_by_memory(self.groups, inputs.rows, self.limits.memory):
            targets = [group.targets() for group in run]
            with cache.save_in_background() as save:  # the disk is written to while heads are trained
                moments = _sum_moments(inputs, inputs.training.split(), run, targets, cache, save, self.limits.device)
                for group, group_targets, group_moments in zip(run, targets, moments, strict=True):
                    for heads in group.members:
                        selected = group_moments.select(group.feature_indices(heads))
                        standard = inputs.standard and inputs.standard.select(heads.channels)
                        training = make_training_group(heads, group_targets)
                        fitted.append(_mark(heads, train_in_gram_space(selected, batches, heads.width, training, standard)))
        return fitted


@dataclass(frozen=True)
class Convolution:
    """Train heads by the convolution itself, all on the same batches: from memory, or from the store in every epoch."""

    groups: tuple[HeadGroup, ...]
    protocol: GradientProtocol
    channels: int
    in_memory: bool

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return f"convolution, {'in memory' if self.in_memory else 'streamed'}"

    def cost(self, training: TrainingRows, cache: MomentCache, stopwatch: Stopwatch) -> FitCost:
        """Price the steps of all groups."""
        rows = training.count
        epochs = self.protocol.count_epochs(rows)
        shapes = tuple((heads.width, heads.shape, len(heads.cells), heads.gradient_protocol) for heads in self.groups)
        steps = epochs * self.protocol.count_steps(rows)
        seconds = stopwatch.extrapolate(("convolution", self.channels, shapes), self._step_on_random_images, steps)
        number_bytes = 8 if self.protocol.standardise else 4
        memory = 2 * rows * self.channels * GRID**2 * number_bytes if self.in_memory else 0
        return FitCost(rows * (1 if self.in_memory else epochs), memory, seconds)

    def _step_on_random_images(self, steps: int) -> None:
        batches = [repeat_random_image(self.protocol.batch_size, self.channels)] * steps
        self._train(lambda epoch: batches, 1, None)

    def _train(self, batches: Callable[[int], Iterable[Tensor]], epochs: int, standard: Standardisation | None) -> list[Heads]:
        training = [make_training_group(heads, heads.alone().targets()) for heads in self.groups]
        channels = [heads.channels for heads in self.groups]
        return train_by_convolution(batches, epochs, self.channels, training, channels, standard)

    def fit(self, inputs: TrainingInputs, cache: MomentCache) -> list[FittedHeads]:
        """Train all groups in one stream."""
        loaded = torch.cat(list(inputs.blocks())) if self.in_memory else None

        def batches(epoch: int) -> Iterator[Tensor]:
            if loaded is not None:
                return (loaded[torch.from_numpy(batch)] for batch in inputs.batch_positions(self.protocol, epoch))
            return inputs.read_batches(self.protocol, epoch)

        trained = self._train(batches, self.protocol.count_epochs(inputs.images), inputs.standard)
        return [_mark(group, heads) for group, heads in zip(self.groups, trained, strict=True)]


def start_image_sums(images: int, group: MomentGroup, targets: Tensor, device: str | None) -> ImageMomentAccumulator:
    """Return the moments of no image yet, of `images` for target maps [T, h, w], made on the CPU unless there is a `device`."""
    if device is None:
        return ImageMomentAccumulator(images, *group.shape, targets)
    return DeviceImageMomentAccumulator(torch.device(device), images, *group.shape, targets)


class ImageSums:
    """The moments of each of at most `images` images of a moment group, of blocks as they lie in the store."""

    def __init__(self, group: MomentGroup, images: int, device: str | None) -> None:
        self._group, self._added = group, 0
        self._sums = start_image_sums(images, group, torch.stack(list(group.targets().values())), device)

    def add(self, block: InputBlock) -> None:
        """Add the images of a block."""
        self._sums.add(select_channels(block.grid, self._group.channels))
        self._added += len(block)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what is kept of the moments."""
        return _name_tensors(self._group, self._sums.last(self._added)) if self._added else {}


def _moment_bytes(group: MomentGroup, rows: int) -> int:
    return count_moment_bytes(rows, group.width, group.shape[0]) + rows * len(group.target_cells()) * group.unknowns * 8


def _time_moments(group: MomentGroup, images: int, stopwatch: Stopwatch, device: str | None) -> float:
    """Return the seconds that the moments of so many images take."""
    targets = torch.stack(list(group.targets().values()))
    summing = ("image moments", device, group.width, group.shape, len(targets))
    return stopwatch.extrapolate(summing, partial(_sum_random_images, group, targets, device), -(-images // count_cpus()))


def _sum_random_images(group: MomentGroup, targets: Tensor, device: str | None, images_of_each_thread: int) -> None:
    images = images_of_each_thread * count_cpus()
    start_image_sums(images, group, targets, device).add(repeat_random_image(images, group.width))


def _prepare_gram_steps(heads: HeadGroup) -> Callable[[int], None]:
    """Return a function that takes steps on moments of more images than a CPU's cache holds, as real ones are."""
    batch, targets = heads.gradient_protocol.batch_size, heads.alone().targets()
    images = max(batch, UNCACHED_BYTES // count_moment_bytes(1, heads.width, heads.shape[0]))
    training = make_training_group(heads, targets)

    @cache
    def make_moments() -> ImageMoments:
        """Make them in the first call, which no one times: new memory takes as long as a hundred steps."""
        second = torch.ones(images, heads.unknowns * (heads.unknowns + 1) // 2, dtype=torch.float64)
        return ImageMoments(second, second.new_zeros(images, len(targets), heads.unknowns), 1)

    def step(steps: int) -> None:
        order = [np.arange(first, first + batch) % images for first in range(0, steps * batch, batch)]
        train_in_gram_space(make_moments(), lambda epoch: order if epoch == 0 else [], heads.width, training)

    return step


def _sum_moments(
    inputs: TrainingInputs,
    spans: Sequence[Span],
    groups: Sequence[MomentGroup],
    targets: Sequence[Targets],
    cache: MomentCache,
    save: Save,
    device: str | None,
) -> list[ImageMoments]:
    """Return each group's moments of every image of spans: from the cache, or summed in one scan and saved span by span."""
    training = inputs.training
    maps = [torch.stack(list(group_targets.values())) for group_targets in targets]
    spans, images = [span for span in spans if inputs.count_images(span)], sum(map(inputs.count_images, spans))
    sums = [start_image_sums(images, g, m, device) for g, m in zip(groups, maps, strict=True)]
    lacking = [span for span in spans if not all(_is_kept(training, span, group, cache) for group in groups)]
    for span, blocks in iterate_spans(inputs, spans, lacking, inputs.blocks):
        missing: list[tuple[MomentGroup, ImageMomentAccumulator, dict[str, Tensor]]] = []
        for group, accumulator in zip(groups, sums, strict=True):
            tensors = cache.load(_make_key(training, span, group)) or {}
            names = _name_crosses(group)
            if {"second", *names} <= tensors.keys():
                accumulator.append(tensors["second"], torch.stack([tensors[name] for name in names], dim=1))
            else:
                missing.append((group, accumulator, {name: tensor for name, tensor in tensors.items() if name != "second"}))
        for block in blocks if missing else ():
            for group, accumulator, _ in missing:
                accumulator.add(select_channels(block, group.channels))
        for group, accumulator, others in missing:
            tensors = _name_tensors(group, accumulator.last(inputs.count_images(span)))
            save(_make_key(training, span, group), others | tensors)
    return [accumulator.moments() for accumulator in sums]


def _make_key(training: TrainingRows, span: Span, group: MomentGroup) -> dict[str, Any]:
    return training.cache_key("images", span, group.cache_key(training.source))


def _name_tensors(group: MomentGroup, moments: ImageMoments) -> dict[str, Tensor]:
    """Return the tensors that are saved of a group's moments."""
    crosses = zip(_name_crosses(group), moments.cross.unbind(1), strict=True)
    return {name: cross.contiguous() for name, cross in crosses} | {"second": moments.second}


def _name_crosses(group: MomentGroup) -> list[str]:
    """Return the name of each target's sums among the saved tensors, in the order of the group's targets."""
    return [f"cross-{_digest(target)[:16]}" for target in group.targets().values()]


def _is_kept(training: TrainingRows, span: Span, group: MomentGroup, cache: MomentCache) -> bool:
    return cache.holds(_make_key(training, span, group), ["second", *_name_crosses(group)])


def _digest(target: Tensor) -> str:
    return sha256(target.numpy().tobytes())


def _mark(group: HeadGroup, heads: Heads) -> FittedHeads:
    """Mark the heads that diverged; their neighbours are as they would be without them."""
    finite = [all(bool(tensor.isfinite().all()) for tensor in heads.get_tensors(n).values()) for n in range(len(heads.weight))]
    return FittedHeads(group, heads, tuple({} if sound else {"diverged": 1.0} for sound in finite))
