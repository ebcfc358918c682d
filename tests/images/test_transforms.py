"""Images as shown to a network: transposed, with a painted border, on a canvas."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import ImageError, UsageError
from posenet_store.images.sources import load_image_set, make_absolute
from posenet_store.images.transforms import find_cell
from tests.support.small import write_images


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_transposed_swaps_rows_and_columns(photo: Path) -> None:
    plain, turned = load_image_set(str(photo)), load_image_set(f"{photo}@transposed")
    np.testing.assert_array_equal(turned.read(0, 28), plain.read(0, 28).transpose(1, 0, 2))
    assert turned.name == "photo-transposed"


def test_mirrored_swaps_left_and_right(photo: Path) -> None:
    plain, mirrored = load_image_set(str(photo)), load_image_set(f"{photo}@mirrored")
    np.testing.assert_array_equal(mirrored.read(0, 28), np.fliplr(plain.read(0, 28)))
    np.testing.assert_array_equal(load_image_set(f"{photo}@mirrored@mirrored").read(0, 28), plain.read(0, 28))
    assert mirrored.name == "photo-mirrored"


def find_places(image: np.ndarray, crop: np.ndarray) -> list[tuple[int, int]]:
    """Return where a crop lies in an image."""
    side = len(crop)
    places = np.ndindex(len(image) - side + 1, len(image) - side + 1)
    return [(y, x) for y, x in places if (image[y : y + side, x : x + side] == crop).all()]


def test_a_crop_is_half_of_each_side_at_a_place_of_its_own(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 12)))
    places = []
    for seed in (0, 1):
        cropped = load_image_set(f"{tmp_path}/photos@cropped:{seed}")
        assert cropped.name == f"photos-cropped-{seed}"
        for index in range(12):
            places += find_places(images.read(index, 56), cropped.read(index, 28))
            np.testing.assert_array_equal(cropped.read(index, 28), cropped.read(index, 28))
    assert len(places) == 24
    assert len(set(places)) > 20
    assert all(0 <= coordinate <= 28 for corner in places for coordinate in corner)


def test_the_place_of_a_crop_does_not_depend_on_the_other_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3)
    alone = load_image_set(f"{folder}/image002.png@cropped:0")
    np.testing.assert_array_equal(alone.read(0, 28), load_image_set(f"{folder}@cropped:0").read(2, 28))


def test_a_crop_of_what_can_not_be_read_is_quarantined(tmp_path: Path) -> None:
    (write_images(tmp_path / "photos", 1) / "a.png").symlink_to("none")
    with pytest.raises(ImageError, match="No such file"):
        load_image_set(f"{tmp_path}/photos@cropped:0").read(0, 28)


def test_a_placed_image_lies_in_the_cell_of_its_digest(tmp_path: Path) -> None:
    folder, cells = write_images(tmp_path / "photos", 30), []
    plain, placed = load_image_set(str(folder)), load_image_set(f"{folder}@placed:3:0")
    assert placed.name == "photos-placed-3-0"
    for index, digest in enumerate(placed.digests):
        row, column = find_cell(digest, 3)
        seen = placed.read(index, 56)
        inside = seen[row * 18 : row * 18 + 18, column * 18 : column * 18 + 18]
        np.testing.assert_array_equal(inside, plain.read(index, 18))
        inside[:] = 0
        assert not seen.any()
        cells.append((row, column))
    assert len(set(cells)) > 6
    assert [find_cell(digest, 3) for digest in load_image_set(f"{folder}@placed:3:1").digests] != cells


@pytest.mark.parametrize("text", ["placed", "placed:3", "placed:1:0", "placed:17:0", "placed:3:x"])
def test_a_place_needs_a_grid_and_a_seed(photo: Path, text: str) -> None:
    with pytest.raises(UsageError):
        load_image_set(f"{photo}@{text}")


def test_the_memory_of_a_crop_is_that_of_the_larger_image(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 1)
    plain, cropped = load_image_set(str(folder)), load_image_set(f"{folder}@cropped:0")
    assert cropped.count_memory(0, 28) == plain.count_memory(0, 56)


def test_transforms_follow_each_other_from_left_to_right(photo: Path) -> None:
    plain = load_image_set(str(photo)).read(0, 28)
    seen = load_image_set(f"{photo}@mirrored@border:40:black").read(0, 28)
    np.testing.assert_array_equal(seen[5:23, 5:23], plain[5:23, ::-1][:, 5:23])
    assert not seen[:5].any()
    turned, other = (load_image_set(f"{photo}@{way}") for way in ("transposed@mirrored", "mirrored@transposed"))
    np.testing.assert_array_equal(turned.read(0, 28), plain.transpose(1, 0, 2)[:, ::-1])
    assert turned.sha256 != other.sha256
    assert turned.name == "photo-transposed-mirrored"


def test_a_border_is_painted_over_the_image(photo: Path) -> None:
    seen, plain = load_image_set(f"{photo}@border:40:ff8000").read(0, 28), load_image_set(str(photo)).read(0, 28)
    np.testing.assert_array_equal(seen[5:23, 5:23], plain[5:23, 5:23])
    seen[5:23, 5:23] = (255, 128, 0)
    assert (seen == (255, 128, 0)).all()


def test_a_canvas_holds_the_whole_image_smaller(photo: Path) -> None:
    seen = load_image_set(f"{photo}@canvas:40:white").read(0, 28)
    np.testing.assert_array_equal(seen[5:23, 5:23], load_image_set(str(photo)).read(0, 18))
    seen[5:23, 5:23] = 255
    assert (seen == 255).all()


def test_each_way_of_showing_is_another_image_set(photo: Path) -> None:
    names = [
        "",
        "@transposed",
        "@mirrored",
        "@cropped:0",
        "@cropped:1",
        "@border:40:black",
        "@border:40:white",
        "@border:48:black",
        "@canvas:40:black",
    ]
    sets = [load_image_set(f"{photo}{name}") for name in names]
    assert len({image_set.sha256 for image_set in sets}) == len({image_set.name for image_set in sets}) == len(names)
    assert sets[5].name == "photo-border-40-black"


def test_every_source_can_be_shown_and_named_absolutely(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    assert make_absolute("photo.png@canvas:40:mean") == f"{photo.resolve()}@canvas:40:mean"
    assert make_absolute("probes@transposed") == "probes@transposed"
    assert make_absolute("photo.png@cropped:1@mirrored") == f"{photo.resolve()}@cropped:1@mirrored"
    assert make_absolute("probes@mirrored@transposed") == "probes@mirrored@transposed"
    assert load_image_set("synthetic:dead-leaves?n=3@border:8:grey").ids == load_image_set("synthetic:dead-leaves?n=3").ids


def test_a_path_that_has_the_mark_in_its_name_is_meant_as_it_is(photo: Path) -> None:
    odd = photo.rename(photo.parent / "a@transposed")
    assert load_image_set(str(odd)).name == "a@transposed"


WRONG = [
    "",
    "turned",
    "mirrored:1",
    "cropped",
    "mirrored@turned",
    "turned@mirrored",
    "border",
    "border:40",
    "border:0:black",
    "border:101:black",
    "border:-1:black",
    "canvas:40:pink",
]


@pytest.mark.parametrize("text", [*WRONG, "transposed:1"])
def test_another_word_is_answered_with_what_is_accepted(photo: Path, text: str) -> None:
    with pytest.raises(UsageError, match="accepted: transposed, border:PIXELS:COLOUR"):
        load_image_set(f"{photo}@{text}")


@pytest.mark.parametrize("seed", ["", "-1", "x", "1.5", str(2**32)])
def test_the_seed_of_a_crop_has_a_range(photo: Path, seed: str) -> None:
    with pytest.raises(UsageError, match="whole number from 0 to"):
        load_image_set(f"{photo}@cropped:{seed}@mirrored")


def test_a_margin_scales_with_the_image(photo: Path) -> None:
    large = load_image_set(f"{photo}@border:40:white").read(0, 224)
    assert (large[:40] == 255).all()
    assert not (large[40, 40:184] == 255).all()
