"""Tar files as image sets: members are read at their place, and what a hostile archive holds is one sentence."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posenet_store.errors import BuildError, UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images import reading, tar_files
from posenet_store.images.image_set import ImageSet, load_folder
from posenet_store.images.memory import FILES
from posenet_store.images.sources import load_image_set
from posenet_store.images.tar_files import BLOCK, MAX_HEADER
from posenet_store.store.reader import open_store
from tests.support.small import tiny_backbone, write_images

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", 4)


def pack(path: Path, folder: Path, form: int = tarfile.PAX_FORMAT, prefix: str = "") -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{prefix}{file.relative_to(folder)}", recursive=False)
    return path


def write_members(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write an archive of members that are described by hand."""
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return path


def describe(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def is_equal(images: ImageSet, others: ImageSet) -> bool:
    same = (images.ids, images.digests) == (others.ids, others.digests)
    return same and all((images.read(index, 20) == others.read(index, 20)).all() for index in range(len(images)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_is_the_images_that_it_was_made_of(photos: Path, tmp_path: Path, form: str, prefix: str) -> None:
    write_images(photos / "deeper/below", 2)
    (photos / "labels.csv").write_text("a,b")
    images = load_image_set(pack(tmp_path / "set.tar", photos, FORMATS[form], prefix))
    expected = load_folder(photos)
    assert is_equal(images, expected.select([expected.ids.index(name) for name in images.ids]))
    assert (images.name, images.ignored) == ("set", (f"{prefix}labels.csv".removeprefix("./"),))
    assert images.count_reading(28, 1) == expected.count_reading(28, 1) > 0
    assert len(load_image_set(f"{tmp_path}/set.tar@transposed", limit=3)) == 3


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_and_names_of_other_scripts_are_whole(photos: Path, tmp_path: Path, form: str) -> None:
    name = f"{'long' * 60}/größe/図.png"
    data = (photos / "image000.png").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w", format=FORMATS[form]) as archive:
        archive.addfile(describe(name, len(data)), io.BytesIO(data))
    assert load_image_set(tmp_path / "a.tar").ids == (name,)


@pytest.mark.parametrize("source", ["train-{000..001}.tar", "train-*.tar", "train-{0..0}0{0..1}.tar"])
def test_shards_are_one_set(photos: Path, tmp_path: Path, source: str) -> None:
    for number in range(2):
        pack(tmp_path / f"train-{number:03d}.tar", photos)
    images = load_image_set(f"{tmp_path}/{source}")
    names = [f"train-{shard:03d}.tar/image{number:03d}.png" for shard in range(2) for number in range(4)]
    assert (images.name, images.ids) == ("train", tuple(names))
    assert (images.read(5, 20) == load_folder(photos).read(1, 20)).all()


def test_a_store_of_an_archive_holds_its_images_and_quarantines_what_is_none(photos: Path, tmp_path: Path) -> None:
    (photos / "image002.png").write_text("no image")
    images, backbone = load_image_set(pack(tmp_path / "a.tar", photos)), tiny_backbone()
    plan = plan_store(images, backbone, "aligned", "float32", 2)
    reader = open_store(build_store(images, backbone, plan, tmp_path, max_unreadable=1).path)
    assert [entry["image_id"] for entry in reader.manifest["quarantined"]] == ["image002.png"]
    folder = load_folder(photos)
    plan = plan_store(folder, backbone, "aligned", "float32", 2)
    other = open_store(build_store(folder, backbone, plan, tmp_path, max_unreadable=1).path)
    assert other.spec.fingerprint == reader.spec.fingerprint  # the archive is the folder
    np.testing.assert_array_equal(other.read("aligned"), reader.read("aligned"))


def test_an_archive_that_changes_is_noticed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WAITS", ())
    path = pack(tmp_path / "a.tar", photos, tarfile.GNU_FORMAT)
    images, data = load_image_set(path), path.read_bytes()
    path.write_bytes(data[: BLOCK + 20] + b"x" + data[BLOCK + 21 :])
    with pytest.raises(BuildError, match="image000"):
        images.read(0, 28)
    assert images.read(1, 28).shape == (28, 28, 3)
    path.write_bytes(data[:BLOCK])
    with pytest.raises(BuildError):
        images.read(1, 28)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out_and_never_opened(photos: Path, tmp_path: Path, kind: bytes) -> None:
    data = (photos / "image000.png").read_bytes()
    evil = describe("evil.png", type=kind, linkname="/etc/passwd", devmajor=1, devminor=5)
    path = write_members(tmp_path / "a.tar", (evil, b""), (describe("a.png", len(data)), data))
    images = load_image_set(path)
    assert (images.ids, images.ignored) == (("a.png",), ("evil.png",))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "a\nb.png", "\x1b[2J.png", "./", ".."])
def test_a_name_that_is_no_plain_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no plain path"):
        load_image_set(write_members(tmp_path / "a.tar", (describe(name, 1), b"x")))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_members(tmp_path / "a.tar", (describe("a.png", 1), b"x"), (describe("./a.png", 1), b"y"))
    with pytest.raises(UsageError, match="twice"):
        load_image_set(path)


def seal(header: bytearray) -> bytes:
    """Give a header its checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_a_member_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 20 GiB on the disk that says it is one image."""
    header = bytearray(describe("huge.png", 20 << 30).tobuf(tarfile.GNU_FORMAT))
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(seal(header))
        file.truncate(BLOCK + (20 << 30) + 2 * BLOCK)
    images = load_image_set(path)
    assert images.digests[0] == f"{reading.UNREADABLE}the file has {20 << 30:,} bytes; at most {FILES.limit:,} are read"


@pytest.mark.parametrize(
    ("kind", "message"), [(b"x", "at most"), (b"L", "at most"), (b"S", "sparse"), (b"g", "at most"), (b"K", "at most")]
)
def test_fields_of_many_bytes_and_sparse_members_are_refused(tmp_path: Path, kind: bytes, message: str) -> None:
    header = bytearray(describe("a.png", MAX_HEADER + 1, type=kind).tobuf(tarfile.GNU_FORMAT))
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(seal(header))
        file.truncate(4 << 20)
    with pytest.raises(UsageError, match=message):
        load_image_set(path)


@pytest.mark.parametrize(
    "records",
    [b"", b"x", b"0 path=a\n", b"-5 path=a\n", b"9999999999 path=a\n", b"999 path=a\n", b"6 path\n", b"12 size=abcd\n",
     b"22 size=99999999999999\n", b"25 GNU.sparse.major=1\nxxx", b"18 path=/etc/a.png\n", b"\xff\xfe =\n"],
)  # fmt: skip
def test_any_fields_of_an_entry_are_a_sentence_or_an_image(tmp_path: Path, records: bytes) -> None:
    head = bytearray(describe("x", len(records), type=b"x").tobuf(tarfile.GNU_FORMAT))
    body = records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0")
    member = bytearray(describe("a.png", 1).tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "a.tar").write_bytes(seal(head) + body + seal(member) + b"x".ljust(BLOCK, b"\0") + bytes(2 * BLOCK))
    try:
        assert load_image_set(tmp_path / "a.tar").ids == ("a.png",)
    except UsageError as error:
        assert str(tmp_path) in str(error)


def damage(position: int, *values: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + b"".join(values) + data[position + len(b"".join(values)) :]


@pytest.mark.parametrize(
    "harm",
    [lambda data: data[: 3 * BLOCK], lambda data: data[: BLOCK + 7], lambda data: data[:100], lambda data: b"",
     lambda data: data.rstrip(b"\0"), lambda data: b"no tar" * 1000, damage(124, b"\xff" * 12), damage(0, b"b"),
     damage(148, b"zzzzzz")],
)  # fmt: skip
def test_an_archive_that_is_cut_short_or_damaged_is_a_sentence(
    photos: Path, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = pack(tmp_path / "a.tar", photos, tarfile.GNU_FORMAT)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UsageError, match=r"cut short|no tar file"):
        load_image_set(path)


def test_an_archive_cut_at_the_end_of_a_member_is_cut_short(photos: Path, tmp_path: Path) -> None:
    """Otherwise a download that stopped there would be fewer images, and nobody would notice."""
    path = pack(tmp_path / "a.tar", photos)
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    path.write_bytes(path.read_bytes()[:second])
    with pytest.raises(UsageError, match="cut short"):
        load_image_set(path)


def test_too_many_entries_or_shards_are_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.tar", photos)
    monkeypatch.setattr(tar_files, "MAX_ENTRIES", 3)
    with pytest.raises(UsageError, match="more than 3 entries"):
        load_image_set(path)
    for text in ("{0..999999999}", "{5..3}", "{0..999}{0..999}"):
        with pytest.raises(UsageError, match="ranges"):
            load_image_set(f"{tmp_path}/a-{text}.tar")


@pytest.mark.parametrize(
    ("source", "message"),
    [("none.tar", "is no file"), ("a-{0..2}.tar", "3 of 3"), ("none-*.tar", "no tar file matches"), ("a.tar.gz", "compressed"),
     ("b.tgz", "compressed"), ("empty.tar", "holds 0 images")],
)  # fmt: skip
def test_what_is_missing_or_compressed_is_said(tmp_path: Path, source: str, message: str) -> None:
    write_members(tmp_path / "empty.tar", (describe("readme.txt", 1), b"x"))
    with pytest.raises(UsageError, match=message):
        load_image_set(f"{tmp_path}/{source}")


def test_a_folder_that_is_called_like_an_archive_is_a_folder(photos: Path) -> None:
    assert len(load_image_set(photos.rename(photos.with_name("photos.tar")))) == 4
