"""Decoding decisions, one test each; and folders as they are found in the wild."""

import io
import os
import re
import shutil
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torchvision.transforms
from numpy.typing import NDArray
from PIL import Image, ImageOps

from posenet_store.errors import BuildError, ImageError, UsageError
from posenet_store.images import decode as module
from posenet_store.images.decode import MAX_PIXELS, decode, to_rgb
from posenet_store.images.image_set import SUFFIXES, ImageSet, Listing, load_files, load_folder
from posenet_store.images.sources import load_image_set
from tests.support.small import write_images

SIDE = 16  # images of this size are decoded without resizing, so that their pixels can be compared exactly


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:  # noqa: A002
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    """Return a smooth colour image, which JPEG keeps well."""
    return Image.fromarray(pixels(4, 4, 3, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)


def repeated(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


# Decoding: what becomes of every kind of image.


def test_rgb_is_kept() -> None:
    expected = pixels(SIDE, SIDE, 3)
    result = decode(encoded(Image.fromarray(expected)), SIDE)
    assert result.shape == (SIDE, SIDE, 3)
    assert result.dtype == np.uint8
    assert (result == expected).all()


def test_greyscale_is_repeated() -> None:
    grey = pixels(SIDE, SIDE)
    assert (decode(encoded(Image.fromarray(grey)), SIDE) == repeated(grey)).all()


def test_one_bit_is_black_and_white() -> None:
    bits = pixels(SIDE, SIDE) > 127
    assert (decode(encoded(Image.fromarray(bits)), SIDE) == repeated(np.where(bits, 255, 0).astype(np.uint8))).all()


def test_a_palette_is_looked_up() -> None:
    colours, indices = pixels(256, 3), pixels(SIDE, SIDE, seed=1)
    image = Image.fromarray(indices, mode="L")
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    assert (decode(encoded(image), SIDE) == colours[indices]).all()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # PIL's advice, which has no bearing here
def test_the_transparency_of_a_palette_is_dropped() -> None:
    colours, indices = pixels(256, 3), pixels(SIDE, SIDE, seed=1)
    image = Image.fromarray(indices, mode="L")
    image.putpalette(colours.tobytes())
    assert (decode(encoded(image, transparency=pixels(256).tobytes()), SIDE) == colours[indices]).all()


def test_alpha_is_dropped_not_blended() -> None:
    rgba = pixels(SIDE, SIDE, 4)
    rgba[:4, :, 3] = 0  # colours under full transparency count
    assert (decode(encoded(Image.fromarray(rgba)), SIDE) == rgba[:, :, :3]).all()


def test_grey_with_alpha_is_repeated_and_its_alpha_dropped() -> None:
    both = pixels(SIDE, SIDE, 2)
    image = Image.merge("LA", [Image.fromarray(both[:, :, channel].copy()) for channel in (0, 1)])
    assert (decode(encoded(image), SIDE) == repeated(both[:, :, 0])).all()


def test_a_cmyk_jpeg_is_converted_as_pil_does() -> None:
    data = encoded(photo().convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        assert (decode(data, SIDE) == np.asarray(image.convert("RGB"))).all()
    red = decode(encoded(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG"), SIDE)
    assert red[:, :, 0].min() > 220  # not inverted
    assert red[:, :, 1:].max() < 40


def sixteen_bit_pgm(wide: NDArray[np.uint16]) -> bytes:
    height, width = wide.shape
    return f"P5 {width} {height} 65535\n".encode() + wide.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_sixteen_bit_greyscale_keeps_its_upper_eight(kind: str) -> None:
    wide = np.random.default_rng(0).integers(0, 1 << 16, (SIDE, SIDE), dtype=np.uint16)
    wide[0, :4] = [0, 255, 256, 0xFFFF]
    data = sixteen_bit_pgm(wide) if kind == "pgm" else encoded(Image.fromarray(wide), kind)
    result = decode(data, SIDE)
    assert (result == repeated((wide // 256).astype(np.uint8))).all()
    assert result[0, :4, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("largest", [255, 4095])
@pytest.mark.parametrize("kind", ["16-bit PNG", "32-bit TIFF"])
def test_few_bits_in_a_wide_file_are_refused_instead_of_black(kind: str, largest: int) -> None:
    wide = np.full((SIDE, SIDE), largest, dtype=np.uint16 if "16" in kind else np.int32)
    with pytest.raises(ImageError, match=f"values end at {largest} of 65535.* 8 or 12 bit"):
        decode(encoded(Image.fromarray(wide), kind[-4:].strip()), SIDE)
    assert decode(encoded(Image.fromarray(np.zeros_like(wide)), kind[-4:].strip()), SIDE).max() == 0  # black is black


@pytest.mark.parametrize("value", [-1, 65536, 2**31 - 1])
def test_integers_beyond_sixteen_bits_are_refused(value: int) -> None:
    wide = np.zeros((SIDE, SIDE), dtype=np.int32)
    wide[3, 3] = value
    with pytest.raises(ImageError, match=f"integer image with values .*{value}.*16 bit"):
        decode(encoded(Image.fromarray(wide), "TIFF"), SIDE)


def test_a_floating_point_tiff_is_refused() -> None:
    data = encoded(Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.float32)), "TIFF")
    with pytest.raises(ImageError, match="floating-point image has no known range; save it as 8 or 16 bit"):
        decode(data, SIDE)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:  # noqa: A002
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert (decode(data, SIDE) == np.array([255, 0, 0])).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(photo(), "JPEG", exif=exif)
    with Image.open(io.BytesIO(turned)) as image:  # the tag is there, and obeying it would show
        assert (np.asarray(ImageOps.exif_transpose(image)) != np.asarray(image)).any()
    assert (decode(turned, SIDE) == decode(encoded(photo(), "JPEG"), SIDE)).all()


def test_the_documentation_says_that_exif_orientation_is_ignored() -> None:
    assert "EXIF orientation is ignored" in (module.__doc__ or "")


def test_to_rgb_of_every_mode_is_rgb() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX", "I", "I;16", "I;16B"):
        assert to_rgb(Image.new(mode, (2, 2))).mode == "RGB", mode


# Resizing.


@pytest.mark.parametrize("size", [(224, 224), (40, 30), (500, 333), (231, 97), (1, 1), (2000, 3), (3, 2000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_resizing_is_torchvisions_exactly(size: tuple[int, int], mode: str) -> None:
    image = Image.fromarray(pixels(size[1], size[0], 3)).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(data)) as opened:
        expected = torchvision.transforms.Resize((224, 224))(opened.convert("RGB"))
    assert (decode(data, 224) == np.asarray(expected)).all()


def test_resizing_is_antialiased() -> None:
    # Every second column is white: without antialiasing the result would be black or white.
    striped = np.zeros((64, 64), dtype=np.uint8)
    striped[:, ::2] = 255
    assert np.abs(decode(encoded(Image.fromarray(striped)), SIDE).astype(int) - 127).max() < 40


def test_one_pixel_fills_the_image() -> None:
    assert (decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7))), 28) == np.array([9, 8, 7])).all()


# What can't be decoded.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<html>404 Not Found</html>", "not an image of an accepted format"),
        (bytes(1000), "not an image of an accepted format"),
        (encoded(photo(200, 200), "JPEG")[:-1000], "broken image: .*truncated"),
        (encoded(photo(200, 200))[:-1000], "broken image: .*truncated"),
        (encoded(photo(200, 200), "BMP")[:-1000], "broken image: .*truncated"),
        (encoded(photo(200, 200), "WEBP")[:-1000], "broken image|not an image"),
        (encoded(photo(200, 200), "PPM")[:-1000], "broken image: .*truncated"),
        (encoded(photo())[:8], "not an image"),
    ],
    ids=["empty", "text", "zeros", "jpeg", "png", "bmp", "webp", "ppm", "signature"],
)
def test_a_file_that_is_not_a_whole_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(data, SIDE)


def test_a_wrong_byte_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(Image.fromarray(pixels(64, 64, 3))))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="broken image"):
        decode(bytes(data), SIDE)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_damage_gives_pixels_or_an_image_error_and_nothing_else(format: str) -> None:  # noqa: A002
    # Any other exception would end a build of thousands of images.
    rng = np.random.default_rng(0)
    content = encoded(photo(31, 24), format)
    for _ in range(200):
        data = np.frombuffer(content, dtype=np.uint8).copy()
        places = rng.integers(0, rng.choice([30, len(data)]), rng.integers(1, 10))
        data[places] = rng.integers(0, 256, len(places))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata
            try:
                assert decode(data[: rng.integers(len(data) // 2, 2 * len(data))].tobytes(), 8).shape == (8, 8, 3)
            except ImageError as error:
                assert str(error)


@pytest.mark.parametrize(("size", "accepted"), [((10, 10), True), ((101, 1), False), ((10, 11), False)])
def test_an_image_with_too_many_pixels_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], accepted: bool
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    data = encoded(Image.new("RGB", size))
    if accepted:
        assert decode(data, SIDE).shape == (SIDE, SIDE, 3)
    else:
        with pytest.raises(ImageError, match=f"{size[0]}x{size[1]} pixels; at most 100 are decoded"):
            decode(data, SIDE)


def test_what_pil_takes_for_a_bomb_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ImageError, match=r"broken image: .*100 pixels"):
        decode(encoded(Image.new("RGB", (10, 10))), SIDE)


def test_the_limit_is_the_size_at_which_pil_refuses() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 0 <= 2 * Image.MAX_IMAGE_PIXELS - MAX_PIXELS < 2


# Folders.


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photo()) if data is None else data)
    return path


def test_a_folder_is_walked_and_sorted_by_relative_path(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a/b/c.png", "a.png", "B.png", "c 10.png", "c 9.png", "a-b.png"]
    for name in names:
        put(tmp_path / name)
    assert load_folder(tmp_path).ids == tuple(sorted(names, key=str.encode))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_suffixes_count_in_any_case(tmp_path: Path, suffix: str) -> None:
    names = [f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}"]
    for name in names:
        put(tmp_path / name)
    assert load_folder(tmp_path).ids == tuple(names)


def test_hidden_files_and_other_suffixes_are_listed_as_ignored(tmp_path: Path) -> None:
    for name in ("a.png", ".hidden.png", "notes.txt", "sub/labels.csv", "png", "b.png.bak", "sub/._b.png"):
        put(tmp_path / name)
    images = load_folder(tmp_path)
    assert images.ids == ("a.png",)
    assert images.ignored == (".hidden.png", "b.png.bak", "notes.txt", "png", "sub/._b.png", "sub/labels.csv")


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / ".thumbnails" / "a.png")
    assert load_folder(tmp_path).ids == ("a.png",)


@pytest.mark.parametrize("target", [".", "..", "sub"])
def test_a_loop_of_links_ends(tmp_path: Path, target: str) -> None:
    put(tmp_path / "images/sub/a.png")
    put(tmp_path / "images/b.png")
    (tmp_path / "images/sub/loop").symlink_to(Path("..") / target if target == "sub" else target, target_is_directory=True)
    assert load_folder(tmp_path / "images").ids == ("b.png", "sub/a.png")


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/a.png")
    put(tmp_path / "images/b.png")
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "images/c.png").symlink_to(tmp_path / "elsewhere/a.png")
    images = load_folder(tmp_path / "images")
    assert images.ids == ("b.png", "c.png", "linked/a.png")
    assert images.digests[1] == images.digests[2]


@pytest.mark.parametrize(
    "name", ["with space.png", "\u732b \u00e9.png", "two\nlines.png", "<script>alert(1)<&\"'.png", "\\n%20{}.png", "-rf.png"]
)
def test_odd_names_are_kept_and_read(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    images = load_folder(tmp_path)
    assert images.ids == (name,)
    assert (images.read(0, SIDE) == np.asarray(photo())).all()


def test_a_name_that_is_not_utf_8_is_escaped_and_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(path)).write_bytes(encoded(photo()))
    except OSError as error:
        pytest.skip(f"this file system refuses such names: {error}")
    images = load_folder(tmp_path)
    assert images.ids == ("caf\\xe9.png",)
    assert images.ids[0].encode()  # what a surrogate would fail at
    assert (images.read(0, SIDE) == np.asarray(photo())).all()
    assert len(images.sha256) == 64


def test_a_folder_without_images_is_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no image \(0 other files\); accepted: \.bmp, .*\.webp"):
        load_folder(tmp_path)
    put(tmp_path / "notes.txt")
    put(tmp_path / "sub/.a.png")
    with pytest.raises(UsageError, match=r"holds no image \(2 other files\)"):
        load_folder(tmp_path)


def test_a_set_is_named_after_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "holiday", 1)
    monkeypatch.chdir(folder)
    assert (load_folder(folder).name, load_folder(Path()).name, load_folder(folder, "duts").name) == (
        "holiday",
        "holiday",
        "duts",
    )


# Reading a set.


def test_a_set_reads_its_images_in_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 6)
    images = load_folder(folder)
    assert len(images) == 6
    for index, name in enumerate(images.ids):
        assert (images.read(index, 20) == decode((folder / name).read_bytes(), 20)).all()


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    images = load_folder(write_images(tmp_path, 6))
    assert images.digests == tuple(sha256((tmp_path / name).read_bytes()).hexdigest() for name in images.ids)


def test_a_broken_image_spoils_no_other(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    put(tmp_path / "a.jpg", b"not an image")
    images = load_folder(tmp_path)
    with pytest.raises(ImageError, match="not an image"):
        images.read(0, SIDE)
    assert images.read(1, SIDE).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("data", [encoded(photo(seed=1)), b""], ids=["another image", "emptied"])
def test_a_file_that_changed_after_it_was_hashed_is_refused(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posenet_store.images.reading.WAITS", ())
    put(tmp_path / "a.png")
    images = load_folder(tmp_path)
    put(tmp_path / "a.png", data)
    with pytest.raises(BuildError, match="changed while the store was being built"):
        images.read(0, SIDE)


def test_a_file_that_vanished_is_the_disks_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.images.reading.WAITS", ())
    put(tmp_path / "a.png")
    images = load_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BuildError, match=r"can't be read \(No such file"):
        images.read(0, SIDE)


def test_a_dangling_link_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    images = load_folder(tmp_path)
    assert images.ids == ("a.png", "b.png")
    with pytest.raises(ImageError, match="can't be read: No such file"):
        images.read(1, SIDE)


# Digests.


def test_the_digest_is_over_bytes_and_names_in_order(tmp_path: Path) -> None:
    images = load_folder(write_images(tmp_path, 3))
    lines = [f"{sha256((tmp_path / name).read_bytes()).hexdigest()} {name}\n" for name in sorted(images.ids)]
    assert images.sha256 == sha256("".join(lines).encode()).hexdigest()


def test_a_copy_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "one", 3)
    shutil.copytree(folder, tmp_path / "two")
    put(tmp_path / "two/notes.txt")
    assert load_folder(folder).sha256 == load_folder(tmp_path / "two").sha256


def test_the_digest_changes_with_a_byte_a_name_or_a_missing_image(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 3)
    first = folder / "image000.png"
    data = first.read_bytes()
    actual = [load_folder(folder).sha256]
    first.write_bytes(data + b"\0")
    actual.append(load_folder(folder).sha256)
    first.rename(folder / "image0.png")
    actual.append(load_folder(folder).sha256)
    (folder / "image0.png").unlink()
    actual.append(load_folder(folder).sha256)
    assert len(set(actual)) == 4
    first.write_bytes(data)
    assert load_folder(folder).sha256 == actual[0]


def test_the_digest_changes_with_the_order(tmp_path: Path) -> None:
    paths = tuple(sorted(write_images(tmp_path, 3).iterdir()))
    assert load_files("s", Listing(tmp_path, paths)).sha256 != load_files("s", Listing(tmp_path, paths[::-1])).sha256


# Limits.


def test_a_limit_keeps_the_first_images(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    put(tmp_path / "notes.txt")
    images = load_folder(tmp_path)
    few = images.take(2)
    assert (few.ids, few.digests, few.name, few.ignored) == (images.ids[:2], images.digests[:2], images.name, ("notes.txt",))
    assert (few.read(1, SIDE) == images.read(1, SIDE)).all()
    assert few.sha256 != images.sha256


@pytest.mark.parametrize("limit", [None, 3, 4, 1000])
def test_a_limit_beyond_the_set_changes_nothing(limit: int | None) -> None:
    images = ImageSet("s", ("a", "b", "c"), ("1", "2", "3"), lambda index, size: np.zeros((size, size, 3), dtype=np.uint8))
    assert images.take(limit).ids == images.ids
    assert images.take(limit).sha256 == images.sha256


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UsageError, match=f"--limit {limit} leaves no image; give 1 or more"):
        load_folder(write_images(tmp_path, 2)).take(limit)


def test_a_pipe_is_left_out_and_does_not_block(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    images = load_folder(tmp_path)
    assert images.ids == ("a.png", "c.png")
    assert images.ignored == ("b.png",)
    with pytest.raises(ImageError, match="can't be read"):
        images.read(1, SIDE)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as root nothing is unreadable: os.walk is told so
    def walk(folder: Path, onerror: Callable[[OSError], None], followlinks: bool) -> list[object]:
        onerror(PermissionError(13, "Permission denied", str(folder / "secret")))
        return []

    monkeypatch.setattr("posenet_store.images.image_set.os.walk", walk)
    with pytest.raises(UsageError, match=r"secret can't be read \(Permission denied\)"):
        load_folder(tmp_path)


def test_of_images_and_masks_side_by_side_the_images_are_taken(tmp_path: Path) -> None:
    for name in ("DUTS-TE-Image", "DUTS-TE-Mask"):
        write_images(tmp_path / "DUTS-TE" / name, 3)
    images = load_image_set(str(tmp_path / "DUTS-TE"))
    assert (images.name, len(images)) == ("DUTS-TE-Image", 3)
    assert images.sha256 == load_image_set(str(tmp_path / "DUTS-TE" / "DUTS-TE-Image")).sha256
    assert re.search("images and masks; DUTS-TE-Image is taken", images.notes[0])


def test_equal_names_in_several_folders_are_noted_and_all_taken(tmp_path: Path) -> None:
    for name in ("photos", "labels"):
        write_images(tmp_path / "set" / name, 2)
    images = load_image_set(str(tmp_path / "set"))
    assert len(images) == 4
    assert re.search("^2 names occur in several folders, such as .* in labels, photos", images.notes[0])
    assert load_image_set(str(tmp_path / "set" / "photos")).notes == ()
