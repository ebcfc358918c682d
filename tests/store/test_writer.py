"""The writing side of a store: the order of every write, what counts as committed, and what opening restores or refuses."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from posenet_store.errors import BuildError, StoreError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.files import canonical_json, sha256, sha256_file
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.access import StoreFiles
from posenet_store.store.feature_statistics import check_range, compute_row_statistics, compute_statistics, pool_statistics
from posenet_store.store.formats import list_block_files
from posenet_store.store.plan import Plan
from posenet_store.store.reader import open_store
from posenet_store.store.writer import QuarantinedImage, StoreWriter
from tests.support.disks import raise_full
from tests.support.small import built_store, folder, tiny_backbone, write_images

ROWS = 10  # two blocks of four and a tail of two


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_image_set(str(write_images(tmp_path_factory.mktemp("store") / "photos", ROWS)))


@pytest.fixture(scope="module")
def sealed(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store; tests damage copies of it."""
    return folder(built_store(tmp_path_factory.mktemp("sealed"), images, tiny_backbone()))


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / sealed.name))


def plan_of(images: ImageSet, file_format: str = "zarr") -> Plan:
    return plan_store(images, tiny_backbone(), "native", "float32", 4, file_format)


def rebuilt(images: ImageSet, root: Path) -> BuildResult:
    """Type the command again."""
    return build_store(images, tiny_backbone(), plan_of(images), root, batch_size=2)


def arrays_of(plan: Plan, block: int) -> dict[str, NDArray[Any]]:
    """Some features of a block's rows."""
    start, stop = plan.bounds[block]
    rng = np.random.default_rng(block)
    return {name: rng.random((stop - start, *shape), dtype=np.float32) for name, shape in plan.spec.arrays.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(path: Path) -> None:
    """Flip a bit in the first name of a JSON file (in the middle it may be a number's 17th digit), in the middle of others."""
    data = bytearray(path.read_bytes())
    data[4 if path.suffix == ".json" else len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file by hand."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def synced_and_renamed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Listen to every fsync, and to every rename or link by which a file gets its name, from here on."""
    events: list[tuple[str, Path]] = []
    fsync, rename, replace, link = os.fsync, Path.rename, Path.replace, os.link

    def heard_fsync(descriptor: int) -> None:
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def heard_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target))
        return rename(path, target)

    def heard_replace(path: Path, target: Path) -> Path:
        events.append(("rename", target))
        return replace(path, target)

    def heard_link(path: Path, target: Path) -> None:
        events.append(("rename", target))
        link(path, target)

    monkeypatch.setattr(os, "fsync", heard_fsync)
    monkeypatch.setattr(os, "link", heard_link)
    monkeypatch.setattr(Path, "rename", heard_rename)
    monkeypatch.setattr(Path, "replace", heard_replace)
    return events


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_block_is_on_disk_before_its_record(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    plan = plan_of(images, file_format)
    writer = StoreWriter.open(tmp_path, plan)
    with monkeypatch.context() as patch:
        events = synced_and_renamed(patch)
        writer.commit(1, arrays_of(plan, 1), [])
    data = [writer.files.root / name for name in list_block_files(plan.spec, 1)]
    expected = [*data, writer.files.commit(1)]
    renamed = [path for what, path in events if what == "rename"]
    assert (set(renamed), renamed[-1]) == (set(expected), expected[-1])  # data in any order, then the record
    for path in expected:
        index = events.index(("rename", path))
        before = [where.name for what, where in events[:index] if what == "fsync" and where.parent == path.parent]
        assert any(path.name in name for name in before)  # the temporary that becomes it
        assert ("fsync", path.parent) in events[index + 1 : events.index(("rename", expected[-1])) + 2]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_new_store_is_on_disk_before_it_has_its_name(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    plan = plan_of(images, file_format)
    with monkeypatch.context() as patch:
        events = synced_and_renamed(patch)
        store = StoreWriter.open(tmp_path, plan).files.root
    named = events.index(("rename", store))
    assert events[named + 1 :] == [("fsync", tmp_path)]
    synced = {path.name for what, path in events[:named] if what == "fsync" and path.parent == tmp_path}
    assert len(synced) == 1
    temporary = tmp_path / synced.pop()
    for path in [store, *store.rglob("*")]:
        if path.is_file() or any(path.iterdir()):  # an entry of a folder that is not synced can be lost
            inside = temporary / path.relative_to(store)
            replaced = any(e[1].name.startswith(f".{path.name}.") and e[1].parent == inside.parent for e in events[:named])
            assert ("fsync", inside) in events[:named] or replaced, f"{path.relative_to(store)} is not synced"


def test_a_block_that_is_committed_is_not_written_again(images: ImageSet, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a second builder, for example, whose features differ in their last bits."""
    before, writer = contents(copy), StoreWriter.open(copy.parent, plan_of(images))
    events = synced_and_renamed(monkeypatch)
    writer.commit(1, arrays_of(writer.plan, 1), [])
    assert (events, contents(copy)) == ([], before)


@pytest.mark.parametrize("function", ["store.skeleton", "files", "store.formats.zarr"])
def test_a_disk_that_is_full_at_the_very_start(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"posenet_store.{function}.fsync", raise_full)
        with pytest.raises(OSError, match="No space left"):
            StoreWriter.open(tmp_path, plan_of(images))
    assert not list(tmp_path.glob(".*"))
    assert not list(tmp_path.glob("*/commits/*"))
    assert rebuilt(images, tmp_path).extracted == ROWS


def test_a_disk_that_is_full_at_the_last_moment_leaves_a_store_to_be_sealed(
    images: ImageSet, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "manifest.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("posenet_store.files.fsync", raise_full)
        with pytest.raises(OSError, match="No space left"):
            rebuilt(images, copy.parent)
    with pytest.raises(StoreError, match="is not sealed"):
        open_store(copy)
    assert rebuilt(images, copy.parent).extracted == 0
    open_store(copy)


def test_two_builders_of_a_new_store_share_it(images: ImageSet, sealed: Path, tmp_path: Path) -> None:
    plan = plan_of(images)
    first, second = StoreWriter.open(tmp_path, plan), StoreWriter.open(tmp_path, plan)
    assert (first.files, first.plan) == (second.files, second.plan)
    reader = open_store(sealed)
    for block, (start, stop) in enumerate(plan.bounds):
        writer = first if block % 2 else second
        writer.commit(block, {name: reader.read(name, start, stop) for name in reader.spec.arrays}, [])
    second.seal({})
    assert first.sealed
    assert open_store(first.files.root).manifest["store_id"] == reader.manifest["store_id"]


def test_the_builder_whose_rename_comes_second_takes_the_firsts_store(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, rename = plan_of(images), Path.rename

    def beaten(path: Path, target: Path) -> Path:
        shutil.copytree(path, target)
        (target / "winner").touch()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", beaten)
        writer = StoreWriter.open(tmp_path, plan)
    assert [path.name for path in tmp_path.iterdir()] == [plan.spec.folder]
    assert (writer.files.root / "winner").exists()
    assert writer.list_missing() == [0, 1, 2]
    assert rebuilt(images, tmp_path).missing == 0


def test_records_that_are_not_listed_are_not_looked_up(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network disks remember for a while that a name was missing, so that nobody would see the last block."""
    writer, asked = StoreWriter.open(tmp_path, plan_of(images)), list[int]()
    monkeypatch.setattr(StoreWriter, "find_record", lambda self, block, deep=False: asked.append(block))
    assert writer.list_missing() == [0, 1, 2]
    assert asked == []
    writer.files.commit(1).touch()
    assert writer.list_missing() == [0, 1, 2]
    assert asked == [1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_only_others_may_write_is_an_error_before_the_network_runs(images: ImageSet, tmp_path: Path) -> None:
    commits = StoreWriter.open(tmp_path, plan_of(images)).files.commits
    commits.chmod(0o555)
    with pytest.raises(PermissionError):
        StoreWriter.open(tmp_path, plan_of(images))


def test_a_rename_that_fails_for_another_reason_is_an_error_and_leaves_nothing(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        StoreWriter.open(tmp_path, plan_of(images))
    assert not list(tmp_path.iterdir())


def test_a_record_that_changed_since_sealing_is_never_sealed_again(tmp_path: Path) -> None:
    """Otherwise the row of the unreadable image, which is NaN, would be readable from then on."""
    folder = write_images(tmp_path / "photos", ROWS)
    (folder / "image003.png").write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_of(images)
    store = build_store(images, backbone, plan, tmp_path, batch_size=2, max_unreadable=0.2).path
    before = contents(store)
    block = plan.ids.index("image003.png") // 4
    edit(store / f"commits/b{block:05d}.json", lambda record: record.update(quarantined=[]))
    outcome = build_store(images, backbone, plan, tmp_path, batch_size=2, max_unreadable=0.2)
    assert outcome.extracted == plan.bounds[block][1] - plan.bounds[block][0]
    assert [entry.image_id for entry in outcome.quarantined] == ["image003.png"]
    after = contents(store)
    assert {name for name in before if after.get(name) != before[name]} <= {"manifest.json"}
    assert np.isfinite(np.concatenate([values["f1"] for values in open_store(store).scan(["f1"])])).all()


def test_a_manifest_of_another_store_condemns_no_record(images: ImageSet, copy: Path, tmp_path: Path) -> None:
    other = folder(built_store(tmp_path / "other", images, tiny_backbone(seed=1)))
    shutil.copy(other / "manifest.json", copy / "manifest.json")
    assert not StoreWriter.open(copy.parent, plan_of(images)).sealed
    assert rebuilt(images, copy.parent).extracted == 0
    open_store(copy)


def test_what_is_restored_is_on_disk_before_the_build_goes_on(
    images: ImageSet, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(copy / "data.zarr/f2/zarr.json")
    with monkeypatch.context() as patch:
        events = synced_and_renamed(patch)
        StoreWriter.open(copy.parent, plan_of(images))
    restored = [index for index, (what, path) in enumerate(events) if what == "rename" and path.is_relative_to(copy)]
    assert {events[index][1].name for index in restored} >= {"plan.json", "zarr.json"}
    assert all(events[index + 1] == ("fsync", events[index][1].parent) for index in restored)


@pytest.mark.parametrize("name", ["commits/b00001.json", "plan.json"])
def test_a_file_that_goes_while_the_manifest_is_written_is_named(
    name: str, images: ImageSet, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = StoreWriter(StoreFiles(copy), plan_of(images))
    writer.files.manifest.unlink()
    monkeypatch.setattr("posenet_store.store.formats.zarr.finish", lambda folder, spec: (copy / name).unlink(missing_ok=True))
    with pytest.raises((BuildError, StoreError), match=r"1 blocks are missing, the first is 1|plan\.json is missing"):
        writer.seal({})
    assert not writer.files.manifest.exists()


def test_a_provenance_that_was_damaged_since_sealing_is_restored(images: ImageSet, copy: Path) -> None:
    """It is in no fingerprint, only in the manifest's digest of the plan; to seal again would declare it undamaged."""
    plan = json.loads((copy / "plan.json").read_text())
    right = plan["provenance"]["probe"]
    plan["provenance"]["probe"] = {"f1": {"mean": 0.0, "rms": 1.0, "values": [0.0] * 16}}
    (copy / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(StoreError, match="edited or damaged since the store was sealed"):
        open_store(copy)
    assert rebuilt(images, copy.parent).extracted == 0
    assert open_store(copy).plan.provenance["probe"] == right


def test_a_folder_that_is_no_store_is_refused_and_left_alone(images: ImageSet, tmp_path: Path) -> None:
    plan = plan_of(images)
    path = tmp_path / plan.spec.folder
    path.mkdir()
    (path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not a store; move it away"):
        StoreWriter.open(tmp_path, plan)
    assert contents(path) == {"thesis.txt": b"mine"}


def test_a_store_of_another_fingerprint_is_refused_and_left_alone(images: ImageSet, copy: Path) -> None:
    other = plan_store(images, tiny_backbone(seed=1), "native", "float32", 4)
    path = copy.rename(copy.with_name(other.spec.folder))
    before = contents(path)
    with pytest.raises(StoreError, match="belongs to fingerprint"):
        build_store(images, tiny_backbone(seed=1), other, path.parent)
    assert contents(path) == before


def test_leftovers_of_killed_writes_do_no_harm(images: ImageSet, sealed: Path, tmp_path: Path) -> None:
    plan = plan_of(images)
    writer = StoreWriter.open(tmp_path, plan)
    for name in ("commits/.b00000.json.abc.tmp", "data.zarr/f1/.c.0.0.0.0.abc.tmp", ".manifest.json.abc.tmp"):
        (writer.files.root / name).write_bytes(b"half of it")
    (tmp_path / f".{plan.spec.folder}.abc.tmp/commits").mkdir(parents=True)
    assert writer.list_missing() == [0, 1, 2]
    store = rebuilt(images, tmp_path).path
    actual = {name: data for name, data in contents(store).items() if not name.endswith(".tmp")}
    expected = contents(sealed)
    assert actual.keys() == expected.keys()
    assert {name for name in actual if actual[name] != expected[name]} <= {"plan.json", "manifest.json"}
    open_store(store)


def test_the_manifest_says_what_the_records_say(sealed: Path) -> None:
    files = StoreFiles(sealed)
    manifest = json.loads(files.manifest.read_text())
    records = [json.loads(files.commit(block).read_text()) for block in range(3)]
    digests = [sha256_file(files.commit(block)) for block in range(3)]
    assert manifest["commits_sha256"] == digests
    assert manifest["store_id"] == sha256(canonical_json(digests))
    assert manifest["plan_sha256"] == sha256_file(files.plan)
    assert manifest["rows"] == ROWS
    assert [record["rows"] for record in records] == [[0, 4], [4, 8], [8, 10]]
    assert {record["fingerprint"] for record in records} == {manifest["fingerprint"]}
    shards = sorted(path for path in sealed.rglob("c.*") if path.is_file())
    named = {entry["path"]: entry for record in records for entry in record["files"]}
    assert sorted(named) == [path.relative_to(sealed).as_posix() for path in shards]
    for path in shards:
        entry = named[path.relative_to(sealed).as_posix()]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, sha256_file(path))
    assert manifest["bytes"] == sum(path.stat().st_size for path in shards)


@pytest.mark.parametrize("harm", ["manifest", "record", "plan"])
def test_sealed_means_that_the_manifest_names_what_is_there(images: ImageSet, copy: Path, harm: str) -> None:
    writer = StoreWriter.open(copy.parent, plan_of(images))
    assert writer.sealed
    damage({"manifest": copy / "manifest.json", "record": copy / "commits/b00002.json", "plan": copy / "plan.json"}[harm])
    assert not writer.sealed


def test_a_quarantined_image_is_in_the_record_and_not_in_the_statistics(images: ImageSet, tmp_path: Path) -> None:
    plan = plan_of(images)
    writer = StoreWriter.open(tmp_path, plan)
    arrays = arrays_of(plan, 2)
    for values in arrays.values():
        values[1] = np.nan
    bad = QuarantinedImage(9, plan.ids[9], "torn")
    writer.commit(2, arrays, [bad])
    assert StoreWriter.open(tmp_path, plan).list_quarantined() == [bad]
    actual = writer.list_records()[0]["statistics"]["f1"]
    assert (actual["count"], actual["max"]) == (arrays["f1"][0].size, float(arrays["f1"][0].max()))


@pytest.mark.parametrize("value", [65504.0, -65504.0, 6e-8, 0.0])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_fits_passes(value: float, dtype: str) -> None:
    check_range("f1", min(value, 0), max(value, 0), dtype)


@pytest.mark.parametrize("value", [65505.0, -70000.0, 3e38])
def test_what_float16_can_not_hold_is_refused_with_the_way_out(value: float) -> None:
    with pytest.raises(BuildError, match=r"tap f4 reaches .*float16 holds \(65504\).*--dtype float32") as caught:
        check_range("f4", min(value, 0), max(value, 0), "float16")
    assert f"reaches {abs(value):.4g}," in str(caught.value)
    check_range("f4", min(value, 0), max(value, 0), "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_that_are_not_finite_are_refused_whatever_the_dtype(value: float, dtype: str) -> None:
    for extremes in ((value, 1.0), (0.0, value)):
        with pytest.raises(BuildError, match="tap f2 holds NaN or infinite features"):
            check_range("f2", *extremes, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_statistics_are_numpys(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(0, 300, (37, 3, 5, 5)), 0).astype(dtype)  # squares beyond float16
    rows = [row for row in range(37) if row not in (0, 17, 36)]
    values[[0, 17, 36]] = np.nan
    exact = values[rows].astype(np.float64)
    actual = compute_statistics({"f1": values}, rows)["f1"]
    assert (actual["count"], actual["min"], actual["max"]) == (exact.size, exact.min(), exact.max())
    assert actual["mean"] == pytest.approx(exact.mean(), rel=1e-6)  # a row is summed in float32
    assert actual["mean_square"] == pytest.approx(np.square(exact).mean(), rel=1e-6)  # squares are float32
    assert actual["zeros"] == pytest.approx((exact == 0).mean(), rel=1e-12)


def test_pooled_statistics_are_those_of_the_whole_even_with_empty_parts() -> None:
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)

    def compute(rows: Sequence[int]) -> dict[str, float]:
        return compute_statistics({"f1": values}, rows)["f1"]

    parts = [compute(rows) for rows in (range(3), range(3, 3), range(3, 29), [29])]
    assert pool_statistics(parts) == pytest.approx(compute(range(30)), rel=1e-12)
    assert pool_statistics([compute([]), {"count": 0}]) == {"count": 0}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_converted_without_threads_of_torch(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Each thread that encodes would start a team of them: 274 threads on 16 cores."""
    sizes, copy, values = list[int](), torch.Tensor.copy_, np.random.default_rng(0).normal(size=(64, 40, 40)).astype(dtype)

    def note(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        sizes.append(source.numel())
        return copy(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", note)
    assert compute_row_statistics(values)["mean"] == float(values.astype(np.float32).mean())
    assert (sum(sizes), max(sizes)) == (values.size, 32767)  # torch shares out what is larger


def test_a_block_that_does_not_read_back_is_an_error_and_no_endless_loop(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posenet_store.store.writer.ATTEMPTS", 3)
    writer = StoreWriter.open(tmp_path, plan_of(images))
    monkeypatch.setattr(StoreWriter, "find_record", lambda self, block, deep=False: None)
    with pytest.raises(BuildError, match=r"block 1 of .* does not read back .* 3 times: check the disk"):
        writer.commit(1, arrays_of(writer.plan, 1), [])
    assert not list(tmp_path.rglob("*.tmp"))
