"""Heads that were made to do harm, or are damaged: one sentence each, in the program and on the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.heads.protocols import PROTOCOLS, GradientProtocol
from posenet_store.images.image_set import load_folder
from posenet_store.specs import BackboneSpec
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import Cell, parse_cell
from posenet_store.sweep.evaluate import evaluate_external, evaluate_head
from posenet_store.sweep.head_files import ExternalHead
from posenet_store.sweep.labels import Labels
from tests.support.runs import cli
from tests.support.small import built_store, folder, tiny_backbone, write_images

Tensors = dict[str, Tensor]
Texts = dict[str, Any]
HUGE = 10**18


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("heads")
    return built_store(root / "stores", load_folder(write_images(root / "photos", 4)), tiny_backbone(), "aligned")


def make_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {"store": "a", "train_rows": 3, "held_out": 3, "input": "aligned", "target": "H", "seed": 0}
    fields |= {"value_range": (0.0, 1.0), "normalise": False, "kernel": 3, "padding": 0, "protocol": PROTOCOLS["ridge"]}
    return Cell(**(fields | changes))


def make_head(reader: Reader) -> tuple[Tensors, Texts]:
    """Return the tensors and metadata of a sound head of the store's network."""
    metadata = {"network_key": reader.spec.network_key, **vars(Labels.of(reader.spec)), "cell": make_cell().to_dict()}
    tensors = {"weight": torch.ones(1, 9, 3, 3).double(), "bias": torch.zeros(1).double()}
    return tensors, json.loads(json.dumps(metadata | {"padding": 0, "sigmoid": False, "size": 0}))


def write_head(path: Path, tensors: Tensors, texts: Texts) -> Path:
    raw = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in texts.items()}
    path.write_bytes(save(tensors, metadata={name: value.decode() for name, value in raw.items()}))
    return path


def change(**values: Any) -> Callable[[Tensors, Texts], None]:
    """Return what replaces metadata."""
    return lambda _, texts: texts.update(values)


def change_cell(**values: Any) -> Callable[[Tensors, Texts], None]:
    return lambda _, texts: texts["cell"].update(values)


def change_protocol(**values: Any) -> Callable[[Tensors, Texts], None]:
    return lambda _, texts: texts["cell"]["protocol"].update(values)


def put(**values: Tensor) -> Callable[[Tensors, Texts], None]:
    """Return what replaces tensors; `hidden__0__weight` is `hidden.0.weight`."""
    return lambda tensors, _: tensors.update({name.replace("__", "."): value for name, value in values.items()})


def drop(name: str) -> Callable[[Tensors, Texts], Any]:
    return lambda tensors, texts: tensors.pop(name) if name in tensors else texts.pop(name)


NINE = torch.ones(1, 9, 3, 3).double()
HARM: dict[str, Callable[[Tensors, Texts], Any]] = {
    "no weight": drop("weight"),
    "no bias": drop("bias"),
    "another tensor": put(extra=NINE),
    "a name with an escape": lambda tensors, _: tensors.update({"\x1b[31m": NINE}),
    "a weight of three axes": put(weight=NINE[0]),
    "a weight of five axes": put(weight=NINE[None]),
    "a kernel that is no square": put(weight=torch.ones(1, 9, 3, 2)),
    "an empty kernel": put(weight=torch.ones(1, 9, 0, 0)),
    "no channels": put(weight=torch.ones(1, 0, 3, 3)),
    "a kernel larger than the cell's": put(weight=torch.ones(1, 9, 5, 5)),
    "a kernel larger than the image": put(weight=torch.ones(1, 9, 57, 57)),
    "two maps": put(weight=torch.ones(2, 9, 3, 3), bias=torch.ones(2)),
    "more channels": put(weight=torch.ones(1, 10, 3, 3)),
    "fewer channels": put(weight=torch.ones(1, 8, 3, 3)),
    "two biases": put(bias=torch.ones(2)),
    "a bias without an axis": put(bias=torch.ones(())),
    "whole numbers": put(weight=NINE.long()),
    "true and false": put(weight=NINE.bool()),
    "complex numbers": put(weight=NINE.to(torch.complex64)),
    "floats of 8 bits": put(weight=NINE.to(torch.float8_e4m3fn)),
    "NaN": put(weight=NINE * float("nan")),
    "an infinite bias": put(bias=torch.full((1,), float("inf"))),
    "a hidden layer without a bias": put(hidden__0__weight=torch.ones(4, 9, 1, 1)),
    "a second hidden layer without a first": put(hidden__1__weight=torch.ones(9, 9, 1, 1), hidden__1__bias=torch.ones(9)),
    "a hidden layer that does not fit": put(hidden__0__weight=torch.ones(4, 9, 1, 1), hidden__0__bias=torch.ones(4)),
    "a hidden layer that shrinks the map": put(hidden__0__weight=torch.ones(9, 9, 3, 3), hidden__0__bias=torch.ones(9)),
    "a hidden layer of a thousand digits": lambda tensors, _: tensors.update({f"hidden.{'9' * 1000}.bias": torch.ones(1)}),
    "a shift without a scale": put(shift=torch.zeros(9)),
    "a scale without a shift, of whole numbers": put(scale=torch.ones(9).long()),
    "a shift of other channels": put(shift=torch.zeros(3), scale=torch.ones(3)),
    "a shift of two axes": put(shift=torch.zeros(9, 1), scale=torch.ones(9, 1)),
    "no padding": drop("padding"),
    "padding in words": change(padding="zero"),
    "padding below 0": change(padding=-1),
    "huge padding": change(padding=HUGE),
    "padding that is true": change(padding=True),
    "padding of another map": change(padding=1),
    "padding that is a fraction": change(padding=0.5),
    "a sigmoid of a number": change(sigmoid=1),
    "no sigmoid": drop("sigmoid"),
    "a huge size": change(size=HUGE),
    "a size below 0": change(size=-1),
    "a size of 1": change(size=1),
    "a size of another map": change(size=224),
    "a size in a list": change(size=[224]),
    "no network": drop("network"),
    "a network of a number": change(network=5),
    "a network key of a list": change(network_key=[]),
    "another network": change(network_key="0" * 64, network="\x1b[31mother"),
    "no cell": drop("cell"),
    "a cell in a list": change(cell=[]),
    "an empty cell": change(cell={}),
    "a foreign field": change_cell(extra=1),
    "a target of a number": change_cell(target=5),
    "an unknown target": change_cell(target="\x1b[31m" + "x" * 10_000),
    "a target of 5,000 digits": change_cell(target="ramp:" + "9" * 5000),
    "an unknown input": change_cell(input="full:" + "f9" * 5000),
    "an input in a list": change_cell(input=["aligned"]),
    "an input of other channels": change_cell(input="aligned:f1"),
    "an input that the store lacks": change_cell(input="full"),
    "a range of one": change_cell(value_range=[0.0]),
    "a range of three": change_cell(value_range=[0.0, 0.5, 1.0]),
    "a range that shrinks": change_cell(value_range=[1.0, 0.0]),
    "a range of texts": change_cell(value_range=["0", "1"]),
    "a huge kernel": change_cell(kernel=HUGE),
    "a kernel of 0": change_cell(kernel=0),
    "huge rows": change_cell(train_rows=HUGE),
    "rows of a fraction": change_cell(held_out=0.5),
    "a seed below 0": change_cell(seed=-1),
    "normalise of a number": change_cell(normalise=1),
    "a protocol of a text": change_cell(protocol="ridge"),
    "a protocol without a name": change_cell(protocol={}),
    "an unknown protocol": change_protocol(name="x" * 10_000),
    "a protocol named by a list": change_protocol(name=[]),
    "a foreign setting": change_protocol(epochs=3),
    "huge folds": change_protocol(folds=HUGE),
    "penalties of texts": change_protocol(lambdas=["1"]),
    "no penalties": change_protocol(lambdas=[]),
    "metadata that are no JSON": change(cell=b"{"),
    "metadata nested too deeply": change(cell=b"[" * 100_000),
    "an integer of 5,000 digits": change(padding=b"9" * 5000),
    "NaN in JSON": change(size=b"NaN"),
    "NaN in a range": change_cell(value_range=[float("nan"), 1.0]),
    "infinite padding": change(padding=b"Infinity"),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.timeout(20)
def test_a_crafted_head_is_one_sentence(reader: Reader, tmp_path: Path, harm: Callable[[Tensors, Texts], Any]) -> None:
    tensors, texts = make_head(reader)
    harm(tensors, texts)
    path = write_head(tmp_path / "head.safetensors", tensors, texts)
    with pytest.raises(UsageError) as caught:
        evaluate_head(path, reader)
    assert len(str(caught.value)) < 1000
    result = cli("evaluate", "--head", path, "--store", folder(reader))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.rstrip("\n").isprintable()


def test_the_sound_head_that_they_were_made_of_is_scored(reader: Reader, tmp_path: Path) -> None:
    path = write_head(tmp_path / "head.safetensors", *make_head(reader))
    assert evaluate_head(path, reader).rows()[0]["images"] == 4
    assert cli("evaluate", "--head", path, "--store", folder(reader)).exit_code == 0


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_cell_comes_back_from_its_json(protocol: Any) -> None:
    cell = make_cell(protocol=replace(protocol, normalise=True), value_range=(-1.0, 1.0))
    assert parse_cell(json.loads(json.dumps(cell.to_dict())), "a head") == cell


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x10" + bytes(7), b"\xff" * 7 + b"\x7f" + b"{" * 100, b"PK\x03\x04"])
def test_bytes_that_are_no_safetensors_are_no_head(reader: Reader, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "head.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="not a head that a sweep wrote"):
        evaluate_head(tmp_path / "head.safetensors", reader)


def test_a_head_at_the_root_of_a_disk_is_looked_for(reader: Reader) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        evaluate_head(Path("/no-such-head.safetensors"), reader)


@pytest.mark.parametrize(
    "spec",
    [
        [], "vgg16", {"name": 5}, {"name": "vgg16", "weights": ["x"]}, {"name": "vgg16", "size": 10**18}, {"extra": 1},
        {"size": "28"}, {"name": "vgg16", "size": True}, {"name": None}, {"name": "vgg16", "weights": "~nobody-knows/x.pth"},
        {"name": "vgg16", "compute": 3}, {"name": "\x1b[31m"},
        {"name": "vgg16", "weights": "random:" + "9" * 5000},
    ],
)  # fmt: skip
def test_a_crafted_network_of_a_head_is_one_sentence(reader: Reader, tmp_path: Path, spec: Any) -> None:
    tensors, texts = make_head(reader)
    path = write_head(tmp_path / "head.safetensors", tensors, texts | {"network_spec": spec})
    photos = write_images(tmp_path / "photos", 1)
    result = cli("evaluate", "--head", path, "--images", photos, "--stores", tmp_path / "stores")
    assert result.exit_code == 2, result.output
    assert all(line.isprintable() for line in result.stderr.splitlines())
    assert not list((tmp_path / "stores").glob("*"))


def test_a_network_of_a_head_comes_back() -> None:
    spec = BackboneSpec("vgg16", "random:3", size=28)
    assert BackboneSpec.from_dict(json.loads(json.dumps(vars(spec)))) == spec


EXTERNAL: dict[str, Any] = {
    "whole numbers": {"w": NINE.long()},
    "true and false": {"w": NINE.bool(), "b": torch.ones(1)},
    "a whole bias": {"w": NINE, "b": torch.ones(1).int()},
    "complex": {"w": NINE.to(torch.complex64)},
    "meta": {"w": NINE.to("meta")},
    "sparse": {"w": NINE.to_sparse()},
    "NaN": {"w": NINE * float("nan")},
    "an infinite bias": {"w": NINE, "b": torch.full((1,), float("inf"))},
    "one number for all": {"w": torch.ones(1).expand(1, 9, 3, 3)},
    "an empty kernel": {"w": torch.ones(1, 9, 0, 0)},
    "a huge kernel": {"w": torch.ones(1, 9, 60, 60)},
    "no channels": {"w": torch.ones(1, 0, 3, 3)},
    "another shape": {"w": torch.ones(9, 3, 3)},
    "two": {"w": NINE, "v": NINE},
    "nothing": {},
    "a list": [NINE],
    "a name that is a number": {3: NINE},
}


@pytest.mark.parametrize("state", EXTERNAL.values(), ids=EXTERNAL)
def test_a_crafted_external_head_is_one_sentence(reader: Reader, tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(PosenetStoreError):
        evaluate_external(ExternalHead(tmp_path / "a.pth", "H"), reader)
    result = cli("evaluate", "--head", tmp_path / "a.pth", "--target", "H", "--store", folder(reader))
    assert result.exit_code in (1, 2), result.output
    assert (result.stderr.startswith("error: "), result.stderr.count("\n")) == (True, 1)


@pytest.mark.filterwarnings("ignore")  # of NumPy, of numbers that overflow
def test_numbers_that_overflow_are_scores_without_a_value(reader: Reader, tmp_path: Path) -> None:
    torch.save({"w": torch.full((1, 9, 3, 3), 1e308, dtype=torch.float64)}, tmp_path / "a.pth")
    (row,) = evaluate_external(ExternalHead(tmp_path / "a.pth", "H"), reader).rows()
    assert row["nonfinite"] == row["images"] or row["mae"] > 1e300


def test_a_gradient_head_of_a_sweep_has_the_layers_of_its_protocol(reader: Reader, tmp_path: Path) -> None:
    tensors, texts = make_head(reader)
    protocol = GradientProtocol(layers=2, hidden=4)
    texts["cell"] = json.loads(json.dumps(make_cell(protocol=protocol).to_dict()))
    with pytest.raises(UsageError, match="side 24"):
        evaluate_head(write_head(tmp_path / "head.safetensors", tensors, texts), reader)
    tensors |= {"hidden.0.weight": torch.ones(4, 9, 3, 3), "hidden.0.bias": torch.ones(4), "weight": torch.ones(1, 4, 3, 3)}
    assert evaluate_head(write_head(tmp_path / "head.safetensors", tensors, texts), reader).rows()[0]["images"] == 4
