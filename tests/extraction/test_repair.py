"""Repair and the probes' store from Python."""

from pathlib import Path

import pytest
from torch import Tensor

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.build import build_probe_store
from posenet_store.extraction.repair import repair_store
from posenet_store.images.image_set import load_folder
from posenet_store.store.reader import open_store
from posenet_store.store.verify import Damage, find_damage
from tests.support.small import built_store, contents, folder, tiny_backbone, write_images


def test_a_damaged_block_is_computed_again(tmp_path: Path) -> None:
    images, backbone = load_folder(write_images(tmp_path / "photos", 10)), tiny_backbone()
    store = folder(built_store(tmp_path / "stores", images, backbone))
    before = contents(store)
    victim = max((path for path in (store / "data.zarr/f1").glob("c.*")), key=lambda path: path.name)
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    with pytest.raises(UsageError, match="weights"):
        repair_store(store, images, tiny_backbone(seed=1))
    assert len(list(find_damage(store, deep=True))) > 0
    assert repair_store(store, images, backbone).extracted == 2  # the batch size is on record
    assert (list(find_damage(store, deep=True)), contents(store)) == ([], before)


def test_a_store_records_what_computed_it_and_is_repaired_in_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, backbone = load_folder(write_images(tmp_path / "photos", 10)), tiny_backbone()
    reader = built_store(tmp_path / "stores", images, backbone)
    assert reader.plan.provenance["computed_on"] == {"device": "cpu", "precision": "float32", "batch_size": 2}
    assert not any("computed_on" in reader.read_record(block) for block in range(3))
    batches: list[int] = []
    features = Backbone.features

    def count(network: Backbone, pixels: Tensor) -> dict[str, Tensor]:
        batches.append(len(pixels))
        return features(network, pixels)

    monkeypatch.setattr(Backbone, "features", count)
    repair_store(folder(reader), images, backbone, damage=[Damage(0, "lost")])
    assert batches == [2, 2]


def test_the_named_store_is_repaired_whatever_it_and_its_images_are_called(tmp_path: Path) -> None:
    photos, backbone = write_images(tmp_path / "photos", 10), tiny_backbone()
    store = folder(built_store(tmp_path / "stores", load_folder(photos), backbone))
    before = contents(store)
    renamed, images = store.rename(tmp_path / "stores" / "our best one"), load_folder(photos.rename(tmp_path / "holiday"))
    victim = next(path for path in sorted((renamed / "data.zarr/f1").glob("c.*")))
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    assert repair_store(renamed, images, backbone, batch_size=2).path == renamed
    assert (list(find_damage(renamed, deep=True)), contents(renamed)) == ([], before)
    assert list((tmp_path / "stores").iterdir()) == [renamed]


def test_a_renamed_folder_of_images_resumes_the_same_store(tmp_path: Path) -> None:
    photos, backbone = write_images(tmp_path / "photos", 10), tiny_backbone()
    first = built_store(tmp_path / "stores", load_folder(photos), backbone)
    again = built_store(tmp_path / "stores", load_folder(photos.rename(tmp_path / "holiday")), backbone)
    assert folder(again) == folder(first)
    assert list((tmp_path / "stores").iterdir()) == [folder(first)]


def test_the_probes_get_a_store_like_another_one(tmp_path: Path) -> None:
    reader = built_store(tmp_path, load_folder(write_images(tmp_path / "photos", 5)), tiny_backbone(), "readout", "float16")
    probes = open_store(build_probe_store(tiny_backbone(), reader.spec, tmp_path).path)
    assert (probes.spec.rows, probes.spec.layout, probes.spec.dtype) == (3, "readout", "float16")
    assert probes.spec.network_key == reader.spec.network_key
