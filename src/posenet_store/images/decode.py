"""Decode the bytes of one image file to RGB pixels.

Rules, each with a test: RGB is the result of `PIL.Image.convert("RGB")`, which repeats greyscale, converts CMYK and
palettes, and drops alpha; of an animation the first frame is used. 16-bit images keep their upper 8 bits (PIL would clip
them to white); files of more than 8 bits that hold 12-bit values or fewer would be black and are refused.
EXIF orientation is ignored, as in torchvision and both published codes. Images are resized with PIL's
antialiased filters, as torchvision does with PIL images (see `resize`).

Only the formats of the accepted suffixes are opened, whatever a file is called. PIL knows dozens of others, and starts a
program for one of them. Whatever goes wrong is the image's fault (ImageError): a damaged file can end anywhere in PIL.
"""

import io
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from posenet_store.errors import ImageError, first_line, printable
from posenet_store.images.memory import PIXELS, count_decoding
from posenet_store.images.resize import resize_image
from posenet_store.specs import Size

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
"""Accepted suffix -> PIL's name of its format."""
DARK = 1 << 12
"""A 16-bit image without a value from here on has at most 16 of 256 grey levels."""
MAX_PIXELS = 178_956_970
"""Larger images are quarantined: the size at which PIL itself calls a file a decompression bomb."""
STRIP = 1 << 20
"""Pixels of a 16-bit image that are converted at once."""
REASON = 200
"""Letters of an error of PIL that a store records."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB; raises ImageError for floating-point images, whose range is unknown.

    >>> to_rgb(Image.new("L", (1, 1), 7)).getpixel((0, 0))
    (7, 7, 7)
    """
    image.load()
    if image.mode == "F":
        raise ImageError("a floating-point image has no known range; save it as 8 or 16 bit")
    if image.mode.startswith("I"):
        image = _keep_upper_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _keep_upper_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of an image's 16 bits, converted strip by strip; raises ImageError if its values do not fill them."""
    upper = np.empty((image.height, image.width), dtype=np.uint8)
    rows, extremes = max(1, STRIP // image.width), []
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom))).astype(np.int64)
        extremes += [strip.min(), strip.max()]
        upper[top:bottom] = strip >> 8
    low, high = min(extremes), max(extremes)
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"integer image with values {low} to {high}; 16 bit (0 to 65535) is accepted")
    if 0 < high < DARK:
        raise ImageError(f"values end at {high} of 65535: is it 8 or 12 bit in a wider file? Save it as 8 bit")
    return Image.fromarray(upper)


def open_image(file: IO[bytes]) -> Image.Image:
    """Open an image of an accepted format: its header is read, and its pixels are not; raises ImageError if it is too large."""
    image = Image.open(file, formats=tuple(dict.fromkeys(FORMATS.values())))
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    return image


def decode(data: bytes, size: Size) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 RGB [size, size, 3]; raises ImageError with the reason.

    >>> file = io.BytesIO(); Image.new("RGB", (40, 30), (9, 8, 7)).save(file, "PNG")
    >>> decode(file.getvalue(), 28)[0, 0].tolist()
    [9, 8, 7]
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        with open_image(io.BytesIO(data)) as image, PIXELS.reserve(count_decoding(image, size)):
            return resize_image(to_rgb(image), size)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not an image of an accepted format: {', '.join(dict.fromkeys(FORMATS.values()))}") from None
    except Exception as error:
        raise ImageError(f"broken image: {printable(first_line(error))[:REASON]}") from None
