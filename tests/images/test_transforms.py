"""Images as shown to a network: transposed, with a painted border, on a canvas."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import UsageError
from posenet_store.images.sources import load_image_set, make_absolute


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_transposed_swaps_rows_and_columns(photo: Path) -> None:
    plain, turned = load_image_set(str(photo)), load_image_set(f"{photo}@transposed")
    np.testing.assert_array_equal(turned.read(0, 28), plain.read(0, 28).transpose(1, 0, 2))
    assert turned.name == "photo-transposed"


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
    names = ["", "@transposed", "@border:40:black", "@border:40:white", "@border:48:black", "@canvas:40:black"]
    sets = [load_image_set(f"{photo}{name}") for name in names]
    assert len({one.sha256 for one in sets}) == len({one.name for one in sets}) == len(names)
    assert [one.name for one in sets][2] == "photo-border-40-black"


def test_every_source_can_be_shown_and_named_absolutely(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    assert make_absolute("photo.png@canvas:40:mean") == f"{photo.resolve()}@canvas:40:mean"
    assert make_absolute("probes@transposed") == "probes@transposed"
    assert load_image_set("synthetic:dead-leaves?n=3@border:8:grey").ids == load_image_set("synthetic:dead-leaves?n=3").ids


def test_a_path_that_has_the_mark_in_its_name_is_meant_as_it_is(photo: Path) -> None:
    odd = photo.rename(photo.parent / "a@transposed")
    assert load_image_set(str(odd)).name == "a@transposed"


WRONG = ["", "turned", "border", "border:40", "border:0:black", "border:101:black", "border:-1:black", "canvas:40:pink"]


@pytest.mark.parametrize("text", [*WRONG, "transposed:1"])
def test_another_word_is_answered_with_what_is_accepted(photo: Path, text: str) -> None:
    with pytest.raises(UsageError, match="accepted: transposed, border:PIXELS:COLOUR"):
        load_image_set(f"{photo}@{text}")


def test_a_margin_scales_with_the_image(photo: Path) -> None:
    large = load_image_set(f"{photo}@border:40:white").read(0, 224)
    assert (large[:40] == 255).all()
    assert not (large[40, 40:184] == 255).all()
