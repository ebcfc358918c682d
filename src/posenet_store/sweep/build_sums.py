"""Sum moments while a store is built and its features are at hand, so that the first sweep reads none to train.

Of each twentieth of the rows is summed what a sweep would sum of it, in the same order and to the same bits. The sums are kept
under the id of the store, which is not known before it is sealed: until then they lie in a temporary folder beside the kept
ones. What was not built by one process from the first row of a twentieth to its last is summed by reading it afterwards.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.files import expand_user
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.store.catalogue import StoreInfo
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.assemble import InputBlock
from posenet_store.sweep.fit_gradient import GramSpace
from posenet_store.sweep.fit_ridge import NormalEquations
from posenet_store.sweep.grouping import group_cells
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.limits import FitCost
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass, plan_sweep
from posenet_store.sweep.spans import Span, TrainingRows
from posenet_store.sweep.spec import load_sweep
from posenet_store.sweep.stopwatch import Stopwatch
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.temporaries import name_temporary, remove_abandoned

EXPERIMENTS = ("table2", "stages")
"""Those whose sums are made: the report's heads on three channels a tap, and exact heads on all channels (kernel 1)."""
Key = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]
Advance = Callable[[int, int], None]
"""Is told how many twentieths are read of how many that are lacking."""


class SpanSums(Protocol):
    """The sums of a moment group over a span."""

    def add(self, block: InputBlock) -> None:
        """Add the images of a block."""
        ...

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what is kept of the sums, nothing of no image."""
        ...


@dataclass
class _Question:
    """A strategy that needs sums of the images of a store, and the sums of the spans that have begun, each up to a row."""

    strategy: NormalEquations | GramSpace
    training: TrainingRows
    begun: dict[Span, tuple[int, Sequence[tuple[Key, SpanSums]]]] = field(default_factory=dict)

    def add(self, start: int, arrays: Arrays, readable: NDArray[np.bool_]) -> Iterator[tuple[Span, Key, SpanSums]]:
        """Add the rows of a block from `start` on; yield the sums of each span that ends among them."""
        for span in self.strategy.list_parts(self.training):
            first, last = max(span[0], start), min(span[1], start + len(readable))
            if first >= last:
                continue
            if first == span[0]:
                self.begun[span] = first, self.strategy.start_sums(self.training, span)
            reached, sums = self.begun.pop(span, (-1, ()))
            if reached != first:  # the rows between were not seen
                continue
            rows = slice(first - start, last - start)
            if readable[rows].any():
                values = {name: arrays[name][rows][readable[rows]] for name in self.training.source.arrays}
                block = InputBlock(self.training.source, values)
                for _, of_group in sums:
                    of_group.add(block)
            if last < span[1]:
                self.begun[span] = last, sums
            else:
                yield from ((span, key, of_group) for key, of_group in sums)

    def complete(self, reader: Reader, cache: MomentCache, advance: Advance) -> None:
        """Sum what is not kept: of the rows that train first, then of all."""
        for training in (self.training, replace(self.training, count=self.training.stored)):
            inputs = TrainingInputs(reader, training.source, training.count)
            lacking = self.strategy.list_lacking(training, cache)
            for number, span in enumerate(lacking):
                self.strategy.sum_twentieth(inputs, cache, span)
                advance(number + 1, len(lacking))


class BuildSums:
    """The sums of a store that is being built: `add` gets its blocks, `finish` keeps the sums when it is sealed."""

    def __init__(self, info: StoreInfo, root: Path) -> None:
        passes = _list_passes(info, root)
        self._questions = [question for task in passes for question in _list_questions(task, info)]
        self._folder = expand_user(root) / "moments" / info.path.name
        self._temporary = name_temporary(self._folder / "sums")
        self._added: Counter[int] = Counter()
        self._summed: list[tuple[Span, Key]] = []

    def __enter__(self) -> Self:
        """Remove what killed builds left."""
        remove_abandoned(self._folder.glob(".*.tmp"))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def asks(self) -> bool:
        """Whether anything is to be summed: a few images train no heads."""
        return bool(self._questions)

    def estimate_cost(self) -> FitCost:
        """Return the seconds and the memory that the sums of all rows take, in bytes."""
        stopwatch = Stopwatch()
        costs = [question.strategy.cost_sums(question.training, stopwatch) for question in self._questions]
        return FitCost(0, sum(cost.memory for cost in costs), sum(cost.seconds for cost in costs))

    def add(self, start: int, arrays: Arrays, readable: NDArray[np.bool_]) -> None:
        """Add a block: its rows from `start` on, of which the `readable` ones hold an image; blocks come in ascending order."""
        self._added[start] += 1
        for question in self._questions:
            for span, key, sums in question.add(start, arrays, readable):
                if tensors := sums.to_tensors():
                    MomentCache(self._temporary, "").save(key, tensors)
                    self._summed.append((span, key))

    def finish(self, store: Path, written: Collection[int], advance: Advance) -> None:
        """Keep the sums of the sealed store of which the blocks `written` are stored as they were added; sum what is lacking.

        Raises StoreError if the store is damaged.
        """
        reader = open_store(store)
        cache, temporary = MomentCache(self._folder, reader.manifest["store_id"]), MomentCache(self._temporary, "")
        added = {reader.bounds[block] for block in written if self._added[reader.bounds[block][0]] == 1}
        others = [bounds for bounds in reader.bounds if bounds not in added]
        for span, key in self._summed:
            tensors = temporary.load(key)
            if tensors and not any(start < span[1] and span[0] < stop for start, stop in others):
                cache.save(key, tensors)
        for question in self._questions:
            question.complete(reader, cache, advance)


def _list_passes(info: StoreInfo, root: Path) -> list[Pass]:
    """Return the passes of the experiments on a store as it will be."""
    passes: list[Pass] = []
    for name in EXPERIMENTS:
        with suppress(UsageError):  # the store holds too few images to train on, or not all channels
            passes += plan_sweep(replace(load_sweep(name), tests=()), [info], root).passes
    return passes


def _list_questions(task: Pass, info: StoreInfo) -> Iterator[_Question]:
    """Yield the strategies of a pass that need sums; those of standardised inputs depend on all rows."""
    if isinstance(task.protocol, GradientProtocol) and task.protocol.standardise:
        return
    source = parse_input(task.input, info.spec)
    groups = group_cells(task.cells, source, info.spec)
    for strategy in choose(groups, task.protocol, source.channels, task.train_rows, task.limits):
        if isinstance(strategy, NormalEquations | GramSpace):
            yield _Question(strategy, TrainingRows(source, task.train_rows, info.spec.rows))
