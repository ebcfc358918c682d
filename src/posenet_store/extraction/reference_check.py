"""Check that a backbone still gives the features of a store, by a probe image that is run when the store is planned.

Weights and preprocessing are part of a store's fingerprint; the results of the libraries are not. A store's provenance
therefore has the features of one synthetic image: mean, root mean square and sixteen values of each tap.
"""

import io
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError
from posenet_store.images.decode import decode
from posenet_store.images.synthetic import make_probe
from posenet_store.specs import PRECISIONS, get_precision
from posenet_store.store.feature_statistics import NOT_FINITE

VALUES = 16
TOLERANCE = 1e-2
"""Of the root mean square: another CPU or TF32 stays below it, another resize filter or a wrong weight does not."""
BFLOAT16_TOLERANCE = 8e-2
"""The same in bfloat16, whose 7 bits differ by up to 3.5e-2 after 152 layers where another device sums in another order."""

FLOAT16_STEP = 2.0**-24
SMALLEST_RMS = 100 * FLOAT16_STEP
"""Rounding to steps changes each value by a third of a percent of it (a step / sqrt(12), 1 in 350); normal ones by .05 %."""

Sample = dict[str, dict[str, Any]]
_samples: "WeakKeyDictionary[Backbone, Sample]" = WeakKeyDictionary()


def sample_taps(backbone: Backbone) -> Sample:
    """Run the probe image (seeded noise, 200x150, decoded and resized like any other) and sample each tap.

    Each backbone is run once per process, so planning several stores costs one pass. Raises BuildError if a tap is not
    finite.
    """
    if backbone not in _samples:
        file = io.BytesIO()
        Image.fromarray(make_probe("noise")[:200, :150]).save(file, "PNG")
        pixels = torch.from_numpy(decode(file.getvalue(), backbone.preprocess.resize)[None].copy())
        _samples[backbone] = {name: _sample_tap(name, tap) for name, tap in backbone.features(pixels).items()}
    return _samples[backbone]


def _sample_tap(name: str, tap: torch.Tensor) -> dict[str, Any]:
    values = tap.double().flatten().cpu().numpy()
    if not np.isfinite(values).all():
        raise BuildError(f"tap {name} holds NaN or infinite features of a probe image; {NOT_FINITE}")
    positions = np.linspace(0, len(values) - 1, VALUES).astype(int)
    return {
        "mean": float(values.mean()),
        "rms": float(np.sqrt(np.square(values).mean())),
        "values": values[positions].tolist(),
    }


def check_underflow(sample: Sample, dtype: str) -> None:
    """Raise BuildError if float16 would round a tap to nothing: all of it is close to the smallest steps of float16.

    >>> check_underflow({"f5": {"rms": 1e-3}, "dead": {"rms": 0.0}}, "float16")
    """
    small = {name: tap["rms"] for name, tap in sample.items() if 0 < tap["rms"] < SMALLEST_RMS}
    if dtype == "float16" and small:
        texts = ", ".join(f"{name} ({rms:.1e})" for name, rms in small.items())
        raise BuildError(
            f"float16, whose steps are {FLOAT16_STEP:.0e}, would lose the small features of {texts}, the root mean square on a "
            "probe image; build with --dtype float32"
        )


def compare_samples(recorded: Sample, now: Sample) -> dict[str, float]:
    """Return how much each tap differs, relative to its recorded root mean square.

    The mean, the root mean square and the sixteen values are compared, the values by the root mean square of their differences:
    where another device sums in another order, the largest of them is several times that.

    >>> before, now = ({"f1": {"mean": m, "rms": 2.0, "values": [0.0, 4.0]}} for m in (1.0, 1.5))
    >>> compare_samples(before, now)
    {'f1': 0.25}
    """

    def compare(tap: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        values = np.subtract(tap["values"], other["values"])
        differences = abs(tap["mean"] - other["mean"]), abs(tap["rms"] - other["rms"]), float(np.sqrt(np.square(values).mean()))
        return float(max(differences) / (tap["rms"] or 1.0))

    return {name: compare(tap, now[name]) for name, tap in recorded.items()}


def describe_drift(differences: Mapping[str, float], compute: str = PRECISIONS[0]) -> str:
    """Name the taps that differ by more than the precision of `compute` explains.

    >>> describe_drift({"f1": 0.25, "f2": 0.0}), describe_drift({"f2": 0.02}, "bfloat16")
    ('f1 by 25.0 %', '')
    """
    tolerance = BFLOAT16_TOLERANCE if get_precision(compute) == "bfloat16" else TOLERANCE
    return ", ".join(f"{name} by {value:.1%}".replace("%", " %") for name, value in differences.items() if value > tolerance)
