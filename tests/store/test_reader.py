"""The reading side: order, bounds, and everything that must be an error instead of a wrong number."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray

from posenet_store.errors import StoreError, UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.files import sha256_file
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.records import add_digest, describe_file
from tests.support.disks import mount_disk
from tests.support.small import built_store, folder, tiny_backbone, write_images

ROWS, BAD = 30, ("image004.png", "image011.png")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """30 rows in blocks of four, two of them quarantined."""
    root = tmp_path_factory.mktemp("reader")
    folder = write_images(root / "photos", ROWS)
    for name in BAD:
        (folder / name).write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4)
    return open_store(build_store(images, backbone, plan, root / "stores", max_unreadable=0.1).path)


def test_scan_gives_the_readable_rows_in_order(reader: Reader) -> None:
    rows = np.concatenate([values["f3"] for values in reader.scan(["f3"], 3, 21)])
    expected = reader.read("f3", 3, 21)[reader.readable[3:21]]
    np.testing.assert_array_equal(rows, expected)
    assert np.isfinite(rows).all()
    assert reader.readable.sum() == ROWS - len(BAD)


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
@pytest.mark.parametrize("pool_rows", [1, 9, 10_000])
def test_an_epoch_is_every_readable_row_once_in_full_batches(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, batch_size: int, pool_rows: int
) -> None:
    row_bytes = 2 * (16 * 4 * 4 + 9 * 28 * 28)
    monkeypatch.setattr("posenet_store.store.reader.POOL_BYTES", pool_rows * row_bytes)
    names = ["f3", "aligned"]
    order = np.concatenate(reader.epoch(names, 2, 27, seed=1, epoch=3))
    assert sorted(order.tolist()) == [row for row in range(2, 27) if reader.readable[row]]
    batches = list(reader.batches(names, 2, 27, batch_size=batch_size, seed=1, epoch=3))
    sizes = [len(batch["f3"]) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(sizes) == len(order)
    for name in names:
        stored = reader.read(name, 0, ROWS)
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), stored[order])


def test_the_order_is_a_function_of_seed_and_epoch(reader: Reader) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        rows: list[int] = np.concatenate(reader.epoch(["f3"], 0, ROWS, seed=seed, epoch=epoch)).tolist()
        return rows

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_reader_travels_as_its_path(reader: Reader) -> None:
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read("f1", 0, 2), reader.read("f1", 0, 2))


@pytest.mark.parametrize(
    "use",
    [
        lambda reader: reader.read("f9", 0, 1),
        lambda reader: list(reader.scan(["f9"])),
        lambda reader: reader.batches(["f9"], 0, 8, batch_size=2, seed=0, epoch=0),
        lambda reader: reader.torch(["f9"], batch_size=2, shuffle=False),
        lambda reader: reader.dask("f9"),
        lambda reader: reader["f9"],
        lambda reader: reader[0:3],
        lambda reader: reader.scan("f9"),
        lambda reader: reader.batches([]),
    ],
)
def test_an_unknown_array_names_the_known(reader: Reader, use: Callable[[Reader], object]) -> None:
    with pytest.raises(UsageError, match="f1, f2, f3, aligned"):
        use(reader)


def test_a_reader_shows_what_it_holds(reader: Reader) -> None:
    shown = repr(reader)
    assert shown.startswith(f"<Reader {reader.name}>")
    for fact in (reader.spec.network, "28 of 30 rows", "f3 [30, 16, 4, 4]", "float16", "sealed"):
        assert fact in shown
    assert (len(reader), [tap.name for tap in reader.taps]) == (ROWS, ["f1", "f2", "f3"])


def test_a_spec_and_a_plan_are_shown_in_one_line(reader: Reader) -> None:
    for shown in (repr(reader.spec), repr(reader.plan)):
        assert "\n" not in shown
        assert all(fact in shown for fact in (reader.name, reader.spec.images, f"{ROWS} rows"))


def test_a_readers_table_for_notebooks_is_escaped(reader: Reader) -> None:
    copy = open_store(folder(reader))
    copy.plan = replace(copy.plan, spec=replace(copy.spec, images="<b>"))
    assert "&lt;b&gt;" in copy._repr_html_()
    assert "<b>" not in copy._repr_html_()


def test_by_default_everything_is_read(reader: Reader) -> None:
    (batch, *_), rows = list(reader.batches()), int(reader.readable.sum())
    assert set(batch) == set(reader.spec.arrays)
    assert len(batch["f1"]) == rows < 32
    assert sum(len(values["f2"]) for values in reader.batches("f2", 4, batch_size=3)) == reader.readable[4:].sum()
    assert sum(len(values["f3"]) for values in reader.scan()) == rows
    assert reader.read("f3").shape == (ROWS, 16, 4, 4)
    assert sum(len(batch["row"]) for batch in reader.torch()) == rows


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda reader: reader.batches(batch_size=-1), ["batch_size", "-1", "at least 1"]),
        (lambda reader: reader.batches(batch_size=2.5), ["batch_size", "2.5"]),
        (lambda reader: reader.batches(stop=31), ["0-31", "0-30"]),
        (lambda reader: reader.batches(start=-1), ["-1-30"]),
        (lambda reader: reader.batches(seed=-1), ["seed", "-1"]),
        (lambda reader: reader.batches(epoch=-1), ["epoch", "-1"]),
        (lambda reader: reader.epoch(start=5, stop=4), ["5-4"]),
        (lambda reader: reader.scan(stop=31), ["0-31", "0-30"]),
        (lambda reader: reader.torch(batch_size=0), ["batch_size", "0", "at least 1"]),
        (lambda reader: reader.torch(rows=(0, 31)), ["0-31", "0-30"]),
        (lambda reader: reader.torch(rank=(2, 2)), ["rank", "(2, 2)"]),
        (lambda reader: reader.torch(position=-1), ["position", "-1"]),
        (lambda reader: reader.torch(seed=-1), ["seed", "-1"]),
        (lambda reader: reader.read("f1", 0.5), ["0.5-30"]),
        (lambda reader: reader.rows_of("image04.png"), ["image04.png", "did you mean 'image0", "30"]),
    ],
)
def test_what_can_not_be_asked_is_refused_at_once(reader: Reader, use: Callable[[Reader], object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        use(reader)
    assert all(word in str(caught.value) for word in words), caught.value


def test_rows_are_found_by_image(reader: Reader) -> None:
    rows = reader.rows_of("image007.png", "image002.png")
    assert [reader.ids[row] for row in rows] == ["image007.png", "image002.png"]
    np.testing.assert_array_equal(reader["f3"][rows], reader.read("f3")[rows])


def test_arrays_complete_by_name_and_a_reader_is_not_iterated(reader: Reader) -> None:
    assert reader._ipython_key_completions_() == ["f1", "f2", "f3", "aligned"]
    assert "f1" in reader
    assert "f9" not in reader
    with pytest.raises(TypeError, match="not iterable"):
        iter(reader)  # type: ignore[call-overload]


def test_a_home_folder_is_expanded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder(reader).parent))
    assert open_store(f"~/{reader.name}").ids == reader.ids


def test_reading_changes_nothing_on_disk(reader: Reader) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder(reader).rglob("*")}

    before = state()
    list(open_store(folder(reader)).batches(["f1", "aligned"], 0, ROWS, batch_size=4, seed=0, epoch=0))
    assert state() == before


def _all_of(store: Reader) -> None:
    """Read everything that there is to read, each way."""
    list(store.batches(list(store.spec.arrays), 0, ROWS, batch_size=4, seed=0, epoch=0))
    list(store.scan(list(store.spec.arrays)))


def test_a_store_without_write_permission_is_read(reader: Reader, tmp_path: Path) -> None:
    """Weak as root, who may write anyway; the next test is not."""
    store = Path(shutil.copytree(folder(reader), tmp_path / folder(reader).name))
    places = [store, *store.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in places}
    try:
        _all_of(open_store(store))
        assert {path: path.stat().st_mtime_ns for path in (store, *store.rglob("*"))} == before
    finally:
        for path in places:  # pytest removes it later
            path.chmod(0o755)


@pytest.mark.system
def test_a_store_on_a_disk_that_is_mounted_read_only_is_read(reader: Reader, tmp_path: Path) -> None:
    with mount_disk(disk := tmp_path / "disk", "16m") as remount:
        store = Path(shutil.copytree(folder(reader), disk / folder(reader).name))
        remount("ro")
        with pytest.raises(OSError, match="Read-only file system"):
            (disk / "proof").touch()
        _all_of(open_store(store))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_store_in_the_making_is_refused(tmp_path: Path, file_format: str) -> None:
    images, backbone = load_image_set(str(write_images(tmp_path / "photos", 9))), tiny_backbone()
    plan = plan_store(images, backbone, "aligned", "float32", 4, file_format)
    half = build_store(images, backbone, plan, tmp_path / "stores", part=(1, 2)).path
    with pytest.raises(StoreError, match="is not sealed: its build has not finished") as caught:
        open_store(half)
    assert str(half) in str(caught.value)


def test_another_program_sees_nan_where_a_piece_is_missing(reader: Reader, tmp_path: Path) -> None:
    """It knows nothing of our records; a zero would pass for a feature."""
    store = Path(shutil.copytree(folder(reader), tmp_path / folder(reader).name))
    (store / "data.zarr/f2/c.3.0.0.0").unlink()
    with xarray.open_zarr(store / "data.zarr", consolidated=False) as data:
        assert tuple(data["image_id"].values) == reader.ids
        values = data["f2"].values
    assert np.isnan(values[12:16]).all()
    np.testing.assert_array_equal(values[16:], reader.read("f2", 16, ROWS))


def _edited(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _spec(content: dict[str, object]) -> dict[str, object]:
    spec = content["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda store: (store / "manifest.json").unlink(), "is not sealed: .*rerun the build-store command to resume"),
        (lambda store: (store / "plan.json").unlink(), r"plan\.json is missing"),
        (lambda store: (store / "plan.json").write_text("{"), r"plan.json is not valid JSON"),
        (lambda store: (store / "plan.json").write_text("[]"), r"plan.json holds a list"),
        (lambda store: _edited(store / "plan.json", lambda c: _spec(c).update(dtype="float32")), "own fingerprint"),
        (lambda store: _edited(store / "plan.json", lambda c: c.update(image_ids=["a"])), "own fingerprint"),
        (
            lambda store: _edited(store / "plan.json", lambda c: _spec(c).update(dtype="float64")),
            "foreign field: unknown dtype",
        ),
        (
            lambda store: _edited(store / "plan.json", lambda c: c.update(image_ids=None)),
            "another type or size in 'image_ids",
        ),
        (
            lambda store: _edited(store / "plan.json", lambda c: c.update(files=[{}])),
            "another type or size in 'files",
        ),
        (lambda store: _edited(store / "plan.json", lambda c: c.update(version=2)), "version 2; this program reads"),
        (lambda store: _edited(store / "plan.json", lambda c: c.pop("order")), "lacks 'order'"),
        (
            lambda store: _edited(store / "plan.json", lambda c: _spec(c).pop("taps")),
            "another type or size in 'spec",
        ),
        (lambda store: _edited(store / "manifest.json", lambda c: c.update(rows=29)), "manifest.json was edited or damaged"),
        (lambda store: _edited(store / "plan.json", lambda c: c.update(provenance={})), "plan.json was edited or damaged"),
        (lambda store: _edited(store / "data.zarr/f2/zarr.json", lambda c: c.update(fill_value=0)), "zarr.json has"),
        (lambda store: (store / "commits/b00003.json").unlink(), "b00003.json is missing"),
        (lambda store: _edited(store / "commits/b00003.json", lambda c: c.update(block=4)), "b00003.json is not the record"),
        (lambda store: (store / "data.zarr/image_id/c/0").unlink(), "image_id/c/0 is missing"),
        (lambda store: _flipped(store / "data.zarr/image_id/c/0"), "image_id/c/0 holds other bytes"),
        (lambda store: _flipped(store / "data.zarr/f2/zarr.json"), "zarr.json holds other bytes"),
        (lambda store: _flipped(store / "data.zarr/f2/c.3.0.0.0"), "f2/c.3.0.0.0 holds other bytes than were written; block 3"),
        (lambda store: (store / "data.zarr/f2/c.3.0.0.0").unlink(), "c.3.0.0.0 is missing; block 3"),
        (lambda store: _truncated(store / "data.zarr/f2/c.3.0.0.0"), r"c.3.0.0.0 has \d+ bytes instead of \d+; block 3"),
        (lambda store: (store / "data.zarr/f2/c.3.0.0.0").write_bytes(b"x"), "c.3.0.0.0 has 1 bytes instead of"),
    ],
)
def test_what_is_damaged_is_an_error_that_names_it(
    reader: Reader, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    store = tmp_path / folder(reader).name
    shutil.copytree(folder(reader), store)
    harm(store)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(store).read("f2", 0, ROWS)
    assert str(store) in str(caught.value)


def test_a_manifest_of_another_store_is_refused(reader: Reader, tmp_path: Path) -> None:
    store = tmp_path / folder(reader).name
    shutil.copytree(folder(reader), store)
    shutil.copy(
        (folder(built_store(tmp_path, load_image_set("probes"), tiny_backbone())) / "manifest.json"), store / "manifest.json"
    )
    with pytest.raises(StoreError, match=r"manifest.json belongs to another store than plan.json") as caught:
        open_store(store)
    assert str(store) in str(caught.value)


def test_blocks_of_another_shape_are_refused(reader: Reader, tmp_path: Path) -> None:
    """A writer that recorded its own mistake: every digest fits, the arrays do not."""
    store = tmp_path / folder(reader).name
    shutil.copytree(folder(reader), store)
    _edited(store / "data.zarr/f2/zarr.json", lambda content: content.update(shape=[29, 12, 8, 8]))
    entries = [describe_file(store, store / entry["path"]) for entry in reader.plan.files]
    _edited(store / "plan.json", lambda content: content.update(files=entries))
    manifest = json.loads((store / "manifest.json").read_text()) | {"plan_sha256": sha256_file(store / "plan.json")}
    del manifest["sha256"]
    (store / "manifest.json").write_text(json.dumps(add_digest(manifest)))
    with pytest.raises(StoreError, match=r"f2/zarr.json says shape = \[29, 12, 8, 8\]; plan.json says \[30, 12, 8, 8\]"):
        open_store(store).read("f2", 0, 4)


@pytest.mark.parametrize("file_format", FORMATS)
def test_rows_outside_the_store_are_refused(tmp_path: Path, file_format: str) -> None:
    """Not clipped, and never what happened to be in memory."""
    store = built_store(tmp_path, load_image_set("probes"), tiny_backbone(), file_format=file_format)
    for start, stop in ((0, 4), (-2, 3), (3, 1), (3, 4)):
        with pytest.raises(UsageError, match=rf"rows {start}-{stop} are not rows of .*; it has rows 0-3"):
            store.read("f3", start, stop)
    assert [len(store.read("f3", start, 3)) for start in (0, 1, 3)] == [3, 2, 0]


def test_a_scan_ends_where_the_store_ends(reader: Reader) -> None:
    sizes = [len(values["f3"]) for values in reader.scan(["f3"])]
    assert sizes == [int(reader.readable[first:end].sum()) for first, end in reader.plan.bounds]
    assert list(reader.scan(["f3"], 5, 5)) == []


def test_an_empty_span_has_no_batch(reader: Reader) -> None:
    assert list(reader.batches(["f3"], 7, 7, batch_size=4, seed=0, epoch=0)) == []


def test_undamaged_blocks_of_a_damaged_store_can_still_be_read(reader: Reader, tmp_path: Path) -> None:
    store = tmp_path / folder(reader).name
    shutil.copytree(folder(reader), store)
    (store / "data.zarr/f2/c.3.0.0.0").unlink()
    np.testing.assert_array_equal(open_store(store).read("f2", 0, 12), reader.read("f2", 0, 12))
