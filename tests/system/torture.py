"""Kill a build with SIGKILL at random moments, again and again, and compare what comes out with an undisturbed build.

    python -m tests.system.torture [--kills 100] [--seed 0]

Each round is a build in a child process that is killed after a random delay and then resumed; rounds end when the store
is sealed, then a new store begins, in turn zarr and hdf5. Prints kills, stores, and every difference (there must be none).
"""

import argparse
import itertools
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from tests.support.small import contents, tiny_backbone, write_images


def one_build(photos: Path, root: Path, name: str) -> None:
    """Build the store of one format below `place`: the work of a child process."""
    images, backbone = load_image_set(str(photos)), tiny_backbone()
    build_store(images, backbone, plan_store(images, backbone, "native", "float16", 4, name), root)


def survived(photos: Path, root: Path, name: str, rng: random.Random, longest: float) -> tuple[Path, int]:
    """Start builds, kill each after at most `longest` seconds until one comes through; return its store and the kills."""
    processes = multiprocessing.get_context("forkserver")  # a fork of this process would inherit its threads' locks
    processes.set_forkserver_preload(["tests.support.small"])
    for kills in itertools.count():
        child = processes.Process(target=one_build, args=(photos, root, name))
        child.start()
        child.join(rng.uniform(0.1, 1.0) * longest)
        child.kill()
        child.join()
        if child.exitcode == 0:
            return next(path for path in root.iterdir() if not path.name.startswith(".")), kills
    raise AssertionError("unreachable")


def main() -> int:
    """Run the torture; the exit code is the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, kills, stores, differences = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos = write_images(root / "photos", 61)
        expected, seconds = {}, {}
        for name in FORMATS:
            began = time.perf_counter()
            expected[name] = contents(survived(photos, root / f"whole-{name}", name, rng, 6000)[0])
            seconds[name] = time.perf_counter() - began
        while kills < options.kills:
            name = FORMATS[stores % len(FORMATS)]
            store, more = survived(photos, root / f"store{stores}", name, rng, 1.1 * seconds[name])
            wrong = contents(store) != expected[name] or any(find_damage(store, deep=True)) or len(open_store(store).ids) != 61
            kills, stores, differences = kills + more, stores + 1, differences + wrong
    print(f"{kills} kills over {stores} stores ({', '.join(FORMATS)}): {differences} differ from an undisturbed build")
    return differences


if __name__ == "__main__":
    sys.exit(main())
