"""Files of a run's scores by ring: RUN/rings/CELL.safetensors, with the scores of each held-out image in each ring.

They are made after a sweep (see `score_rings`) and can be deleted at any time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import StoreError
from posenet_store.files import sha256_pieces
from posenet_store.sweep.results import RunFiles, read_scores, write_scores

NAMES = ("spc", "mae", "pixels", "sha256")


@dataclass(frozen=True)
class RingScores:
    """Of a cell: `spc` and `mae` of each held-out image in each ring, edge to centre, float32 [n, rings].

    `pixels` is the side of the images that the network sees.
    """

    spc: NDArray[np.float32]
    mae: NDArray[np.float32]
    pixels: int

    @property
    def rings(self) -> int:
        """How many rings there are."""
        return int(self.spc.shape[1])


def write_rings(files: RunFiles, cell: str, scores: RingScores) -> None:
    """Write the scores of a cell, with their digest."""
    arrays: dict[str, NDArray[Any]] = {"spc": scores.spc, "mae": scores.mae, "pixels": np.array([scores.pixels], np.int64)}
    (files.root / "rings").mkdir(exist_ok=True)
    write_scores(files.root / "rings" / f"{cell}.safetensors", arrays | {"sha256": _digest(arrays)})


def read_rings(files: RunFiles, cell: str) -> RingScores | None:
    """Return the scores of a cell, None if there are none; raises StoreError if they are damaged."""
    path = files.root / "rings" / f"{cell}.safetensors"
    if not path.is_file():
        return None
    arrays = read_scores(path)
    digest = arrays.pop("sha256", None)
    if {*arrays, "sha256"} != {*NAMES} or digest is None or not np.array_equal(digest, _digest(arrays)):
        raise StoreError(f"{path} was edited or damaged since it was written; remove it and run `rings` once more")
    return RingScores(arrays["spc"], arrays["mae"], int(arrays["pixels"][0]))


def _digest(arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the SHA-256 over shapes and values of arrays, in the order of their names."""
    pieces = [piece for name in sorted(arrays) for piece in (str(arrays[name].shape).encode(), arrays[name].tobytes())]
    return np.frombuffer(bytes.fromhex(sha256_pieces(pieces)), np.uint8)
