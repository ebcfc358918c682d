"""Extending a store: the network sees the new images only, and the result is the store of all images, byte for byte."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import load_backbone
from posenet_store.errors import BuildError, StoreError, UsageError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.distributed import Part, build_part
from posenet_store.extraction.extend import extend_store, select_new
from posenet_store.extraction.repair import repair_store
from posenet_store.files import read_json, write_json
from posenet_store.images.image_set import ImageSet, load_folder
from posenet_store.specs import FORMATS, PIXELS, BackboneSpec
from posenet_store.store.access import StoreFiles
from posenet_store.store.catalogue import describe_extended, list_stores
from posenet_store.store.formats import list_block_files
from posenet_store.store.plan import read_plan
from posenet_store.store.reader import open_store
from posenet_store.store.removal import Removal
from posenet_store.store.sharing import count_copied
from posenet_store.store.verify import find_damage
from tests.support.pretend_cuda import pretend_cuda
from tests.support.servers import serve
from tests.support.small import built_store, contents, folder, tiny_backbone, write_images

ROWS, NEW = 10, 5  # two blocks of four and a tail of two, to which two of the new images are added


def write_new(target: Path, count: int = NEW, seed: int = 7) -> Path:
    """Write images whose names come after those of `write_images`."""
    for path in sorted(write_images(target, count, seed).iterdir()):
        path.rename(path.with_name(path.name.replace("image", f"new{seed}-")))
    return target


@dataclass(frozen=True)
class Shelf:
    """A store of ten images, five more images, and the store that all of them make at once."""

    stores: Path
    base: Path
    more: ImageSet
    at_once: Path

    def extend(self, backbone: Backbone | None = None, **options: object) -> BuildResult:
        return extend_store(self.base, self.more, backbone or tiny_backbone(), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=FORMATS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    root = tmp_path_factory.mktemp("shelf")
    first, more = load_folder(write_images(root / "photos", ROWS)), load_folder(write_new(root / "more"))
    both = load_folder(shutil.copytree(root / "more", shutil.copytree(root / "photos", root / "all"), dirs_exist_ok=True))
    base = folder(built_store(root / "stores", first, tiny_backbone(), file_format=request.param))
    plan = plan_store(both, tiny_backbone(), "native", "float32", 4, request.param, (ROWS,))
    at_once = build_store(both, tiny_backbone(), plan, root / "at once", batch_size=2).path
    for name in ("photos", "all"):  # an extension needs neither
        shutil.rmtree(root / name)
    return Shelf(root / "stores", base, more, at_once)


@pytest.fixture
def shelf(built: Shelf, tmp_path: Path) -> Shelf:
    return replace(built, stores=tmp_path, base=Path(shutil.copytree(built.base, tmp_path / built.base.name)))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the network sees, the recorded probe image apart."""
    sizes: list[int] = []
    features = Backbone.features

    def count(network: Backbone, pixels: Tensor) -> dict[str, Tensor]:
        sizes.append(len(pixels))
        return features(network, pixels)

    monkeypatch.setattr(Backbone, "features", count)
    return sizes


def test_an_extended_store_is_that_of_all_images_and_the_network_sees_the_new_ones_only(shelf: Shelf, seen: list[int]) -> None:
    before = contents(shelf.base)
    result = shelf.extend()
    assert (result.extracted, result.missing, result.path.parent) == (NEW, 0, shelf.stores)
    assert sum(seen) == 1 + NEW  # the probe image, and the new ones
    assert contents(result.path) == contents(shelf.at_once)
    assert contents(shelf.base) == before
    assert list(find_damage(result.path, deep=True)) == []
    extended, base = open_store(result.path), open_store(shelf.base)
    assert extended.ids[:ROWS] == base.ids
    assert sorted(extended.ids[ROWS:]) == sorted(shelf.more.ids)
    for name in base.spec.arrays:
        np.testing.assert_array_equal(extended.read(name, 0, ROWS), base.read(name))
    assert extended.spec.images == base.spec.images
    assert extended.plan.provenance["extended"] == {
        "from": base.name, "store_id": base.manifest["store_id"], "rows": ROWS, "images": "more",
    }  # fmt: skip


def test_a_store_is_extended_twice(shelf: Shelf, tmp_path: Path) -> None:
    once = shelf.extend().path
    last = load_folder(write_new(tmp_path / "last", 3, seed=8))
    twice = open_store(extend_store(once, last, tiny_backbone()).path)
    assert twice.spec.extended_at == (ROWS, ROWS + NEW)
    assert twice.ids[: ROWS + NEW] == open_store(once).ids
    assert sorted(image for image, _ in twice.plan.list_images()[-3:]) == sorted(last.ids)


def test_full_blocks_are_shared_by_hard_links_and_others_are_not(shelf: Shelf) -> None:
    path, spec = shelf.extend().path, open_store(shelf.base).spec
    for block in range(3):
        for name in list_block_files(spec, block):
            assert (path / name).samefile(shelf.base / name) == (block < 2)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    shared = sum((path / name).stat().st_size for block in range(2) for name in list_block_files(spec, block))
    assert Removal.of(shelf.stores, path, "store").bytes == size - shared  # what removing it frees


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_without_hard_links_blocks_are_copied(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(shelf.base.resolve()):
            raise OSError(code, os.strerror(code))
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    path = shelf.extend().path
    assert contents(path) == contents(shelf.at_once)
    name = list_block_files(open_store(path).spec, 0)[0]
    assert not (path / name).samefile(shelf.base / name)


def test_a_damaged_block_is_not_copied(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = shelf.base / list_block_files(open_store(shelf.base).spec, 1)[0]
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    monkeypatch.setattr("posenet_store.store.sharing.StoreFiles", int)  # as if it were behind a URL
    with pytest.raises(StoreError, match="is damaged"):
        shelf.extend()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"short")], ids=["gone", "cut"])
def test_a_block_that_is_missing_or_cut_short_stops_the_extension(shelf: Shelf, harm: Callable[[Path], object]) -> None:
    harm(shelf.base / list_block_files(open_store(shelf.base).spec, 1)[0])
    with pytest.raises(StoreError, match="repair that store"):
        shelf.extend()


def test_a_damaged_tail_is_noticed_when_it_is_read(shelf: Shelf) -> None:
    victim = shelf.base / list_block_files(open_store(shelf.base).spec, 2)[0]
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    with pytest.raises(StoreError, match="block 2 is damaged"):
        shelf.extend()


def test_an_extension_that_was_killed_resumes(shelf: Shelf, seen: list[int]) -> None:
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shelf.extend(advance=stop)
    seen.clear()
    result = shelf.extend()
    assert result.extracted == 3  # the tail with two new images was committed
    assert contents(result.path) == contents(shelf.at_once)


def test_parts_make_the_same_store(shelf: Shelf) -> None:
    results = [shelf.extend(part=(number, 3)) for number in (2, 3, 1)]
    assert [result.missing for result in results] == [3, 2, 0]
    assert contents(results[-1].path) == contents(shelf.at_once)
    assert sum(result.extracted for result in results) == NEW


def test_workers_make_the_same_store(tmp_path: Path) -> None:
    """Each opens the store that is extended, and shares and computes the blocks of its part."""
    photos, more = write_images(tmp_path / "photos", 70), write_new(tmp_path / "more", 66)
    network = BackboneSpec(PIXELS, device="cpu")
    backbone, images = load_backbone(network), load_folder(more)
    first = load_folder(photos)
    base = build_store(first, backbone, plan_store(first, backbone, "native", "float16"), tmp_path / "stores").path
    alone = extend_store(base, images, backbone, tmp_path / "alone")
    spec = open_store(alone.path).spec
    part = Part(
        source=str(more), backbone=network, layout=spec.layout, dtype=spec.dtype, file_format=spec.format,
        root=tmp_path / "stores", folder=tmp_path / "stores" / spec.folder, fingerprint=spec.fingerprint, extend=str(base),
    )  # fmt: skip
    results = [build_part(replace(part.make_absolute(), part=(number, 2)), 1) for number in (1, 2)]
    assert [result.extracted for result in results] == [8, 58]  # block 1 begins with six rows of the base
    assert contents(results[-1].path) == contents(alone.path)


def test_a_store_behind_a_url_is_extended_here(shelf: Shelf, tmp_path: Path) -> None:
    assert count_copied(open_store(shelf.base), shelf.stores / "not there yet") == 0
    with serve(shelf.base) as url:
        assert count_copied(open_store(url), tmp_path) == ROWS
        path = extend_store(url, shelf.more, tiny_backbone(), tmp_path / "here").path
    assert contents(path) == contents(shelf.at_once)


def test_a_gpu_extends_a_store_and_its_records_describe_the_copied_rows(shelf: Shelf) -> None:
    with pretend_cuda("cuda") as cuda:
        path = shelf.extend(replace(tiny_backbone(), device=torch.device("cuda")), batch_size=2).path
    assert cuda.races == []
    reader, expected = open_store(path), open_store(shelf.at_once)
    for name in reader.spec.arrays:
        np.testing.assert_array_equal(reader.read(name), expected.read(name))
        for field, value in expected.read_record(2)["statistics"][name].items():  # sums in another order, of float32
            assert reader.read_record(2)["statistics"][name][field] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("edges", [[0], [20], [15], [10, 10], [12, 10], [-1], [1.5], "10", [2**63], {}])
def test_a_plan_that_was_extended_at_other_rows_is_refused(shelf: Shelf, edges: object) -> None:
    plan = read_json(shelf.extend().path / "plan.json")
    plan["spec"]["extended_at"] = edges
    write_json(shelf.stores / "crafted" / "plan.json", plan)
    with pytest.raises(StoreError):
        read_plan(StoreFiles(shelf.stores / "crafted"))


def test_sweeps_note_that_rows_are_no_random_sample(shelf: Shelf) -> None:
    path = shelf.extend().path
    (line,) = describe_extended(list_stores(shelf.stores).stores)
    assert path.name in line
    assert "its last 5 rows" in line


def test_a_repair_of_one_store_does_not_touch_the_other(shelf: Shelf) -> None:
    path = shelf.extend().path
    name = list_block_files(open_store(path).spec, 3)[0]
    (path / name).write_bytes(b"x" + (path / name).read_bytes()[1:])
    assert repair_store(path, shelf.more, tiny_backbone()).extracted == 3  # of the new images alone
    assert contents(path) == contents(shelf.at_once)
    shared = list_block_files(open_store(path).spec, 0)[0]
    (path / shared).unlink()
    (path / shared).write_bytes(b"damaged")
    before = contents(shelf.base)
    with pytest.raises(BuildError, match="is not among the images"):
        repair_store(path, shelf.more, tiny_backbone())
    assert shelf.extend().extracted == 0  # the block comes from the base again
    assert (contents(path), contents(shelf.base)) == (contents(shelf.at_once), before)


def test_images_that_the_store_holds_are_left_out(shelf: Shelf, tmp_path: Path) -> None:
    extended = open_store(shelf.extend().path)
    assert len(select_new(extended, shelf.more)) == 0
    with pytest.raises(UsageError, match="holds these images already"):
        extend_store(folder(extended), shelf.more, tiny_backbone())
    grown = write_new(tmp_path / "more")
    (grown / "new7-000.png").rename(grown / "another name.png")
    write_new(grown, 2, seed=9)
    assert select_new(extended, load_folder(grown)).ids == ("new9-000.png", "new9-001.png")


def test_an_image_that_has_changed_is_refused_by_name(shelf: Shelf, tmp_path: Path) -> None:
    others = load_folder(write_images(tmp_path / "others", 4, seed=3))
    with pytest.raises(UsageError, match="4 images of others"):
        extend_store(shelf.base, others, tiny_backbone())


def test_another_network_is_refused(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="is not the network"):
        shelf.extend(tiny_backbone(seed=1))
    drifted = tiny_backbone()
    for parameter in drifted.module.parameters():
        parameter.mul_(1.5)
    with pytest.raises(BuildError, match="no longer gives"):
        shelf.extend(drifted)
    assert [path.name for path in shelf.stores.iterdir()] == [shelf.base.name]


def test_a_store_that_is_not_sealed_is_not_extended(shelf: Shelf) -> None:
    (shelf.base / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not sealed"):
        shelf.extend()


def test_quarantined_images_stay_in_quarantine(tmp_path: Path) -> None:
    first, more = write_images(tmp_path / "photos", 6), write_new(tmp_path / "more")
    (first / "image001.png").write_text("no image")
    (first / "image004.png").write_text("no image either")
    (more / "new7-002.png").write_text("nor this")
    backbone = tiny_backbone()
    plan = plan_store(load_folder(first), backbone, "aligned", "float32", 4)
    base = build_store(load_folder(first), backbone, plan, tmp_path / "stores", max_unreadable=1).path
    with pytest.raises(BuildError, match="3 of 11 images are unreadable"):
        extend_store(base, load_folder(more), backbone, max_unreadable=0.2)
    reader = open_store(extend_store(base, load_folder(more), backbone, max_unreadable=0.5).path)
    names = {entry["image_id"] for entry in reader.manifest["quarantined"]}
    assert names == {"image001.png", "image004.png", "new7-002.png"}
    assert np.isnan(reader.read("aligned")[~reader.readable]).all()
    assert int(reader.readable.sum()) == 8
