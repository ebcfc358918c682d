"""The memory of a build does not grow with the number of images."""

import subprocess
import sys
from pathlib import Path

CODE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import numpy as np
from posenet_store.images import ImageSet
from support import built_store, tiny_backbone
names = tuple(map(str, range(int(sys.argv[2]))))
flat = ImageSet("flat", names, names, lambda index, size: np.full((size, size, 3), index % 256, np.uint8))
built_store(Path(sys.argv[1]), flat, tiny_backbone(), block_rows=16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(root: Path, images: int) -> int:
    """Peak resident kilobytes of a build of that many images, in a process of its own."""
    command = [sys.executable, "-c", CODE, str(root / str(images)), str(images), str(Path(__file__).parent)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_thirteen_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    # 6,000 more images are 280 MB of features; the allocator's own noise is a few per cent of 500 MB
    small, large = peak(tmp_path, 500), peak(tmp_path, 6500)
    assert large < 1.1 * small, f"{small} kB for 500 images, {large} kB for 6,500"
