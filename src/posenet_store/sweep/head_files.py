"""Open the files of heads, of a sweep or of another program, to score them on a store of the network that they read."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy import float64
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.heads.file import load_head
from posenet_store.heads.model import Heads
from posenet_store.heads.own_maps import MAPS, load_maps
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID, StoreSpec, name_folder
from posenet_store.state_dicts import is_finite, read_state_dict
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import Cell, make_cell_target, output_size, parse_cell
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import RunFiles, read_result


@dataclass(frozen=True)
class OpenedHead:
    """A head with all that scoring it needs: what it predicts (the map `goal` [h, w] of a target, its range) and reads.

    `source` is its input in the store of `reader`; `mirrored` is the store of the mirrored images, if these are wanted.
    """

    heads: Heads
    target: str
    goal: NDArray[float64]
    value_range: tuple[float, float]
    source: Input
    reader: Reader
    mirrored: Reader | None = None


@dataclass(frozen=True)
class ExternalHead:
    """The file of a head that another program trained, one `torch.nn.Conv2d`, and what it does not contain.

    That is its target, what it reads, and its padding.
    """

    path: Path
    target: str
    input: str = "aligned"
    padding: int = 0
    value_range: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False

    def check_network(self, spec: StoreSpec) -> None:
        """Raise UsageError if the file is no convolution; of which network it reads features is not recorded."""
        load_external_head(self.path, self.padding)

    def open(self, reader: Reader, mirrored: Reader | None = None) -> OpenedHead:
        """Open it on a store.

        Raises UsageError if the file holds something else, or the convolution does not fit the store's features.
        """
        heads, source = load_external_head(self.path, self.padding), parse_input(self.input, reader.spec)
        channels, kernel = heads.weight.shape[1:3]
        if channels != source.channels:
            raise UsageError(
                f"{self.path.name} reads {channels} channels; {self.input!r} of {reader.name} has {source.channels}: "
                "give the network (--backbone, --taps) and the input (--input) that it was trained on"
            )
        goal = make_target_map(self.target, output_size(kernel, self.padding), self.value_range, self.normalise)
        return OpenedHead(heads, self.target, goal, self.value_range, source, reader, mirrored)


@dataclass(frozen=True)
class CellHead:
    """A head as a sweep wrote it: its cell, the labels of the store that trained it, and its network.

    `network_spec` says how to load the network again; None if that is not known.
    """

    path: Path
    heads: Heads
    cell: Cell
    labels: Labels
    network_key: str
    network_spec: dict[str, Any] | None

    @property
    def input(self) -> str:
        """What it reads."""
        return self.cell.input

    @property
    def trained_on(self) -> str:
        """The folder name of the store that trained it."""
        return name_folder(self.labels.backbone, self.labels.images, self.cell.store)

    def check_network(self, spec: StoreSpec) -> None:
        """Raise UsageError if a store is of another network."""
        if self.network_key != spec.network_key:
            raise UsageError(
                f"{self.path.name} reads features of {self.labels.network}; {spec.folder} holds those of "
                f"{spec.network} (backbone, weights, taps, padding and preprocessing must be the same)"
            )

    def open(self, reader: Reader, mirrored: Reader | None = None) -> OpenedHead:
        """Open it on a store; raises UsageError if that is of another network."""
        self.check_network(reader.spec)
        goal, source = make_cell_target(self.cell), parse_input(self.cell.input, reader.spec)
        _check_fit(self.path, self.heads, source, goal)
        return OpenedHead(self.heads, self.cell.target, goal, self.cell.value_range, source, reader, mirrored)


def load_cell_head(path: Path) -> CellHead:
    """Load a head that a sweep wrote (see `load_head`); raises StoreError if it lies in a run that has it otherwise.

    Raises UsageError if its training diverged.

    A head that was copied from its run has nothing to be compared with.
    """
    files = RunFiles(path.absolute().parent.parent)
    load_maps(files.root / MAPS)
    if files.head(path.stem) == path.absolute() and files.record(path.stem).is_file():
        read_result(files, path.stem)
    heads, metadata = load_head(path)
    if not all(map(is_finite, heads.get_tensors(0).values())):
        raise UsageError(f"{path} holds NaN or infinite numbers: its training diverged, and it predicts nothing")
    labels = Labels(**{field.name: metadata[field.name] for field in fields(Labels)})
    cell = parse_cell(metadata["cell"], path.name)
    return CellHead(path, heads, cell, labels, metadata["network_key"], metadata.get("network_spec"))


def _check_fit(path: Path, heads: Heads, source: Input, goal: NDArray[float64]) -> None:
    """Raise UsageError if a head reads another number of channels than its input has, or predicts a map of another size."""
    weights = [*(weight for weight, _ in heads.hidden), heads.weight]
    side = GRID
    for weight in weights:
        side = max(side + 2 * heads.padding - weight.shape[-1] + 1, 0)
    if weights[0].shape[-3] != source.channels or not side or (heads.size or side) != len(goal):
        raise UsageError(
            f"{path.name} reads {weights[0].shape[-3]} channels and predicts maps of side {heads.size or side}; its cell says "
            f"{source.channels} channels and side {len(goal)}: it is damaged, or not a head that a sweep wrote"
        )


def load_external_head(path: Path, padding: int) -> Heads:
    """Load one convolution [1, C, k, k], with or without a bias, from a state dict, whatever its names."""
    state = read_state_dict(path)
    weights = [
        value for value in state.values() if value.dim() == 4 and value.shape[0] == 1 and value.shape[2] == value.shape[3]
    ]
    biases = [value for value in state.values() if value.shape == (1,)]
    if len(weights) != 1 or len(biases) > 1 or len(state) != len(weights) + len(biases):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in list(state.items())[:4])
        raise UsageError(f"{path} is no single convolution with one output ([1, C, k, k] and a bias [1]): it holds {shapes}")
    if not all(value.is_floating_point() for value in state.values()):
        raise UsageError(f"{path} holds whole numbers; save the convolution as it was trained, in floating point")
    bias = biases[0].to(torch.float64) if biases else torch.zeros(1, dtype=torch.float64)
    return Heads(weights[0].to(torch.float64), bias, padding)
