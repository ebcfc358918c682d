"""Fit what erases targets at several stages of one network: each stage on the network that is erased at those before it.

Once an earlier stage is erased, the features of a later one are others. What erases the targets from those of the plain
network would leave some of them there.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.erasing import ErasedNetwork, Erasers, StageParts, add_eraser
from posenet_store.backbones.inference import is_compiled
from posenet_store.errors import BuildError, UsageError, unknown
from posenet_store.extraction.read_batches import read_batches
from posenet_store.heads.erasure import fit_or_draw_eraser, seed_draw
from posenet_store.heads.moments import Moments
from posenet_store.heads.tap_moments import TapMomentAccumulator
from posenet_store.images.image_set import ImageSet
from posenet_store.resampling import resize_to_grid
from posenet_store.specs import GRID


def fit_erasers_in_turn(
    images: ImageSet,
    backbone: Backbone,
    targets: Sequence[str],
    stages: Sequence[str] = (),
    seed: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Erasers:
    """Return what erases targets at some stages of a network, by default all; it runs over the images once a stage.

    With a `seed` as many random directions are erased at each stage instead: the control. The network is as before in the
    end. `advance` gets how many images are done with. Raises UsageError for a stage or target that does not exist, and for a
    network that is compiled or erased already.
    """
    names = [tap.name for tap in backbone.taps]
    for stage in stages:
        if stage not in names:
            raise unknown(f"stage of {backbone.name}", stage, names)
    if is_compiled(backbone.compute) or backbone.erase:
        raise UsageError("only a network that is neither compiled nor erased already can be erased")
    parts: dict[str, StageParts] = {}
    draw, taps = seed_draw(seed), [tap for tap in backbone.taps if not stages or tap.name in stages]
    with ExitStack() as hooks:
        for tap in taps:
            moments = _sum_features(images, backbone, tap.name, advance)
            parts[tap.name] = vars(fit_or_draw_eraser(moments, targets, draw))
            hooks.callback(add_eraser(backbone, tap.module, parts[tap.name]).remove)
    return Erasers({tap.name: tap.module for tap in taps}, parts, ErasedNetwork.of(backbone), tuple(targets), seed)


def _sum_features(images: ImageSet, backbone: Backbone, stage: str, advance: Callable[[int], object]) -> Moments:
    """Return the moments of a stage's features on the grid; nothing behind the stage is computed."""
    last = [tap.name for tap in backbone.taps].index(stage)
    network, sums = replace(backbone, taps=backbone.taps[last : last + 1]), TapMomentAccumulator(corners=False)
    for _, pixels in read_batches(images, backbone.preprocess.resize, range(len(images)), advance):
        features = network.features(pixels)[stage].cpu()
        sums.add([features if features.shape[2] <= GRID else resize_to_grid(features, corners=False)])
    moments = sums.moments()
    if moments is None:
        raise BuildError(f"none of the {len(images)} images of {images.name} can be read; nothing can be fitted")
    return moments
