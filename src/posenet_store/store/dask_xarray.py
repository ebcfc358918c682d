"""Make lazy views of a store: dask arrays and an xarray Dataset; every read is checked as in the reader.

The views are float32: dask and xarray add up float16 in float16, whose sums end at 65,504.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.specs import name_axes
from posenet_store.store.batching import Source

if TYPE_CHECKING:
    import dask.array
    import xarray


def _read_block(source: Source, name: str, start: int, stop: int) -> NDArray[Any]:
    return source.read(name, start, stop).astype(np.float32, copy=False)


def make_dask_array(source: Source, name: str) -> "dask.array.Array":
    """Return a float32 array [rows, C, H, W] of a store with one chunk per block; nothing is read until it is computed."""
    import dask.array as da
    from dask.delayed import delayed

    shape = source.spec.arrays[name]
    read = delayed(_read_block, pure=True)
    parts = [
        da.from_delayed(read(source, name, start, stop), (stop - start, *shape), np.dtype(np.float32))
        for start, stop in source.bounds
    ]
    return cast("dask.array.Array", da.concatenate(parts))


def make_dataset(source: Source, ids: tuple[str, ...], readable: NDArray[np.bool_]) -> "xarray.Dataset":
    """Return all arrays as a lazy Dataset with the coordinates `image_id` and `readable`; needs xarray."""
    try:
        import xarray
    except ImportError:
        raise UsageError("xarray is not installed; install it: pip install xarray") from None
    arrays = {
        name: (("image", *(f"{axis}_{name}" for axis in name_axes(name))), make_dask_array(source, name))
        for name in source.spec.arrays
    }
    return xarray.Dataset(
        arrays,
        coords={"image_id": ("image", list(ids)), "readable": ("image", readable)},
        attrs={"fingerprint": source.spec.fingerprint},
    )
