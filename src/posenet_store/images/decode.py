"""Decode the bytes of one image file to RGB pixels.

Rules, each with a test: RGB is the result of `PIL.Image.convert("RGB")`, which repeats greyscale, converts CMYK and
palettes, and drops alpha; of an animation the first frame is used. 16-bit images keep their upper 8 bits (PIL would clip
them to white); files of more than 8 bits that hold 12-bit values or fewer would be black and are refused.
EXIF orientation is ignored, as in torchvision and both published codes. Images are resized with PIL's
antialiased filters, as torchvision does with PIL images (see `resize`).
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from posenet_store.errors import ImageError
from posenet_store.images.resize import resize_image
from posenet_store.specs import Size

DARK = 1 << 12
"""A 16-bit image without a value from here on has at most 16 of 256 grey levels."""
MAX_PIXELS = 178_956_970
"""Larger images are quarantined: the size at which PIL itself calls a file a decompression bomb."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB; raises ImageError for floating-point images, whose range is unknown.

    >>> to_rgb(Image.new("L", (1, 1), 7)).getpixel((0, 0))
    (7, 7, 7)
    """
    if image.mode == "F":
        raise ImageError("a floating-point image has no known range; save it as 8 or 16 bit")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ImageError(f"integer image with values {wide.min()} to {wide.max()}; 16 bit (0 to 65535) is accepted")
        if 0 < wide.max() < DARK:
            raise ImageError(f"values end at {wide.max()} of 65535: is it 8 or 12 bit in a wider file? Save it as 8 bit")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes, size: Size) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 RGB [size, size, 3]; raises ImageError with the reason.

    >>> file = io.BytesIO(); Image.new("RGB", (40, 30), (9, 8, 7)).save(file, "PNG")
    >>> decode(file.getvalue(), 28)[0, 0].tolist()
    [9, 8, 7]
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
            return resize_image(to_rgb(image), size)
    except UnidentifiedImageError:
        raise ImageError("not an image in a format that PIL knows") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"broken image: {error}") from None
