"""The memory of a build does not grow with the number of images."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import numpy as np
from posenet_store.images.image_set import ImageSet
from tests.support.small import built_store, tiny_backbone
names = tuple(map(str, range(int(sys.argv[2]))))
flat = ImageSet("flat", names, names, lambda index, size: np.full((size, size, 3), index % 256, np.uint8))
built_store(Path(sys.argv[1]), flat, tiny_backbone(size=224), block_rows=16)
# Linux keeps ru_maxrss of the process that started this one, which has run all the tests before.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
PIXEL_BYTES = 3 * 224 * 224


def started(root: Path, images: int) -> "subprocess.Popen[str]":
    """A build of that many images in a process of its own, which prints its peak resident kilobytes."""
    command = [sys.executable, "-c", CODE, str(root / str(images)), str(images), str(Path(__file__).parents[2])]
    # two builds at a time, one thread each: threads of a loaded machine would wait for one another
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_four_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    processes = [started(tmp_path, images) for images in (150, 600)]
    small, large = (int(process.communicate(timeout=120)[0]) for process in processes)
    # 450 more images are 280 MB of features and 68 MB of pixels; half of the pixels alone would be seen
    assert 1024 * (large - small) < 450 * PIXEL_BYTES / 2, f"{small} kB for 150 images, {large} kB for 600"
    assert abs(large - small) < 0.1 * small
