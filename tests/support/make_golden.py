"""Make the golden stores of the current format version that do not exist: run once for each version, commit, never change.

python tests/support/make_golden.py
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posenet_store.backbones.load import load_backbone
from posenet_store.errors import ImageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.files import sha256
from posenet_store.images.image_set import ImageSet
from posenet_store.specs import FORMAT_VERSION, FORMATS, BackboneSpec

GOLDEN = Path(__file__).parents[2] / "stores/golden"
IDS = ("zero", "a b/ünïcode.png", "broken", "<three>", "four")


def flat(index: int, size: int) -> NDArray[np.uint8]:
    """Image i is i in red, 10 i in green, 50 i in blue; "broken" can't be read."""
    if IDS[index] == "broken":
        raise ImageError("broken on purpose")
    return np.full((size, size, 3), (index, 10 * index, 50 * index), dtype=np.uint8)


def main() -> None:
    """Write stores/golden/vN-FORMAT: five rows in blocks of two, the third image quarantined, no network, 28x28."""
    sys.argv = [Path(__file__).relative_to(GOLDEN.parents[1]).as_posix()]  # the command on record names no machine's folder
    images = ImageSet("golden", IDS, tuple(sha256(name.encode()) for name in IDS), flat)
    for name in FORMATS:
        if (golden := GOLDEN / f"v{FORMAT_VERSION}-{name}").exists():
            continue
        plan = plan_store(images, load_backbone(BackboneSpec("pixels", device="cpu")), "native", "float16", 2, name)
        path = build_store(images, load_backbone(BackboneSpec("pixels", device="cpu")), plan, GOLDEN, max_unreadable=0.5).path
        shutil.move(path, golden)


if __name__ == "__main__":
    main()
