"""A cell: one head to train and score, with everything that decides its numbers."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import SHOWN, UsageError, first_line
from posenet_store.files import canonical_json, sha256
from posenet_store.heads.protocols import PROTOCOLS, GradientProtocol, Protocol, RidgeProtocol
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID
from posenet_store.toml_config import check_value, fill_defaults

HELD_OUT = "held-out"
"""The test column of a training store's own held-out rows."""
PROBES = "probes"
"""The image set of which each image is a test column of its own."""


@cache
def _settings(protocol: Protocol) -> dict[str, Any]:
    """Return a protocol's settings, made once for the many cells that share it."""
    return asdict(protocol)


@dataclass(frozen=True)
class Cell:
    """One head, and nothing of what else tests it: rows [0, train_rows) of the store with the fingerprint `store` train it.

    Those from `held_out` test it.
    """

    store: str
    train_rows: int
    held_out: int
    input: str
    target: str
    value_range: tuple[float, float]
    normalise: bool
    kernel: int
    padding: int
    protocol: Protocol
    seed: int

    @property
    def id(self) -> str:
        """A digest of all fields, 16 hexadecimal digits, by which a rerun finds a finished cell."""
        return sha256(canonical_json(vars(self) | {"protocol": _settings(self.protocol)}))[:16]

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the maps that training needs: what the head predicts, and what is erased from its features."""
        return self.target, *(self.protocol.erase if isinstance(self.protocol, RidgeProtocol) else ())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Cell":
        """Build a cell from `to_dict`'s values, also when they come from JSON; raises KeyError or TypeError for others."""
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields["protocol"].items()
        }
        protocol = type(PROTOCOLS[settings["name"]])(**settings)
        return cls(**(fields | {"value_range": tuple(fields["value_range"]), "protocol": protocol}))


_FIELDS: dict[str, tuple[str, Any]] = {
    "store": ("", ""), "train_rows": ("train_images", 0), "held_out": ("train_images", 0), "input": ("", ""),
    "target": ("", ""), "value_range": ("range", (0.0,)), "normalise": ("", False), "kernel": ("kernels", 0),
    "padding": ("paddings", 0), "seed": ("seeds", 0),
}  # fmt: skip
"""Field of a cell but its protocol -> its range, and a value of its type."""


def parse_cell(fields: Any, where: str) -> Cell:
    """Build a cell from the JSON of one that may come from anywhere; raises UsageError that says which field is wrong."""
    try:
        settings = {key: value for key, value in fields["protocol"].items() if key != "name"}
        protocol = fill_defaults(PROTOCOLS[fields["protocol"]["name"]], settings, f"{where}: protocol", hidden=("name",))
        checked = {name: check_value(fields[name], kind, key, f"{where}: {name}") for name, (key, kind) in _FIELDS.items()}
        cell = Cell(**(fields | checked | {"protocol": protocol}))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} lacks or has a foreign field: {first_line(error)[:SHOWN]}") from None
    if len(cell.value_range) != 2:
        raise UsageError(f"{where}: value_range = {list(cell.value_range)} is not accepted; give [low, high]")
    return cell


def output_size(kernel: int, padding: int, layers: int = 1) -> int:
    """Return the side of the map that a head predicts on the 28x28 grid; raises UsageError if nothing is left.

    >>> output_size(3, 0), output_size(7, 3), output_size(3, 0, layers=3)
    (26, 28, 22)
    """
    size = GRID + layers * (2 * padding - (kernel - 1))
    if kernel < 1 or padding < 0 or size < 2:
        depth = f" in {layers} layers" if layers > 1 else ""
        raise UsageError(
            f"a kernel of {kernel} with padding {padding}{depth} leaves a {size}x{size} map of 28x28; 2x2 is the least"
        )
    return size


def make_cell_target(cell: Cell) -> NDArray[np.float64]:
    """Return the map [h, w] that a cell's head must predict."""
    protocol = cell.protocol
    size, layers = (protocol.size, protocol.layers) if isinstance(protocol, GradientProtocol) else (0, 1)
    return make_target_map(
        cell.target, size or output_size(cell.kernel, cell.padding, layers), cell.value_range, cell.normalise
    )
