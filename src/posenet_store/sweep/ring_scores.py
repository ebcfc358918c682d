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

NAMES = ("spc", "mae", "edges", "sha256")


@dataclass(frozen=True)
class RingScores:
    """Of a cell: `spc` and `mae` of each held-out image in each ring, edge to centre, float32 [n, rings].

    `edges` are the distances to the border between which the rings lie, in pixels of the images that the network sees,
    from 0 to the centre, float64 [rings + 1].
    """

    spc: NDArray[np.float32]
    mae: NDArray[np.float32]
    edges: NDArray[np.float64]

    @property
    def pixels(self) -> int:
        """The side of the images that the network sees."""
        return round(2 * float(self.edges[-1]))


def write_rings(files: RunFiles, cell: str, scores: RingScores) -> None:
    """Write the scores of a cell, with their digest."""
    arrays: dict[str, NDArray[Any]] = {"spc": scores.spc, "mae": scores.mae, "edges": scores.edges}
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
    return RingScores(arrays["spc"], arrays["mae"], arrays["edges"])


def _digest(arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the SHA-256 over shapes and values of arrays, in the order of their names."""
    pieces = [piece for name in sorted(arrays) for piece in (str(arrays[name].shape).encode(), arrays[name].tobytes())]
    return np.frombuffer(bytes.fromhex(sha256_pieces(pieces)), np.uint8)
