"""Lists of image files and patterns: in order, once each, and every mistake named with its line."""

from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.images.file_lists import MAX_BYTES
from posenet_store.images.sources import find_images, load_image_set, make_absolute
from tests.support.small import write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images, one of them in a folder of its own."""
    folder = write_images(tmp_path / "photos", 3)
    write_images(folder / "more", 1)
    return folder


def test_a_text_file_names_images_in_its_order(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("# two of four\n\nphotos/image002.png\nphotos/more/image000.png  \n", "utf-8-sig")
    images = load_image_set(tmp_path / "test.txt")
    assert (images.name, images.ids) == ("test", ("photos/image002.png", "photos/more/image000.png"))
    assert (images.read(0, 20) == load_image_set(photos / "image002.png").read(0, 20)).all()
    assert load_image_set(f"{tmp_path}/test.txt", limit=1).ids == images.ids[:1]
    assert len(load_image_set(f"{tmp_path}/test.txt@transposed")) == 2


@pytest.mark.parametrize(("head", "query"), [("path", ""), ("image", ""), ("photo", "?column=photo")])
def test_a_csv_file_names_images_in_a_column(photos: Path, tmp_path: Path, head: str, query: str) -> None:
    (photos / "a, b.png").write_bytes((photos / "image000.png").read_bytes())
    (tmp_path / "test.csv").write_text(f'label,{head}\ncat,"photos/a, b.png"\ndog,photos/image001.png\n,\n')
    assert load_image_set(f"{tmp_path}/test.csv{query}").ids == ("photos/a, b.png", "photos/image001.png")


def test_a_list_may_name_files_elsewhere(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists/test.txt"
    path.write_text(f"{photos}/image000.png\n../photos/image001.png\n")
    assert load_image_set(path).ids == (f"{photos}/image000.png", "../photos/image001.png")


def test_a_pattern_matches_images_sorted_by_path(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "notes.md").touch()
    images = load_image_set(f"{photos}/**/*")
    assert (images.name, images.ids) == ("photos", load_image_set(photos).ids)
    assert images.sha256 == load_image_set(photos).sha256
    assert images.ignored == ("notes.md",)
    monkeypatch.chdir(photos)
    source = make_absolute("image00[01].png")
    monkeypatch.chdir("/")
    assert load_image_set(source).ids == ("image000.png", "image001.png")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(photos: Path) -> None:
    path = (photos / "image000.png").rename(photos / "image[0].png")
    assert load_image_set(path).ids == ("image[0].png",)


def test_a_folder_whose_name_looks_like_a_list_is_a_folder(photos: Path) -> None:
    folder = photos.rename(photos.with_name("photos.txt"))
    assert len(load_image_set(folder)) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "photos/image000.png\nphotos/none.png\n", "line 2: .*none.png is no file"),
        ("a.txt", "photos/image000.png\n\nphotos/image000.png\n", "line 3: .* is in line 1 too"),
        ("a.txt", "photos\n", "line 1: .*photos is no file"),
        ("a.txt", "# nothing\n", "names 0 images"),
        ("a.csv", "label,photo\ncat,photos/image000.png\n", "has the columns label, photo; name that of the paths"),
        ("a.csv?column=file", "path\nphotos/image000.png\n", "has the columns path"),
        ("a.csv?colum=path", "path\nphotos/image000.png\n", "did you mean 'column'"),
        ("a.csv", "", "has the columns ;"),
        ("b.txt", None, "b.txt does not exist"),
        ("*.gif", None, "no image matches"),
    ],
)
def test_a_wrong_list_is_one_sentence(photos: Path, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name.partition("?")[0]).write_text(text)
    for load in (find_images, load_image_set):
        with pytest.raises(UsageError, match=message):
            load(f"{tmp_path}/{name}")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="can't be read"):
        load_image_set(tmp_path / "a.txt")
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UsageError, match="256 MiB"):
        load_image_set(tmp_path / "a.csv")
