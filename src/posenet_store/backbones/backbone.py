"""Backbone: a frozen network with weights, preprocessing and named taps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock

import torch
from torch import Tensor, nn

from posenet_store.backbones.inference import is_compiled, set_precision
from posenet_store.backbones.maps import CHANNELS_FIRST, MapFormat, convert_to_map, take_prefix
from posenet_store.specs import LEARNED, TOKENS_SUFFIX, TRAINED, ZEROS, Preprocess, Tap
from posenet_store.threads import one_thread_at_a_time

one_network_at_a_time = one_thread_at_a_time(RLock())
"""For all that prepares or runs a network: its hooks, torch's tracing and torch's seed belong to all threads of a process.

A Dask worker of several threads, for one, may run two parts of builds that share a network.
"""


class _LastTap(Exception):
    """Raised by the last tap's hook, so that nothing behind it is computed."""


@dataclass(frozen=True, repr=False)
class Backbone:
    """A frozen network in evaluation mode on one device; `taps` are in the order of the forward pass.

    `weights_source` is what `load_backbone` was given, a file with its absolute path; empty for a network of one's own.
    `licence` is that of trained weights, empty if it is not known.
    """

    name: str
    weights: str
    weights_sha256: str
    tap_set: str
    taps: tuple[Tap, ...]
    preprocess: Preprocess
    module: nn.Module
    device: torch.device
    compute: str = "float32"
    padding: str = ZEROS
    weights_kind: str = TRAINED
    weights_source: str = ""
    licence: str = ""
    positions: str = LEARNED
    erase: str = ""
    form: MapFormat = CHANNELS_FIRST

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {list(tap.shape)}" for tap in self.taps)
        return f"<Backbone {self.name}, weights {self.weights or 'none'}, on {self.device}: {taps}>"

    def inputs(self, images: Tensor) -> Tensor:
        """Preprocess uint8 [B, S, S, 3] into float32 [B, 3, S, S] on the backbone's device."""
        return preprocess(images.to(self.device, non_blocking=True), self.preprocess)

    @one_network_at_a_time
    @torch.inference_mode()
    def features(self, images: Tensor, tokens: bool = False) -> dict[str, Tensor]:
        """Return {tap name: float32 [B, C, H, W]} of uint8 images [B, S, S, 3], from one forward pass.

        With `tokens` also what is set aside of each tap: {"f1_tokens": float32 [B, N, C]}, N is 0 where that is nothing.
        """
        with set_precision(self.compute, self.device):
            if is_compiled(self.compute):
                # torch would compile another network for a single image: it runs twice
                outputs: dict[str, Tensor] = self.module(self.inputs(images if len(images) > 1 else images.repeat(2, 1, 1, 1)))
            else:
                outputs = run_taps(self.module, [(tap.name, tap.module) for tap in self.taps], self.inputs(images))
        maps = {tap.name: convert_to_map(outputs[tap.name], self.form) for tap in self.taps}
        if tokens:
            maps |= {tap.name + TOKENS_SUFFIX: take_prefix(outputs[tap.name], self.form) for tap in self.taps}
        return {name: value[: len(images)].float() for name, value in maps.items()}

    @one_network_at_a_time
    @torch.inference_mode()
    def classify(self, images: Tensor) -> Tensor:
        """Return the class int64 [B] of uint8 images [B, S, S, 3]; the module must have its classifier (`load_classifier`)."""
        with set_precision(self.compute, self.device):
            logits: Tensor = self.module(self.inputs(images))
        return logits.argmax(dim=1)


@lru_cache
def _make_constants(spec: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation, float32 [1, 3, 1, 1]; cached, since a copy to the GPU waits for running kernels."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return mean, std


def preprocess(images: Tensor, spec: Preprocess) -> Tensor:
    """Turn uint8 [B, S, S, 3] RGB into float32 [B, 3, S, S]: reorder, scale, subtract the mean, divide by std.

    >>> preprocess(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), Preprocess(1, 1 / 255, (0.5,) * 3, (0.5,) * 3))[0, :, 0, 0]
    tensor([1., 1., 1.])
    """
    channels = images.permute(0, 3, 1, 2)
    if spec.order == "BGR":
        channels = channels.flip(1)
    mean, std = _make_constants(spec, images.device)
    return (channels.to(torch.float32) * spec.scale - mean) / std


def run_taps(module: nn.Module, taps: Sequence[tuple[str, str]], inputs: Tensor) -> dict[str, Tensor]:
    """Run `module` once, up to the last tap, and return the output of each tap (name, module path)."""
    outputs: dict[str, Tensor] = {}
    last = taps[-1][0]

    def make_hook(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output
            if name == last:
                raise _LastTap

        return hook

    handles = [module.get_submodule(path).register_forward_hook(make_hook(name)) for name, path in taps]  # type: ignore[arg-type]
    try:
        module(inputs)
    except _LastTap:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return outputs
