"""Does the backbone still give the features that a store holds? A probe image, run when a store is planned and again later.

Weights and preprocessing are part of a store's fingerprint; what the libraries make of them is not. A store's provenance
therefore keeps what one synthetic image gave: mean, root mean square, and sixteen values of each tap.
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

VALUES = 16
TOLERANCE = 1e-2
"""Of the root mean square: another processor or TF32 stays below, another resize filter or a wrong weight does not."""

Sample = dict[str, dict[str, Any]]
_samples: "WeakKeyDictionary[Backbone, Sample]" = WeakKeyDictionary()


def sample_taps(backbone: Backbone) -> Sample:
    """Run the probe image (seeded noise, 200x150, decoded and resized like any other) and describe each tap.

    A backbone is run once in a process: planning several stores costs one pass. Raises BuildError if a tap is not finite.
    """
    if backbone not in _samples:
        _samples[backbone] = _sampled(backbone)
    return _samples[backbone]


def _sampled(backbone: Backbone) -> Sample:
    file = io.BytesIO()
    Image.fromarray(make_probe("noise")[:200, :150]).save(file, "PNG")
    pixels = decode(file.getvalue(), backbone.preprocess.size)
    return {name: _described(name, tap) for name, tap in backbone.features(torch.from_numpy(pixels[None].copy())).items()}


def _described(name: str, tap: torch.Tensor) -> dict[str, Any]:
    values = tap.double().flatten().cpu().numpy()
    if not np.isfinite(values).all():
        raise BuildError(f"tap {name} holds NaN or infinite features of a probe image; are the weights intact?")
    places = np.linspace(0, len(values) - 1, VALUES).astype(int)
    return {
        "mean": float(values.mean()),
        "rms": float(np.sqrt(np.square(values).mean())),
        "values": values[places].tolist(),
    }


def compare_samples(recorded: Sample, now: Sample) -> dict[str, float]:
    """Return the largest difference of each tap, relative to its recorded root mean square.

    >>> was, now = ({"f1": {"mean": m, "rms": 2.0, "values": [0.0, 4.0]}} for m in (1.0, 1.5))
    >>> compare_samples(was, now)
    {'f1': 0.25}
    """
    return {name: _difference(was, now[name]) for name, was in recorded.items()}


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    flat = [np.array([one["mean"], one["rms"], *one["values"]]) for one in (was, now)]
    scale = was["rms"] or 1.0
    return float(np.abs(flat[0] - flat[1]).max() / scale)


def describe_drift(differences: Mapping[str, float]) -> str:
    """Name the taps beyond the tolerance, or nothing.

    >>> describe_drift({"f1": 0.25, "f2": 0.0}), describe_drift({"f2": 0.0})
    ('f1 by 25.0 %', '')
    """
    return ", ".join(f"{name} by {value:.1%}".replace("%", " %") for name, value in differences.items() if value > TOLERANCE)
