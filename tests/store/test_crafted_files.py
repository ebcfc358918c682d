"""A store whose digests all fit, made on purpose: a sentence, and no byte outside of it is read or written."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numcodecs.zstd import Zstd

from posenet_store.errors import PosenetStoreError, StoreError, UsageError
from posenet_store.extraction.build import plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store import access, skeleton
from posenet_store.store.catalogue import list_stores
from posenet_store.store.convert import convert_store
from posenet_store.store.formats import zarr_shards
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from posenet_store.store.writer import StoreWriter
from tests.support.bad_server import Behaviour, serve_badly
from tests.support.servers import serve
from tests.support.sign import edit_json, sign_store
from tests.support.small import built_store, folder, tiny_backbone, write_images

ROWS, SHAPE, CHUNK = 2, (8, 16, 16), (2, 8, 16, 16)  # of the first block of f1
PART, RECORD = "parts/part-00000.h5", "commits/b00000.json"
ARRAY = "data.zarr/f1/zarr.json"
HUGE = 10**15


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("crafted")
    images, backbone = load_image_set(str(write_images(root / "photos", 3))), tiny_backbone()
    options: dict[str, Any] = {"dtype": "float16", "block_rows": ROWS}
    return {name: folder(built_store(root / "stores", images, backbone, file_format=name, **options)) for name in FORMATS}


@pytest.fixture
def zarr(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may edit."""
    return Path(shutil.copytree(stores["zarr"], tmp_path / "stores" / stores["zarr"].name))


@pytest.fixture
def parts(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A copy in HDF5 that a test may edit."""
    return Path(shutil.copytree(stores["hdf5"], tmp_path / "stores" / stores["hdf5"].name))


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """What is refused is refused before time is spent."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


def refuse_to_open(store: Path, said: str) -> None:
    """The store is refused, by `verify` too, with its path and a reason, and is listed as damaged."""
    with pytest.raises(StoreError) as error:
        open_store(store)
    try:
        lines = [damage.what for damage in find_damage(store, deep=True)]
    except StoreError as refused:
        lines = [str(refused)]
    for line in (str(error.value), next((line for line in lines if said in line), "")):
        assert said in line
        assert str(store) in line
        assert len(line) < 1000
    assert list_stores(store.parent)


def refuse_to_read(store: Path, said: str, tmp_path: Path) -> None:
    """The store's first block is refused by readers, by `verify --deep` and by `convert`, with the file's name."""
    sign_store(store)
    with pytest.raises(StoreError, match=said):
        open_store(store).read("f1", 0, ROWS)
    assert any(said in damage.what for damage in find_damage(store, deep=True))
    with pytest.raises(StoreError, match=said):
        convert_store(open_store(store), "zarr", tmp_path / "copies")


# names and places


@pytest.mark.parametrize("label", ["../../outside", "/tmp/outside", "..", "a/../../../b", "~/x"])
@pytest.mark.parametrize("field", ["backbone", "images"])
def test_a_copy_lies_below_the_folder_that_was_named(zarr: Path, tmp_path: Path, field: str, label: str) -> None:
    edit_json(zarr / "plan.json", spec=json.loads((zarr / "plan.json").read_text())["spec"] | {field: label})
    sign_store(zarr)
    root = tmp_path / "copies"
    assert convert_store(open_store(zarr), "hdf5", root).parent == root
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copies", "stores"]


@pytest.mark.parametrize("name", ["../f1", "/tmp/f1", "f9", "image_id", "zarr.json", "f1/x", "."])
def test_taps_have_the_names_that_this_program_gives(zarr: Path, name: str) -> None:
    spec = json.loads((zarr / "plan.json").read_text())["spec"]
    spec["taps"][0]["name"] = name
    edit_json(zarr / "plan.json", spec=spec)
    sign_store(zarr)
    refuse_to_open(zarr, "'spec'")


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero", "../../../etc/passwd", "x/../../y", "x" * 5000])
@pytest.mark.parametrize("name", ["plan.json", RECORD])
def test_files_outside_of_the_store_are_not_looked_at(zarr: Path, name: str, path: str) -> None:
    content = json.loads((zarr / name).read_text())
    edit_json(zarr / name, files=[content["files"][0] | {"path": path}, *content["files"][1:]])
    sign_store(zarr)
    if name == RECORD:
        with pytest.raises(StoreError, match="edited or damaged"):
            open_store(zarr).read("f1")
    else:
        refuse_to_open(zarr, "'files'")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", RECORD, ARRAY, "data.zarr/f1/c.0.0.0.0"])
def test_a_pipe_or_a_device_is_not_read(zarr: Path, name: str, kind: str) -> None:
    (zarr / name).unlink()
    os.mkfifo(zarr / name) if kind == "pipe" else (zarr / name).symlink_to("/dev/zero")
    with pytest.raises(StoreError):
        open_store(zarr).read("f1")
    plan = open_store(zarr).plan if name.startswith(("commits", "data.zarr/f1/c.0")) else None
    if plan:
        assert StoreWriter.open(zarr.parent, plan, zarr).list_missing(deep=True) == [0]


@pytest.mark.parametrize("name", ["commits", "data.zarr", "data.zarr/f1"])
def test_nothing_is_written_through_a_link(zarr: Path, tmp_path: Path, name: str) -> None:
    plan = open_store(zarr).plan
    (zarr / name).rename(tmp_path / "outside")
    (zarr / name).symlink_to(tmp_path / "outside")
    before = sorted((tmp_path / "outside").rglob("*"))
    (tmp_path / "outside/.x.tmp").touch()
    with pytest.raises(StoreError, match=f"{name} is a link"):
        StoreWriter.open(zarr.parent, plan)
    assert sorted((tmp_path / "outside").rglob("*")) == sorted([*before, tmp_path / "outside/.x.tmp"])


# parts in HDF5


def make_secret(path: Path) -> np.ndarray[Any, Any]:
    """Write a file of this machine that a crafted part names, in the form of a part; return what it holds."""
    values = np.full((ROWS, *SHAPE), 42, "float16")
    with h5py.File(path / "secret.h5", "w") as file:
        file.create_dataset("f1", data=values, chunks=CHUNK, compression="gzip")
    (path / "secret.bin").write_bytes(values.tobytes())
    return values


def add_virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, *SHAPE), "<f2")
    layout[...] = h5py.VirtualSource(secret / "secret.h5", "f1", (ROWS, *SHAPE), "<f2")
    file.create_virtual_dataset("f1", layout)


def add_dataset(**options: Any) -> Callable[[h5py.File, Path], None]:
    common = {"shape": (ROWS, *SHAPE), "dtype": "<f2", "chunks": CHUNK, "compression": "gzip"}
    return lambda file, secret: file.create_dataset("f1", **(common | options)).__setitem__(..., 1)


def add_external(file: h5py.File, secret: Path) -> None:
    size = ROWS * int(np.prod(SHAPE)) * 2
    file.create_dataset("f1", (ROWS, *SHAPE), "<f2", external=[(secret / "secret.bin", 0, size)])


CRAFTS: dict[str, Callable[[h5py.File, Path], object]] = {
    "external storage": add_external,
    "external link": lambda file, secret: file.__setitem__("f1", h5py.ExternalLink(secret / "secret.h5", "f1")),
    "soft link": lambda file, secret: file.__setitem__("f1", h5py.SoftLink("/f2")),
    "virtual": add_virtual,
    "group": lambda file, secret: file.create_group("f1"),
    "type": lambda file, secret: file.__setitem__("f1", np.dtype("<f2")),
    "empty": lambda file, secret: file.create_dataset("f1", data=h5py.Empty("<f2")),
    "scalar": lambda file, secret: file.create_dataset("f1", data=np.float16(1)),
    "text": lambda file, secret: file.create_dataset("f1", data=["x"] * ROWS, dtype=h5py.string_dtype()),
    "whole numbers": add_dataset(dtype="<i8"),
    "big-endian": add_dataset(dtype=">f2"),
    "more rows": add_dataset(shape=(ROWS + 1, *SHAPE)),
    "huge chunk": add_dataset(chunks=(64, *SHAPE), maxshape=(None, *SHAPE), shape=(ROWS, *SHAPE)),
    "other filter": add_dataset(compression="lzf"),
    "one more filter": add_dataset(shuffle=True),
    "never written": lambda file, secret: file.create_dataset("f1", (ROWS, *SHAPE), "<f2", chunks=CHUNK, compression="gzip"),
}


@pytest.mark.parametrize("craft", CRAFTS)
def test_a_part_gives_only_what_its_digest_covers(parts: Path, tmp_path: Path, craft: str) -> None:
    make_secret(tmp_path)
    with h5py.File(parts / PART, "r+") as file:
        del file["f1"]
        CRAFTS[craft](file, tmp_path)
    refuse_to_read(parts, PART, tmp_path)


@pytest.mark.parametrize("craft", ["external storage", "external link", "virtual"])
def test_a_part_from_a_server_names_no_file_of_this_machine(parts: Path, tmp_path: Path, craft: str) -> None:
    make_secret(tmp_path)
    with h5py.File(parts / PART, "r+") as file:
        del file["f1"]
        CRAFTS[craft](file, tmp_path)
    sign_store(parts)
    with serve(parts) as url, pytest.raises(StoreError, match=PART):
        open_store(url).read("f1", 0, ROWS)


# shards and metadata in Zarr


def write_shard(zarr: Path, chunk: bytes, entry: tuple[int, int] | None = None) -> None:
    """Replace a shard by one that holds one compressed chunk, and its index says so, or something else."""
    index = np.array([entry or (0, len(chunk))], zarr_shards.ENTRY).tobytes()
    (zarr / "data.zarr/f1/c.0.0.0.0").write_bytes(chunk + index + zarr_shards._checksum(index))


@pytest.mark.parametrize(
    "chunk",
    [
        Zstd(level=1).encode(b"12345678"),  # the rest of the buffer would stay as it was
        Zstd(level=1).encode(bytes(ROWS * int(np.prod(SHAPE)) * 2 + 2)),
        b"\x28\xb5\x2f\xfd\x00\x58" + (1 << 16 | 1).to_bytes(3, "little") + b"x",  # a frame that does not say its size
        b"",
        b"\x28\xb5\x2f\xfd",
    ],
)
def test_a_chunk_of_another_size_than_its_array_is_refused(zarr: Path, tmp_path: Path, chunk: bytes) -> None:
    write_shard(zarr, chunk)
    refuse_to_read(zarr, "f1", tmp_path)


@pytest.mark.parametrize("entry", [(2**64 - 2, 1), (0, 2**62), (2**63, 2**63), (2**62, 0)])
def test_a_chunk_beyond_its_file_is_refused(zarr: Path, tmp_path: Path, entry: tuple[int, int]) -> None:
    write_shard(zarr, Zstd(level=1).encode(bytes(ROWS * int(np.prod(SHAPE)) * 2)), entry)
    refuse_to_read(zarr, "f1", tmp_path)


METADATA = {
    "values big-endian": ('"endian": "little"', '"endian": "big"', 1),
    "index big-endian": ('"endian": "little"', '"endian": "big"', -1),
    "another type": ('"data_type": "float16"', '"data_type": "int16"', 1),
    "another key": ('"separator": "."', '"separator": "/"', 1),
    "a codec more": ('{"name": "bytes"', '{"name": "transpose", "configuration": {}}, {"name": "bytes"', 1),
    "a transformer": ('"storage_transformers": []', '"storage_transformers": ["x"]', 1),
    "inner chunks of other sides": ('"chunk_shape": [2, 8, 16, 16]', '"chunk_shape": [2, 16, 8, 16]', -1),
    "no rows": ('"chunk_shape": [2,', '"chunk_shape": [0,', -1),
    "negative rows": ('"chunk_shape": [2,', '"chunk_shape": [-1,', -1),
    "rows true": ('"chunk_shape": [2,', '"chunk_shape": [true,', -1),
    "rows as text": ('"chunk_shape": [2,', '"chunk_shape": ["2",', -1),
    "no codecs": ('"name": "bytes"', '"x": 0', 1),
    "codecs that are texts": ('{"name": "crc32c"}', '"crc32c"', 1),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_describe_other_bytes_are_refused(zarr: Path, tmp_path: Path, name: str) -> None:
    old, new, count = METADATA[name]
    text = json.dumps(json.loads((zarr / ARRAY).read_text()))
    assert old in text
    edited = text.replace(old, new, 1) if count == 1 else new.join(text.rsplit(old, 1))
    (zarr / ARRAY).write_text(edited)
    refuse_to_read(zarr, "zarr.json", tmp_path)


# sizes


SIZES: dict[str, dict[str, Any]] = {
    "rows of a block": {"block_rows": 10**18},
    "blocks": {"block_rows": 1, "rows": 3_000_000},
    "taps": {"taps": [{"name": f"f{number}", "module": "x", "shape": [1, 1, 1]} for number in range(1, 20_001)]},
    "bytes of a block": {"taps": [{"name": "f1", "module": "x", "shape": [2**23, 2**23, 2**23]}]},
    "side of the images": {"preprocess": {"size": 10**18}},
    "share of the images": {"preprocess": {"crop_pct": 10**18}},
    "label": {"images": "x" * 10**6},
}


@pytest.mark.parametrize("what", SIZES)
@pytest.mark.parametrize("sealed", [True, False])
def test_sizes_are_bounded(zarr: Path, what: str, sealed: bool) -> None:
    spec = json.loads((zarr / "plan.json").read_text())["spec"]
    spec |= SIZES[what] if "images" not in what else {"preprocess": spec["preprocess"] | SIZES[what]["preprocess"]}
    edit_json(zarr / "plan.json", spec=spec)
    sign_store(zarr)
    if not sealed:
        (zarr / "manifest.json").unlink()
    refuse_to_open(zarr, "not accepted" if what in ("rows of a block", "blocks", "bytes of a block") else "'spec'")
    assert len(list_stores(zarr.parent).damaged) == 1


def test_what_could_not_be_opened_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, backbone = load_image_set("probes"), tiny_backbone()
    with pytest.raises(UsageError, match="rows in a block"):
        plan_store(images, backbone, "native", "float16", 10**9)
    for module in (access, skeleton):
        monkeypatch.setattr(module, "JSON_BYTES", 1000)
    with pytest.raises(UsageError, match="need a plan of"):
        StoreWriter.open(tmp_path, plan_store(images, backbone, "native", "float16"))
    assert not list(tmp_path.iterdir())


def test_a_larger_file_than_any_of_a_store_is_not_read(zarr: Path) -> None:
    with (zarr / "plan.json").open("r+b") as file:
        file.truncate(20 << 30)  # sparse
    refuse_to_open(zarr, "at most")


@pytest.mark.parametrize("name", ["manifest.json", RECORD])
@pytest.mark.parametrize("rows", [[10**9], [0, 0], [*range(1000)]], ids=["beyond", "twice", "more than there are"])
def test_rows_that_are_quarantined_are_rows_of_the_store(zarr: Path, name: str, rows: list[int]) -> None:
    edit_json(zarr / name, quarantined=[{"row": row, "image_id": "x", "reason": "y"} for row in rows])
    sign_store(zarr)
    with pytest.raises(StoreError, match="does not fit"):
        open_store(zarr).read("f1")


def test_what_is_said_of_a_quarantined_row_has_no_other_fields(zarr: Path, tmp_path: Path) -> None:
    edit_json(zarr / RECORD, quarantined=[{"row": 0, "image_id": "x", "reason": "y", "more": 1}])
    sign_store(zarr)
    with pytest.raises(StoreError, match="b00000"):
        convert_store(open_store(zarr), "hdf5", tmp_path / "copies")


def test_a_file_is_named_once(zarr: Path) -> None:
    files = json.loads((zarr / "plan.json").read_text())["files"]
    edit_json(zarr / "plan.json", files=files[:1] * 10_000)
    refuse_to_open(zarr, "'files'")


@pytest.mark.parametrize("id_", ["\ud800", "a\0b"])
def test_image_ids_can_be_written(zarr: Path, id_: str) -> None:
    ids = json.loads((zarr / "plan.json").read_text())["image_ids"]
    edit_json(zarr / "plan.json", image_ids=[id_, *ids[1:]])
    sign_store(zarr)
    refuse_to_open(zarr, "'image_ids'")


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", RECORD])
def test_a_key_is_there_once(zarr: Path, name: str) -> None:
    text = (zarr / name).read_text()
    (zarr / name).write_text('{"fingerprint": "x", ' + text.lstrip()[1:])
    if name != "plan.json":
        edit = json.loads((zarr / "manifest.json").read_text())["commits_sha256"]
        assert edit
    with pytest.raises(StoreError, match=name):
        open_store(zarr).read("f1")


def test_a_bad_store_does_not_stop_the_others(zarr: Path, parts: Path) -> None:
    edit_json(zarr / "plan.json", version="\x1b" * 10**6)
    stores, damaged = list_stores(zarr.parent)
    assert [info.path for info in stores] == [parts]
    assert len(damaged) == 1
    assert len(damaged[0]) < 1000


# servers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "b00000.json", "c.0.0.0.0", "part-00000.h5"])
def test_a_server_that_promises_too_many_bytes_is_refused(stores: dict[str, Path], name: str, method: str) -> None:
    store = stores["hdf5" if name.endswith("h5") else "zarr"]
    behaviour = Behaviour(length=lambda asked, file: HUGE if (asked, file) == (method, name) else None)
    with serve_badly(store, behaviour) as url:
        if method == "HEAD" and name.endswith("json"):  # only whether it is there is asked for
            open_store(url).read("f1")
            return
        with pytest.raises(StoreError, match=f"{name} has 1,?000,?000,?000,?000,?000 bytes"):
            open_store(url).read("f1")


def test_a_record_that_promises_too_many_bytes_is_refused(zarr: Path) -> None:
    content = json.loads((zarr / RECORD).read_text())
    edit_json(zarr / RECORD, files=[content["files"][0] | {"bytes": HUGE, "path": "data.zarr/x"}, *content["files"][1:]])
    sign_store(zarr)
    behaviour = Behaviour(length=lambda asked, file: HUGE if file == "x" else None)
    with serve_badly(zarr, behaviour) as url, pytest.raises(PosenetStoreError, match="does not fit"):
        open_store(url).read("f1")
