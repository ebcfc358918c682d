"""Share large exact passes among workers: spans are summed, heads fitted, ranges of test rows scored, and the cells written.

Each step is a task of its own (`steps` runs it). What one hands on to another lies in files (sums among the kept moments, heads
in the run, scores in the run's parts) or is as small as a head's facts. A worker that is lost costs its step. All is added in
the order of the rows, so that no number depends on who did what.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.specs import StoreSpec
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.reader import open_store
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.results import PassResult
from posenet_store.sweep.spans import Span, cut_into_spans

SHARED_BYTES = 512 << 20
"""Bytes of a pass's training features from which on it is shared: what is smaller is done before its steps are handed out."""
Facts = dict[str, dict[str, float]]
"""What the fit of each cell says of itself, by the cell's id."""


@dataclass(frozen=True)
class WholePass:
    """All steps of a pass at once."""

    task: Pass


@dataclass(frozen=True)
class SumSpan:
    """Sum the moments of a twentieth of the rows, and keep them."""

    task: Pass
    span: Span


@dataclass(frozen=True)
class FitHeads:
    """Fit the heads from the sums, and save them."""

    task: Pass


@dataclass(frozen=True)
class ScoreRange:
    """Score the saved heads on one of the ranges of test rows."""

    task: Pass
    number: int


@dataclass(frozen=True)
class WriteCells:
    """Join the scores of all ranges and write the cells, each of which has taken so many `seconds`."""

    task: Pass
    facts: Facts
    seconds: float


Step = WholePass | SumSpan | FitHeads | ScoreRange | WriteCells


@dataclass(frozen=True)
class StepResult:
    """A finished step: what was read when, and of a fit the facts of its heads and the number of ranges to score."""

    ended: PassResult
    facts: Facts = field(default_factory=dict)
    ranges: int = 0


def starts_workers(scheduler: str, workers: int | None) -> bool:
    """Return whether a sweep starts workers, or finds them, before it does anything itself."""
    return scheduler != "inline" and (scheduler != "auto" or bool(workers))


def list_spans(task: Pass, spec: StoreSpec) -> list[Span]:
    """Return the twentieths of a store's rows whose sums workers share, none if the pass is done by one of them."""
    exact = task.trains and isinstance(task.protocol, RidgeProtocol)
    if not exact or task.train_rows * count_row_bytes(spec, parse_input(task.input, spec).arrays) < SHARED_BYTES:
        return []
    return [span for span in cut_into_spans(spec.rows) if span[0] < task.train_rows]


class PassSteps:
    """The steps of a pass that are left. If its sums are not kept, they lie in the folder `parts` while it runs."""

    def __init__(self, task: Pass, shares: bool, parts: Path) -> None:
        try:
            spans = list_spans(task, open_store(task.train).spec) if shares else []
        except PosenetStoreError:  # the pass will say so
            spans = []
        self._task = replace(task, moments=task.moments or parts) if spans else task
        self.first: Sequence[Step] = [SumSpan(self._task, span) for span in spans] or [WholePass(task)]
        self._running, self._facts, self._ended = len(self.first), Facts(), list[PassResult]()
        self._outcome: PassResult | PosenetStoreError | None = None
        self._returned = False

    def follow(self, step: Step, result: StepResult | PosenetStoreError) -> Sequence[Step]:
        """Return the steps that can start now that one has ended."""
        self._running -= 1
        if isinstance(result, PosenetStoreError):
            self._outcome = self._outcome or result
            return ()
        self._ended.append(result.ended)
        if self._outcome or self._running:
            return ()
        following = self._list_following(step, result)
        self._running = len(following)
        if not following:
            self._outcome = self._join()
        return following

    def _list_following(self, step: Step, result: StepResult) -> Sequence[Step]:
        if isinstance(step, SumSpan):
            return [FitHeads(self._task)]
        if isinstance(step, FitHeads):
            self._facts = result.facts
            return [ScoreRange(self._task, number) for number in range(result.ranges)]
        if isinstance(step, ScoreRange):
            return [WriteCells(self._task, self._facts, self._join().seconds / len(self._task.cells))]
        return []

    def _join(self) -> PassResult:
        """Return the pass's result: what all steps have read, and the time that they took together."""
        cells, read = tuple(cell.id for cell in self._task.cells), sum((ended.read for ended in self._ended), ReadCounter())
        return PassResult(cells, read, min(ended.began for ended in self._ended), sum(ended.seconds for ended in self._ended))

    def take_outcome(self) -> PassResult | PosenetStoreError | None:
        """Return how the pass has ended, once; None if it has not, or that was returned before."""
        if self._returned:
            return None
        self._returned = self._outcome is not None
        return self._outcome
