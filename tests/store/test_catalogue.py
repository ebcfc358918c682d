"""The list of stores below a root."""

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from posenet_store.errors import UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import describe_store, list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.reader import open_store
from tests.support.small import built_store, folder, tiny_backbone, write_images


def test_sealed_and_growing_stores_are_told_apart(tmp_path: Path) -> None:
    images, backbone = load_image_set(str(write_images(tmp_path / "photos", 14))), tiny_backbone()
    root = tmp_path / "stores"
    sealed = folder(built_store(root, images, backbone))
    half = build_store(images, backbone, plan_store(images, backbone, "aligned", "float32", 4), root, part=(1, 2)).path
    infos, damaged = list_stores(root)
    assert damaged == []
    assert {info.path: info.to_dict()["state"] for info in infos} == {sealed: "sealed", half: "2 of 4 blocks"}
    for info in infos:
        assert all(fact in repr(info) for fact in (info.path.name, info.spec.images, info.state))
    files = [path for path in sealed.rglob("*") if path.name.startswith("c.")]
    assert describe_store(sealed).bytes == sum(path.stat().st_size for path in files)


def test_a_damaged_store_is_reported_and_hides_no_other(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 3)))
    root = tmp_path / "stores"
    good = folder(built_store(root, images, tiny_backbone()))
    bad = folder(built_store(root, images, tiny_backbone(seed=1)))
    (bad / "plan.json").write_text("{")
    (root / ".temporary").mkdir()
    (root / ".temporary/plan.json").write_text("{")
    infos, damaged = list_stores(root)
    assert [info.path for info in infos] == [good]
    assert len(damaged) == 1
    assert str(bad) in damaged[0]


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store; tests damage copies of it."""
    return folder(built_store(tmp_path_factory.mktemp("catalogue"), load_image_set("probes"), tiny_backbone()))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("plan.json", "[]", "holds a list"),
        ("plan.json", "{}", "of format None"),
        ("plan.json", '{"format": "posenet_store", "version": 1}', "lacks 'fingerprint'"),
        ("manifest.json", "", "not valid JSON"),
        ("manifest.json", "{}", "manifest.json was edited or damaged"),
        ("manifest.json", '{"bytes": "many", "quarantined": null}', "manifest.json was edited or damaged"),
    ],
)
def test_whatever_is_damaged_is_a_line_and_no_crash(probes: Path, tmp_path: Path, file: str, content: str, said: str) -> None:
    store = Path(shutil.copytree(probes, tmp_path / probes.name))
    (store / file).write_text(content)
    infos, damaged = list_stores(tmp_path)
    assert infos == []
    assert len(damaged) == 1
    assert str(store) in damaged[0]
    assert said in damaged[0]


@pytest.mark.parametrize("content", ["", "{}", '{"block": 0, "files": [{"bytes": null}]}'])
def test_a_damaged_record_of_a_growing_store_is_a_block_less(probes: Path, tmp_path: Path, content: str) -> None:
    store = Path(shutil.copytree(probes, tmp_path / probes.name))
    (store / "manifest.json").unlink()
    (store / "commits/b00000.json").write_text(content)
    assert describe_store(store).state == "0 of 1 blocks"
    assert not open_store(store, unsealed=True).readable.any()


@pytest.mark.parametrize("key", ["layout", "dtype", "format", "rows", "taps"])
def test_a_plan_with_a_value_that_nothing_accepts_is_a_line_and_no_crash(probes: Path, tmp_path: Path, key: str) -> None:
    store = Path(shutil.copytree(probes, tmp_path / probes.name))
    plan = json.loads((store / "plan.json").read_text())
    plan["spec"][key] = "other"
    (store / "plan.json").write_text(json.dumps(plan))
    infos, (line,) = list_stores(tmp_path)
    assert infos == []
    assert str(store) in line


@pytest.mark.parametrize("seal", [True, False])
def test_an_entry_counts_rows_bytes_and_what_is_quarantined(tmp_path: Path, seal: bool) -> None:
    folder = write_images(tmp_path / "photos", 14)
    (folder / "image005.png").write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4)
    store = build_store(images, backbone, plan, tmp_path / "stores", max_unreadable=0.1).path
    if not seal:
        (store / "manifest.json").unlink()
    size = sum(path.stat().st_size for path in store.glob("data.zarr/*/c.*"))
    assert describe_store(store).to_dict() == {
        "name": plan.spec.folder,
        "network": "tiny-random0",
        "images": "photos",
        "rows": 14,
        "layout": "native",
        "dtype": "float16",
        "bytes": size,
        "compression": round(14 * count_row_bytes(plan.spec) / size, 2) if seal else None,
        "state": "sealed" if seal else "all 4 blocks, not sealed",
        "quarantined": 1,
        "fingerprint": plan.spec.fingerprint,
    }


def test_stores_come_by_name_and_other_folders_are_passed_over(probes: Path, tmp_path: Path) -> None:
    b, a = (Path(shutil.copytree(probes, tmp_path / name)) for name in ("b", "a"))
    shutil.copytree(probes, tmp_path / f".{probes.name}.abc.tmp")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").touch()
    infos, damaged = list_stores(tmp_path)
    assert [info.path for info in infos] == [a, b]
    assert damaged == []


def test_a_store_that_others_may_not_read_is_named_and_the_rest_goes_on(probes: Path) -> None:
    with TemporaryDirectory() as name:  # pytest's own folders are private
        root, user = Path(name), os.geteuid()
        secret, half = (Path(shutil.copytree(probes, root / store)) for store in ("secret", "half"))
        shutil.copytree(probes, root / "shared")
        (half / "manifest.json").unlink()
        for path, mode in ((root, 0o755), (secret, 0), (half / "commits", 0)):
            path.chmod(mode)
        os.seteuid(user or 65534)  # root may read everything
        try:
            infos, damaged = list_stores(root)
        finally:
            os.seteuid(user)
        for path in (secret, half / "commits"):
            path.chmod(0o755)
    assert [info.path.name for info in infos] == ["shared"]
    assert [line.split(" ")[0] for line in damaged] == [str(half), str(secret)]
    assert all("Permission denied" in line for line in damaged)


def test_no_root_is_no_store(tmp_path: Path) -> None:
    assert list_stores(tmp_path / "none") == ([], [])
    assert list_stores(tmp_path) == ([], [])


def test_a_folder_without_a_plan_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a store"):
        describe_store(tmp_path)
