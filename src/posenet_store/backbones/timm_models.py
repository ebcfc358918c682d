"""Build timm's networks by name, with downloaded, loaded or random parameters; no other module imports timm.

A network is called `timm:ARCHITECTURE.TAG`; the tag is that of its trained weights, and says how images are prepared.
"""

import errno
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posenet_store.backbones.backbone import run_taps
from posenet_store.backbones.checks import TIMM, find_timm
from posenet_store.backbones.maps import convert_to_map, find_format
from posenet_store.backbones.taps import select_taps
from posenet_store.backbones.weights import Weights, compute_state_digest
from posenet_store.errors import PosenetStoreError, UsageError, first_line, is_out_of_memory, suggest, unknown
from posenet_store.specs import CROP_MODES, Preprocess, Tap

TOLERANCE = 1e-4
"""Of a stage's largest value, between a module's output and what timm returns for it: the same operations, summed alike."""


def _import_timm() -> Any:
    find_timm()
    import timm

    return timm


def _find_config(name: str) -> Any:
    """Return timm's configuration of a network and tag; raises UsageError if there is none."""
    timm = _import_timm()
    short = name.removeprefix(TIMM)
    architecture, _, tag = short.partition(".")
    if not timm.is_model(architecture):
        raise UsageError(
            f"timm {timm.__version__} has no network {architecture!r}{suggest(architecture, timm.list_models())}; "
            "timm.list_models() lists all"
        )
    tags = [known.partition(".")[2] for known in timm.models.get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        raise unknown(f"tag of timm's {architecture}", tag, filter(None, tags))
    return timm.get_pretrained_cfg(short) or timm.models.PretrainedCfg(architecture=architecture)


def complete_name(name: str) -> str:
    """Return the full name of a network, with timm's own tag where none is given; raises UsageError if there is none."""
    config = _find_config(name)
    return TIMM + ".".join(part for part in (config.architecture, config.tag) if part)


def find_preprocess(name: str) -> Preprocess:
    """Return how images are prepared for a network, as timm's transform for evaluation does."""
    config = _import_timm().data.resolve_data_config(pretrained_cfg=_find_config(name).to_dict())
    channels, height, width = config["input_size"]
    if channels != 3 or height != width or config["crop_mode"] not in CROP_MODES:
        raise UsageError(
            f"{name} takes {channels}x{height}x{width} images with timm's crop mode {config['crop_mode']!r}; accepted here: "
            f"square RGB images with {' or '.join(CROP_MODES)}"
        )
    return Preprocess(
        height, 1 / 255, tuple(config["mean"]), tuple(config["std"]),
        crop_mode=config["crop_mode"], crop_pct=config["crop_pct"], interpolation=config["interpolation"],
    )  # fmt: skip


def find_licence(name: str) -> str:
    """Return the licence of the weights of a network's tag, "" if timm does not say."""
    return _find_config(name).license or ""


def build_network(name: str, size: int | None = None, trained: bool = False) -> nn.Module:
    """Return a network for `size` pixels with random parameters, or trained ones, which timm downloads."""
    config, own = _find_config(name), find_preprocess(name).size
    other_size = size is not None and size != own
    fixed = {"img_size": size} if config.fixed_input_size and other_size else {}
    try:
        network: nn.Module = _import_timm().create_model(name.removeprefix(TIMM), pretrained=trained, **fixed)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not other_size or is_out_of_memory(error):
            raise
        raise UsageError(f"{name} does not take {size}x{size} images ({first_line(error)}); give --size {own}") from None
    patch = min((info["reduction"] for info in getattr(network, "feature_info", ())), default=1)
    if size is not None and fixed and size % patch:
        raise UsageError(f"{name} takes images whose side is a multiple of {patch} pixels, not {size}; its own is --size {own}")
    return network


def _download_network(name: str, size: int) -> nn.Module:
    """Return a network with the trained weights of its tag, from timm's cache or the internet."""
    config = _find_config(name)
    if not config.has_weights:
        raise UsageError(f"timm has no trained weights for {name}; accepted here: a file, random:SEED")
    try:
        if config.hf_hub_id:
            _check_hub(config.hf_hub_id)
        return build_network(name, size, trained=True)
    except PosenetStoreError:
        raise
    except Exception as error:  # the Hugging Face client can raise anything
        if is_out_of_memory(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        page = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise PosenetStoreError(
            f"the weights of {name} can't be downloaded ({first_line(error)}). On a machine with network, fetch the file from "
            f"{page} and give it: --weights FILE.safetensors (or FILE.pth)"
        ) from None


def _check_hub(repository: str) -> None:
    """Raise what the Hugging Face client raises if weights are not in its cache and it reaches no hub.

    It would retry for almost a minute.
    """
    import huggingface_hub

    repository = repository.partition("@")[0]
    if isinstance(huggingface_hub.try_to_load_from_cache(repository, "model.safetensors"), str):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, "config.json"))
    except Exception as error:
        if getattr(error, "response", None) is None:  # an answer, even "not found", is for timm to judge
            raise


def _drop_classifier(network: nn.Module) -> set[str]:
    """Remove the classifier, which no tap reads; return the names of its parameters."""
    before = set(network.state_dict())
    network.reset_classifier(0)  # type: ignore[operator]
    return before - set(network.state_dict())


def _load_state(network: nn.Module, state: Mapping[str, Tensor], classifier: set[str], name: str) -> None:
    """Load the parameters of a file, in timm's names or in the published ones that timm translates.

    Raises UsageError unless they are all those of the network without its classifier.
    """
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        translated = dict(translate(dict(state), network) if translate else state)
    except (KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"the weights do not fit {name}: {first_line(error)}") from None
    own = network.state_dict()
    heads = {key.rpartition(".")[0] for key in classifier}
    wrong = [key for key in set(translated) & set(own) if translated[key].shape != own[key].shape]
    foreign = [key for key in set(translated) - set(own) - classifier if key.rpartition(".")[0] not in heads]
    missing = [key for key in set(own) - set(translated) if not key.endswith("num_batches_tracked")]
    for problem, keys in (("has foreign entries", foreign), ("has entries of another shape", wrong), ("lacks", missing)):
        if keys:
            named = ", ".join(sorted(keys)[:3])
            raise UsageError(f"the weights do not fit {name}: the file {problem}: {named} ({len(keys)} in all)")
    network.load_state_dict({key: translated.get(key, value) for key, value in own.items()})


def load_network(name: str, weights: Weights) -> tuple[nn.Module, str]:
    """Build a network without classifier, with its parameters; return it and their digest."""
    size, trained = weights.preprocess.size, weights.state is None and weights.seed is None
    with torch.random.fork_rng(devices=[]):  # timm draws weights on the CPU, also where others replace them
        torch.manual_seed(weights.seed or 0)
        network = _download_network(name, size) if trained else build_network(name, size)
    classifier = _drop_classifier(network)
    if weights.state is not None:
        _load_state(network, weights.state, classifier, name)
    return network, compute_state_digest(network.state_dict())


def load_classifier(name: str, weights: Weights) -> nn.Module:
    """Return a trained network with its classifier; raises UsageError if the weights have none."""
    size = weights.preprocess.size
    with torch.random.fork_rng(devices=[]):
        network = _download_network(name, size) if weights.state is None else build_network(name, size)
    if weights.state is not None:
        _load_state(network, weights.state, set(), name)
    return network


def list_wordnet_ids() -> list[str]:
    """Return the WordNet ids of ImageNet's 1,000 classes in the order of the classes; raises UsageError without timm."""
    return list(_import_timm().data.ImageNetInfo("imagenet-1k").label_names())


def list_stages(network: nn.Module) -> list[str]:
    """Return the names of the modules that timm calls stages (`feature_info`), in order of depth."""
    return [info["module"] for info in getattr(network, "feature_info", ())]


def list_taps(name: str, network: nn.Module, tap_set: str) -> tuple[str, ...]:
    """Return the modules of a tap set; raises UsageError if it is of stages that are no modules."""
    stages = list_stages(network)
    modules = select_taps(stages, tap_set)
    if not modules or set(modules) & set(stages) - set(dict(network.named_modules())):
        raise UsageError(f"timm's stages of {name} are no modules of it; choose modules: --taps MODULES")
    return modules


@torch.inference_mode()
def check_stages(network: nn.Module, taps: Sequence[Tap], size: int) -> None:
    """Raise UsageError if what a stage's module returns is not what timm itself returns for the stage.

    timm computes some stages after their modules (Hiera orders tokens anew, for one). Taps that are no stages are not
    looked at.
    """
    stages, form = list_stages(network), find_format(network)
    taps = [tap for tap in taps if tap.module in stages]
    if not taps or not hasattr(network, "forward_intermediates"):
        return
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    indices = [stages.index(tap.module) for tap in taps]
    expected = network.forward_intermediates(images, indices=indices, intermediates_only=True)  # type: ignore[operator]
    outputs = run_taps(network, [(tap.name, tap.module) for tap in taps], images)
    for tap, stage in zip(taps, expected, strict=True):
        actual = convert_to_map(outputs[tap.name], form)
        if actual.shape != stage.shape or float((actual - stage).abs().max()) > TOLERANCE * float(stage.abs().max()):
            raise UsageError(f"timm computes stage {tap.module} outside of that module; choose other modules: --taps MODULES")
