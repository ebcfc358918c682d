"""The owner of h5py."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import PosenetStoreError


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return every dataset of a small HDF5 file by its full name; raises PosenetStoreError if it is damaged."""
    arrays: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise PosenetStoreError(f"{path} is not a readable HDF5 file: {error}") from None
    return arrays
