"""Shares of variance that are position, of the stages of a store, and the files in which a run keeps them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posenet_store.errors import StoreError
from posenet_store.files import make_folder, write_json
from posenet_store.heads.position_variance import Estimates
from posenet_store.store.records import add_digest
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import RESTORE, read_signed

LARGE_SHARE = 0.1
"""The share of position above which a direction is counted."""


@dataclass(frozen=True)
class StageVariance:
    """A stage: its name, size as stored (height, width), and how many of its channels vary (`live`).

    `shares` [6] are the means over live channels in the order of SHARES, `channels` [C, 6] those of each, `directions` [r] the
    shares of position of the best directions (see `position_directions`), and `p` the probability of mean maps that agree as
    well without position.
    """

    name: str
    size: tuple[int, int]
    live: int
    shares: Estimates
    channels: Estimates
    directions: Estimates
    p: float

    def count_directions(self) -> tuple[int, int, int]:
        """Return how many directions have a large share, and how many if all had that of their lower, or upper, bounds."""
        bounds = self.directions.value, self.directions.low, self.directions.high
        value, low, high = (int((bound > LARGE_SHARE).sum()) for bound in bounds)
        return value, low, high


@dataclass(frozen=True, repr=False)
class StoreVariance:
    """The stages of a store, from so many readable `images` in so many `spans`."""

    labels: Labels
    store: str
    images: int
    spans: int
    stages: tuple[StageVariance, ...]

    def __repr__(self) -> str:
        lines = [f"{stage.name}: {stage.shares.value[0]:.3f} of the variance is position" for stage in self.stages]
        return "\n  ".join([f"<StoreVariance {self.store}: {self.images} images>", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; an undefined number is None."""
        return asdict(self) | {"stages": [vars(stage) | _list_estimates(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: object) -> "StoreVariance":
        """Build it from `to_dict`'s values; raises StoreError that names `where` if a field is missing or unknown."""
        try:
            stages = tuple(_parse_stage(stage) for stage in fields["stages"])
            return cls(**{**fields, "stages": stages, "labels": Labels(**fields["labels"])})
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where} is damaged ({error}); delete it, and {RESTORE}") from None


def _list_estimates(stage: StageVariance) -> dict[str, Any]:
    return {
        name: {bound: np.where(np.isnan(array), np.array(None), array).tolist() for bound, array in vars(estimates).items()}
        for name, estimates in vars(stage).items()
        if isinstance(estimates, Estimates)
    }


def _parse_stage(fields: Mapping[str, Any]) -> StageVariance:
    estimates = {
        name: Estimates(**{bound: np.array(numbers, np.float64) for bound, numbers in value.items()})
        for name, value in fields.items()
        if isinstance(value, dict)
    }
    return StageVariance(**{**fields, "size": tuple(fields["size"]), **estimates})


def name_variance_file(run: Path, store: str) -> Path:
    """Return the file in which a run keeps the variance of the store with the fingerprint `store`."""
    return run / "variance" / f"{store}.json"


def write_variance(run: Path, store: str, variance: StoreVariance) -> None:
    """Write the variance of a store into a run."""
    path = name_variance_file(run, store)
    make_folder(path.parent)
    write_json(path, add_digest(variance.to_dict()))


def read_variances(run: Path) -> dict[str, StoreVariance]:
    """Return the variance of each store that a run has, by fingerprint; raises StoreError for a damaged file."""
    paths = sorted(name_variance_file(run, "").parent.glob("*.json"))
    return {path.stem: StoreVariance.from_dict(read_signed(path), path) for path in paths}
