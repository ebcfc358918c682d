"""What images may cost: bytes and pixels held at once are bounded over all threads, whatever a file says of itself."""

import io
import os
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from posenet_store.cli import main
from posenet_store.errors import ImageError
from posenet_store.extraction.build import plan_store
from posenet_store.extraction.plan import estimate_build
from posenet_store.images import image_set
from posenet_store.images import memory as module
from posenet_store.images.decode import decode, open_image
from posenet_store.images.image_set import FileReader
from posenet_store.images.memory import FILES, PIXELS, MemoryBudget, count_decoding
from posenet_store.images.reading import hash_image, read_image
from posenet_store.images.sources import load_image_set
from posenet_store.specs import Resize
from tests.support.small import tiny_backbone, write_images


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def test_threads_never_hold_more_than_the_budget_and_all_get_on() -> None:
    budget, lock, used, peak = MemoryBudget(10), threading.Lock(), [0], [0]

    def work(count: int) -> None:
        with budget.reserve(count):
            with lock:
                used[0] += count
                peak[0] = max(peak[0], used[0])
            time.sleep(0.001)
            with lock:
                used[0] -= count

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 1, 3, 4, 9, 2, 10, 5] * 10))
    assert peak[0] <= 10


def test_an_error_gives_the_memory_back() -> None:
    budget = MemoryBudget(10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.reserve(10):
            raise ZeroDivisionError


def test_a_sixteen_bit_image_is_converted_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of 8 bytes a pixel, twice, took 7.3 GB for two files of 344 kB."""
    wide = np.random.default_rng(0).integers(1 << 12, 1 << 16, (1500, 1000), dtype=np.uint16)
    data = encoded(Image.fromarray(wide), "PNG", compress_level=1)
    monkeypatch.setattr("posenet_store.images.decode.STRIP", 20_000)
    tracemalloc.start()
    try:
        decode(data, 28)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * wide.size, f"{peak / wide.size:.1f} bytes a pixel"


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
@pytest.mark.parametrize("strip", [1, 7, 1000])
def test_strips_change_no_pixel(monkeypatch: pytest.MonkeyPatch, mode: str, strip: int) -> None:
    monkeypatch.setattr("posenet_store.images.decode.STRIP", strip)
    wide = np.random.default_rng(1).integers(0, 1 << 16, (17, 23), dtype=np.uint16)
    wide[0, 0] = 0xFFFF
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (23, 17), wide.astype(kind).tobytes())
    expected = Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB").resize((9, 9), Image.Resampling.BILINEAR)
    assert (decode(encoded(image, "TIFF"), 9) == np.asarray(expected)).all()


def make_tiled_tiff(side: int, tile: int) -> bytes:
    """Return a grey LZW image of one tile, larger than itself, which holds no bytes."""
    tags = {256: side, 257: side, 258: 8, 259: 5, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BOMBS = {
    "webp": (encoded(Image.new("RGB", (1000, 1000)), "WEBP", lossless=True), 16),
    "progressive jpeg": (encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True), 10),
    "16-bit png": (encoded(Image.fromarray(np.zeros((1000, 1000), np.uint16)), "PNG"), 8),
    "tiled tiff": (make_tiled_tiff(100, 4096), 8 * 4096**2 // 100**2),
}


@pytest.mark.parametrize(("data", "least"), BOMBS.values(), ids=BOMBS)
def test_an_image_that_takes_too_much_is_quarantined_by_its_header(
    monkeypatch: pytest.MonkeyPatch, data: bytes, least: int
) -> None:
    with open_image(io.BytesIO(data)) as image:
        count, pixels = count_decoding(image, 28), image.width * image.height
    assert count >= least * pixels
    monkeypatch.setattr(module.PIXELS, "limit", count - 1)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ImageError, match=f"take {count:,} bytes to decode; at most {count - 1:,}"):
        decode(data, 28)


def test_a_long_strip_is_counted_as_it_is_scaled() -> None:
    """The centre of a strip of 1 to 20,000 is cut out of an image of 256 x 5 million pixels."""
    data = encoded(Image.new("L", (20_000, 1)), "PNG")
    with pytest.raises(ImageError, match="20000x1 pixels take"):
        decode(data, Resize(224, "center", 0.875))
    assert decode(data, 28).shape == (28, 28, 3)


def test_pixels_are_reserved_over_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (50, 50)), "PNG")
    running, peak = [0], [0]
    original = Image.Image.resize

    def resize(image: Image.Image, *words: object) -> Image.Image:
        running[0] += 1
        peak[0] = max(peak[0], running[0])
        time.sleep(0.005)
        running[0] -= 1
        return original(image, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", resize)
    monkeypatch.setattr(module.PIXELS, "limit", 2 * count_decoding(open_image(io.BytesIO(data)), 28))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data, 28), range(24)))
    assert peak[0] == 2


@pytest.mark.timeout(10)
def test_a_sparse_file_is_never_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3)
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", 20 << 30)
    digest = hash_image(folder / "sparse.png")
    with pytest.raises(ImageError, match="21,474,836,480 bytes; at most 1,073,741,824 are read"):
        read_image(folder / "sparse.png", digest)
    words = ["build-store", "--backbone", "pixels", "--images", str(folder), "--stores", str(tmp_path), "--no-probes"]
    result = CliRunner().invoke(main, [*words, "--max-unreadable", "0.5"])
    assert result.exit_code == 0, result.output
    assert "quarantined: sparse.png: the file has 21,474,836,480 bytes" in result.stderr


def test_bytes_are_reserved_until_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 12)))
    assert isinstance(images.read, FileReader)
    largest = max(path.stat().st_size for path in (tmp_path / "photos").iterdir())
    monkeypatch.setattr(module.FILES, "limit", largest)
    running: list[int] = []
    peak = [0]

    def slow(data: bytes, size: int) -> object:
        running.append(len(data))
        peak[0] = max(peak[0], sum(running))
        time.sleep(0.005)
        running.remove(len(data))
        return decode(data, size)

    monkeypatch.setattr(image_set, "decode", slow)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda index: images.read(index, 28), range(12)))
    assert peak[0] <= largest


def test_the_plan_counts_the_largest_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, backbone = write_images(tmp_path / "photos", 20), tiny_backbone()
    # what this process has held for other tests would hide what the images take
    monkeypatch.setattr("posenet_store.extraction.plan.get_peak_memory", lambda: 10**9)

    def count(source: str) -> int:
        images = load_image_set(source)
        return estimate_build(images, backbone, plan_store(images, backbone, "aligned", "float32"), 4).memory

    before = count(str(folder))
    large = encoded(Image.new("CMYK", (4000, 2000)), "JPEG", progressive=True)
    for name in ("zz1.jpg", "zz2.jpg"):  # sorted last: not among those that the plan decodes
        (folder / name).write_bytes(large)
    need = 4000 * 2000 * 16
    assert count(str(folder)) - before > 0.9 * need
    assert count(f"{folder}@transposed") - before > 0.9 * need
    assert load_image_set(str(folder)).count_reading(28, 10**6) < FILES.limit + PIXELS.limit


def test_reading_is_bounded_and_damaged_files_count_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "photos", 3)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "gone.png").symlink_to("nowhere.png")
    images = load_image_set(str(folder))
    assert [images.count_memory(index, 28) > 0 for index in range(len(images))] == [False, False, True, True, True]
    monkeypatch.setattr(module.FILES, "limit", 10)
    monkeypatch.setattr(module.PIXELS, "limit", 10)
    assert images.count_reading(28, 4) <= 20
    assert load_image_set("probes").count_reading(28, 4) == 0
