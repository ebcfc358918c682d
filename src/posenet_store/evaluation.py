"""Scoring one head, trained by a sweep or elsewhere, on any store of the network that it reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy import float64
from numpy.typing import NDArray

from posenet_store.cells import output_size, target_of
from posenet_store.errors import UsageError
from posenet_store.heads import Heads, load_head
from posenet_store.inputs import Input, parse_input
from posenet_store.reader import Reader
from posenet_store.scoring import Scorable, columns_of, score_heads
from posenet_store.states import read_state
from posenet_store.targets import target_map


@dataclass(frozen=True)
class Question:
    """What a head from elsewhere does not say itself: its target, what it reads, and its padding."""

    target: str
    input: str = "aligned"
    padding: int = 0
    value_range: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False


def evaluate_head(path: Path, reader: Reader) -> list[dict[str, Any]]:
    """Return a row a test column: target, test, SPC, MAE, counts; raises UsageError if the store is of another network."""
    heads, made = load_head(path)
    if made["network_key"] != reader.spec.network_key:
        raise UsageError(
            f"{path.name} reads features of {made['network']}; {reader.name} holds those of "
            f"{reader.spec.network} (backbone, weights, taps, padding and preprocessing must be the same)"
        )
    cell = made["cell"]
    return _rows(heads, cell["target"], target_of(cell), reader, parse_input(cell["input"], reader.spec))


def evaluate_foreign(path: Path, reader: Reader, question: Question) -> list[dict[str, Any]]:
    """Return the rows of a head that another program trained, saved as the state dict of one `torch.nn.Conv2d`.

    Raises UsageError if the file holds something else, or the convolution does not fit the store's features.
    """
    heads, source = foreign_head(path, question.padding), parse_input(question.input, reader.spec)
    channels, kernel = heads.weight.shape[1:3]
    if channels != source.channels:
        raise UsageError(
            f"{path.name} reads {channels} channels; {question.input!r} of {reader.name} has {source.channels}: "
            "give the network (--backbone, --taps) and the input (--input) that it was trained on"
        )
    size = output_size(kernel, question.padding)
    return _rows(
        heads, question.target, target_map(question.target, size, question.value_range, question.normalise), reader, source
    )


def foreign_head(path: Path, padding: int) -> Heads:
    """Read one convolution [1, C, k, k], with or without a bias, from a state dict, whatever its names."""
    state = read_state(path)
    weights = [
        value for value in state.values() if value.dim() == 4 and value.shape[0] == 1 and value.shape[2] == value.shape[3]
    ]
    biases = [value for value in state.values() if value.shape == (1,)]
    if len(weights) != 1 or len(biases) > 1 or len(state) != len(weights) + len(biases):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in list(state.items())[:4])
        raise UsageError(f"{path} is no single convolution with one output ([1, C, k, k] and a bias [1]): it holds {shapes}")
    bias = biases[0].to(torch.float64) if biases else torch.zeros(1, dtype=torch.float64)
    return Heads(weights[0].to(torch.float64), bias, padding)


def _rows(heads: Heads, name: str, target: NDArray[float64], reader: Reader, source: Input) -> list[dict[str, Any]]:
    rows = []
    for test, blocks in columns_of(reader, source):
        ((scored,),) = score_heads(blocks, [Scorable(heads, [target])])
        rows.append({"target": name, "test": test} | scored.scores.summary())
    return rows
