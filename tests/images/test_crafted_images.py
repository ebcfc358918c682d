"""Images that were made to do harm: nothing is started, nothing is opened but the accepted formats, every error quarantines."""

import io
import random
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import ImageError
from posenet_store.images.decode import FORMATS, REASON, decode
from posenet_store.images.synthetic import load_dead_leaves

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(%pipe%touch ran) (w) file
%%EOF
"""


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def test_no_program_is_started_for_postscript(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*words: object, **options: object) -> None:
        raise AssertionError(f"{words} was started")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, start)
    for data in (EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS):
        with pytest.raises(ImageError, match="not an image of an accepted format: JPEG, PNG"):
            decode(data, 28)


OTHERS = ("AVIF", "BLP", "DDS", "EPS", "ICNS", "ICO", "IM", "JPEG2000", "MSP", "PCX", "SGI", "SPIDER", "TGA", "XBM")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore")  # PIL will drop some of them
def test_another_format_is_not_opened_whatever_it_is_called(name: str) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this PIL does not write {name}")
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F", "BLP": "P"}.get(name, "RGB")
    with pytest.raises(ImageError, match="not an image of an accepted format"):
        decode(encoded(Image.new(mode, (32, 32)), name), 28)


def test_every_accepted_format_is_opened() -> None:
    for name in dict.fromkeys(FORMATS.values()):
        assert decode(encoded(Image.new("RGB", (32, 32), (9, 8, 7)), name), 28).shape == (28, 28, 3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), RecursionError("too deep"), struct.error("short"), zlib.error("bad"), AssertionError(), KeyError("x"),
        IndexError("y"), TypeError("z"), AttributeError("a"), NotImplementedError("b"), OverflowError("c"), BufferError("h"),
        ZeroDivisionError("d"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "e"), Image.DecompressionBombError("f"),
        Image.DecompressionBombWarning("g"), RuntimeError("out of memory"), StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("step", ["open", "load"])
def test_whatever_pil_raises_quarantines_the_image(monkeypatch: pytest.MonkeyPatch, error: Exception, step: str) -> None:
    def fail(*words: object, **options: object) -> None:
        raise error

    data = encoded(Image.new("RGB", (8, 8)), "PNG")
    monkeypatch.setattr(Image, "open", fail) if step == "open" else monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageError, match=r"broken image: ."):
        decode(data, 28)


def test_a_reason_is_short_and_has_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **options: object) -> None:
        raise OSError("\x1b[31m\ud800" + "x" * 10_000)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError) as caught:
        decode(b"x", 28)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < REASON + 20


def make_samples() -> dict[str, bytes]:
    """Return small files of every accepted format and of the kinds that have ended builds."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    samples = {name: encoded(rgb, name) for name in dict.fromkeys(FORMATS.values())}
    samples |= {
        f"TIFF {kind}": encoded(rgb, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    }
    samples |= {"progressive": encoded(rgb, "JPEG", progressive=True), "lossless": encoded(rgb, "WEBP", lossless=True)}
    samples |= {
        "palette": encoded(rgb.convert("P"), "PNG"),
        "16 bit": encoded(Image.fromarray(np.ones((9, 9), np.uint16)), "PNG"),
    }
    samples |= {"moving": encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])}
    samples |= {name: encoded(rgb, name) for name in ("AVIF", "DDS", "ICO") if name in Image.SAVE}
    return samples | {"plain": b"P3 2 2 255 " + b"1 " * 12, "wide": b"P5 2 2 65535 " + b"12345678", "EPS": EPS}


@pytest.mark.parametrize("name", make_samples())
def test_mutated_files_are_pixels_or_a_reason(name: str) -> None:
    rng, sample = random.Random(name), make_samples()[name]
    for _ in range(120):
        data = bytearray(sample)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(min(len(data), rng.choice((40, 200, 10**6))))] = rng.choice(
                (0, 1, 127, 128, 255, rng.randrange(256))
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata
            try:
                assert decode(bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))]), 8).shape == (8, 8, 3)
            except ImageError as error:
                assert str(error).isprintable()


def test_a_generated_image_is_drawn_again_where_another_file_took_its_place(tmp_path: Path) -> None:
    images = load_dead_leaves(2, 0, tmp_path)
    first = images.read(1, 64)
    (path,) = tmp_path.rglob("00001.png")
    for content in (EPS, b"", b"\x89PNG\r\n\x1a\n" + bytes(100), path.read_bytes()[:500]):
        path.write_bytes(content)
        assert (images.read(1, 64) == first).all()
