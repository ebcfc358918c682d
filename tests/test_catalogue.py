"""The list of stores below a root."""

from pathlib import Path

from posenet_store.catalogue import entry, stores
from posenet_store.extract import build, plan_store
from posenet_store.sources import image_set
from support import built_store, tiny_backbone, write_images


def test_sealed_and_growing_stores_are_told_apart(tmp_path: Path) -> None:
    images, backbone = image_set(str(write_images(tmp_path / "photos", 14))), tiny_backbone()
    root = tmp_path / "stores"
    sealed = built_store(root, images, backbone).files.root
    half = build(images, backbone, plan_store(images, backbone, "aligned", "float32", 4), root, part=(1, 2)).path
    found, damaged = stores(root)
    assert damaged == []
    assert {one.path: one.to_dict()["state"] for one in found} == {sealed: "sealed", half: "2 of 4 blocks"}
    files = [path for path in sealed.rglob("*") if path.name.startswith("c.")]
    assert entry(sealed).bytes == sum(path.stat().st_size for path in files)


def test_a_damaged_store_is_reported_and_hides_no_other(tmp_path: Path) -> None:
    images = image_set(str(write_images(tmp_path / "photos", 3)))
    root = tmp_path / "stores"
    good = built_store(root, images, tiny_backbone()).files.root
    bad = built_store(root, images, tiny_backbone(seed=1)).files.root
    (bad / "plan.json").write_text("{")
    (root / ".temporary").mkdir()
    (root / ".temporary/plan.json").write_text("{")
    found, damaged = stores(root)
    assert [one.path for one in found] == [good]
    assert len(damaged) == 1
    assert str(bad) in damaged[0]


def test_no_root_is_no_store(tmp_path: Path) -> None:
    assert stores(tmp_path / "none") == ([], [])
