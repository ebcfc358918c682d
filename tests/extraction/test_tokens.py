"""Class and register tokens that are kept: as the network gives them, in both formats, through every reader and copy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import wrap_backbone
from posenet_store.errors import StoreError, UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.extend import plan_extension
from posenet_store.extraction.repair import repair_store
from posenet_store.files import canonical_json, read_json, write_json
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS, LAYOUTS, StoreSpec, unit
from posenet_store.store.card import make_card
from posenet_store.store.convert import convert_store
from posenet_store.store.plan import read_plan
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.verify import find_damage
from tests.support.small import folder, tiny_backbone, write_images

PREFIX = 3
FIRST, LAST = "first", "last"


class Transformer(nn.Module):
    """A class and two register tokens join 4x4 patches behind the first tap, as in CaiT; then all are mixed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls_token, self.reg_token = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 2, 6))
        self.num_prefix_tokens = PREFIX
        self.embed, self.first, self.last = nn.Conv2d(3, 6, 8, 8), nn.Identity(), nn.Linear(6, 6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.first(self.embed(images).flatten(2).transpose(1, 2))
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(images), -1, -1)
        joined = torch.cat([prefix, patches], dim=1)
        tokens: Tensor = self.last(joined + joined.mean(dim=1, keepdim=True))
        return tokens


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    photos = write_images(tmp_path_factory.mktemp("tokens") / "photos", 9)
    (photos / "broken.png").write_bytes(b"no image")
    return load_image_set(str(photos))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap_backbone(Transformer(), "own", [FIRST, LAST], unit(32), device="cpu")


def build(root: Path, images: ImageSet, backbone: Backbone, form: str = "zarr", layout: str = "native") -> Reader:
    plan = plan_store(images, backbone, layout, "float32", 4, form, keep_tokens=True)
    return open_store(build_store(images, backbone, plan, root, batch_size=3, max_unreadable=0.2).path)


def expect(images: ImageSet, ids: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the tokens of each row from the network itself, NaN for the unreadable image."""
    rows = np.full((len(ids), PREFIX, 6), np.nan, np.float32)
    for row, name in enumerate(ids):
        if name != "broken.png":
            pixels = torch.from_numpy(images.read(images.ids.index(name), 32).copy())
            with torch.inference_mode():
                rows[row] = Transformer()(pixels.permute(2, 0, 1)[None] / 255)[0, :PREFIX].numpy()
    return rows


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_tokens_are_the_networks(tmp_path: Path, images: ImageSet, backbone: Backbone, form: str, layout: str) -> None:
    reader = build(tmp_path, images, backbone, form, layout)
    assert reader.spec.tokens == (0, PREFIX)  # none precede the patches of the first tap
    tokens = reader["f2_tokens"]
    assert tokens.shape == (10, PREFIX, 6)
    # the same operations on one image instead of three: float32 rounds to 1e-7 of values around 1
    np.testing.assert_allclose(np.asarray(tokens), expect(images, reader.ids), rtol=1e-5, atol=1e-6)
    assert "f1_tokens" not in reader
    assert not list(find_damage(folder(reader), deep=True))


@pytest.mark.parametrize("form", FORMATS)
def test_maps_and_every_view_are_as_without_them(tmp_path: Path, images: ImageSet, backbone: Backbone, form: str) -> None:
    reader = build(tmp_path, images, backbone, form)
    plain = plan_store(images, backbone, "native", "float32", 4, form)
    without = open_store(build_store(images, backbone, plain, tmp_path, batch_size=3, max_unreadable=0.2).path)
    for name in without.spec.arrays:
        np.testing.assert_array_equal(reader.read(name), without.read(name))
    assert without.spec.fingerprint != reader.spec.fingerprint
    assert without.spec.network_key == reader.spec.network_key  # the same heads
    data = reader.xarray()
    assert data["f2_tokens"].dims == ("image", "token_f2_tokens", "channel_f2_tokens")
    np.testing.assert_array_equal(data["f2_tokens"].values, reader.read("f2_tokens"))
    rows = np.concatenate([batch["f2_tokens"] for batch in reader.batches("f2_tokens", batch_size=4)])
    assert sorted(map(bytes, rows)) == sorted(map(bytes, reader.read("f2_tokens")[reader.readable]))
    assert f"| `f2_tokens` | `{LAST}` | 10x{PREFIX}x6 |" in make_card(folder(reader))


def test_a_copy_and_a_repair_keep_them(tmp_path: Path, images: ImageSet, backbone: Backbone) -> None:
    reader = build(tmp_path, images, backbone)
    copy = open_store(convert_store(reader, "hdf5", tmp_path))
    np.testing.assert_array_equal(copy.read("f2_tokens"), reader.read("f2_tokens"))
    expected, shard = reader.read("f2_tokens"), folder(reader) / "data.zarr/f2_tokens/c.0.0.0"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert [damage.block for damage in find_damage(folder(reader), deep=True)] == [0]
    repair_store(folder(reader), images, backbone)
    np.testing.assert_array_equal(open_store(folder(reader)).read("f2_tokens"), expected)


def test_an_extended_store_keeps_them(tmp_path: Path, images: ImageSet, backbone: Backbone) -> None:
    base = build(tmp_path, images, backbone)
    new = load_image_set(str(write_images(tmp_path / "more", 5, seed=1)))
    plan = plan_extension(base, new, backbone)
    assert plan.spec.tokens == base.spec.tokens


def test_a_network_without_them_is_told(images: ImageSet) -> None:
    with pytest.raises(UsageError, match="--keep-tokens"):
        plan_store(images, tiny_backbone(), "native", "float32", keep_tokens=True)


def test_a_store_without_them_is_described_as_ever(images: ImageSet, backbone: Backbone) -> None:
    spec = plan_store(images, backbone, "native", "float32").spec
    assert "tokens" not in spec.to_dict()
    assert StoreSpec.from_dict(spec.to_dict()) == spec
    with_tokens = replace(spec, tokens=(0, PREFIX))
    assert StoreSpec.from_dict(with_tokens.to_dict()) == with_tokens


@pytest.mark.parametrize("tokens", [[1], [-1, 3], "11", [1.5, 2], {"f2": 1}, [10**18, 0], None])
def test_counts_that_are_none_are_refused(tmp_path: Path, images: ImageSet, backbone: Backbone, tokens: object) -> None:
    reader = build(tmp_path, images, backbone)
    path = folder(reader) / "plan.json"
    content = read_json(path)
    content["spec"]["tokens"] = tokens
    write_json(path, content)
    assert canonical_json(content)
    with pytest.raises(StoreError, match=r"plan\.json|store"):
        read_plan(reader.files)
