"""All of DUT-S on this machine: do time and memory hold what the plans promise, and does anything get lost?

As many JPEG files as DUT-S has, in its folders, drawn or copied from a folder of your own. The training images are built by
two Dask workers: one is killed, another comes, then the command itself is killed and run again. The test images are built
by one process. Both stores are verified deeply. Then heads are trained on all training images and scored on the test images:
Table 2, kernels 1 to 7 by the report's recipe, and all channels exactly; and again on a tenth of the training images.

seconds_STEP  measured seconds : planned ones
memory_STEP   measured peak of the process : planned one, with what the libraries hold
tenth_STEP    SPC of the heads that a tenth of the images trained : of all images, the mean of both over the heads

    python benchmarks/dut_s.py [--images 15572] [--photos FOLDER] [--json]
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from command import Figures, report_step, run
from posenet_store.images.sources import DUTS
from posenet_store.images.synthetic import draw_dead_leaves
from posenet_store.threads import count_cpus
from processes import PROGRAM, run_dask, start, watch

IMAGES = sum(images for _, images in DUTS.values())
SIZE = (400, 300)  # of most of DUT-S's images
SOURCES = 400  # images of which each is cut and turned into many
NETWORK = ("--backbone", "shufflenet_v2_x0_5", "--weights", "random:0", "--layout", "readout", "--no-probes")
LIBRARIES = "import h5py, scipy.linalg, torch, zarr, posenet_store.cli.sweep, posenet_store.extraction.build"
SWEEPS = {
    "table2": 'protocols = ["report-2020", "ridge"]',
    "kernels": 'kernels = [1, 3, 5, 7]\ntargets = ["H", "G"]\nseeds = [0]',
    "channels": 'protocols = ["ridge"]\nkernels = [1]\ninputs = ["full"]',
}


def cut_image(sources: Sequence[Image.Image], path: Path, seed: int) -> None:
    """Write a JPEG file: a part of one of the sources, turned or mirrored."""
    rng = np.random.default_rng(seed)
    source = sources[int(rng.integers(len(sources)))]
    width, height = (int(side * rng.uniform(0.6, 1.0)) for side in source.size)
    left, top = (int(rng.integers(side - part + 1)) for side, part in zip(source.size, (width, height), strict=True))
    turned = source.crop((left, top, left + width, top + height)).transpose(Image.Transpose(int(rng.integers(7))))
    turned.resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)


def draw_image(folder: Path, index: int) -> None:
    """Draw an image that others are cut from."""
    Image.fromarray(draw_dead_leaves(1, index)).save(folder / f"{index}.jpg", quality=95)


def write_images(folder: Path, photos: Path, span: tuple[int, int]) -> None:
    """Write the images `span` of a set below `folder`; runs in a process of its own."""
    sources = [Image.open(path).convert("RGB") for path in sorted(photos.rglob("*.jp*g"))[:SOURCES]]
    for index in range(*span):
        cut_image(sources, folder / f"ILSVRC2012_{index:08d}.jpg", index)


def write_sets(root: Path, photos: Path | None, images: int) -> dict[str, Path]:
    """Write both sets with their share of the images; return the folder of each by its name."""
    folders, first = {}, 0
    with ProcessPoolExecutor(count_cpus()) as executor:
        if photos is None:
            photos = root / "drawn"
            photos.mkdir()
            list(executor.map(partial(draw_image, photos), range(SOURCES)))
        for name, (subfolder, size) in DUTS.items():
            folders[name] = root / subfolder
            folders[name].mkdir(parents=True)
            count = round(size * images / IMAGES)
            edges = np.linspace(first, first + count, count_cpus() + 1).astype(int).tolist()
            first += count
            list(executor.map(partial(write_images, folders[name], photos), pairwise(edges)))
    return folders


def ask(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Return what a command prints as JSON; raises SystemExit with its errors if it fails."""
    done = subprocess.run((*PROGRAM, *words, "--json"), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    facts: dict[str, float] = json.loads(done.stdout)
    return facts


def measure_libraries(folder: Path) -> int:
    """Return the bytes that a process holds which has only imported what the commands import."""
    show = f"{LIBRARIES}; import psutil; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run((sys.executable, "-c", show), cwd=folder, capture_output=True, text=True, check=True).stdout)


def build_with_losses(words: Sequence[str], folder: Path, blocks: int) -> float:
    """Build on Dask workers of which one is killed and another comes, the command is killed and typed again; its seconds."""

    def wait_for(share: float, command: subprocess.Popen[str]) -> None:
        while len(list(folder.glob("stores/*/commits/*.json"))) < share * blocks:
            if command.poll() is not None:
                raise SystemExit((folder / "log.txt").read_text(encoding="utf-8")[-3000:])
            time.sleep(0.1)

    with run_dask(folder) as (address, start_worker):
        first, _ = start_worker(), start_worker()
        began = time.perf_counter()
        build = (*PROGRAM, "build-store", *words, "--scheduler", address, "--workers", "2")
        command = start(build, folder)
        wait_for(0.25, command)
        first.send_signal(signal.SIGKILL)
        start_worker()
        wait_for(0.5, command)
        command.send_signal(signal.SIGKILL)
        command.wait()
        report_step("  a worker and the command were killed; the command again")
        watch(start(build, folder), folder)
        return time.perf_counter() - began


def measure_builds(folder: Path, sets: dict[str, Path], libraries: int, figures: Figures) -> Figures:
    """Build and verify both stores; return measured : planned."""
    ratios: Figures = {}
    for name, images in sets.items():
        words = ("--images", str(images), *NETWORK)
        plan = ask(("build-store", *words, "--plan"), folder)
        report_step(f"build {name}: {plan['seconds']:.0f} s planned")
        if name == "duts-tr":
            seconds = build_with_losses(words, folder, int(plan["blocks"]))
        else:
            seconds, peak = watch(start((*PROGRAM, "build-store", *words), folder), folder)
            ratios["memory_build"] = peak / (plan["memory"] + libraries)
        label = "build_in_parts" if name == "duts-tr" else "build"
        ratios[f"seconds_{label}"] = seconds / plan["seconds"]
        figures |= {f"{label}: planned s": plan["seconds"], f"{label}: measured s": seconds}
        figures[f"{label}: images a second"] = plan["images"] / seconds
    report_step("verify deeply")
    for store in sorted((folder / "stores").glob("shuffle*")):
        watch(start((*PROGRAM, "verify", str(store), "--deep"), folder), folder)
    return ratios


def sweep(name: str, settings: str, folder: Path) -> tuple[dict[str, float], float, int, dict[str, float]]:
    """Plan and run a sweep in one process: its plan, its seconds, its peak in bytes, and the mean SPC of each question."""
    head = 'holdout = 0.0\ntrain = ["*TR*"]\ntests = ["*TE*"]\n'
    (folder / f"{name}.toml").write_text(f'title = "{name}"\n{head}{settings}\n', encoding="utf-8")
    words = ("sweep", f"{name}.toml", "--scheduler", "inline", "--run", name, "--no-keep-moments")
    plan = ask((*words, "--plan"), folder)
    report_step(f"sweep {name}: {plan['seconds']:.0f} s planned")
    seconds, peak = watch(start((*PROGRAM, *words), folder), folder)
    with (folder / name / "results.csv").open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    column = next(key for key in rows[0] if key.endswith(":spc"))
    questions = {"-".join(row[key] for key in ("input", "target", "kernel", "protocol", "seed")): row for row in rows}
    return plan, seconds, peak, {question: float(row[column]) for question, row in questions.items()}


def measure_sweeps(folder: Path, train_images: int, libraries: int, figures: Figures) -> Figures:
    """Run every sweep on all training images and on a tenth of them; return the ratios."""
    ratios: Figures = {}
    for name, settings in SWEEPS.items():
        plan, seconds, peak, scores = sweep(name, settings, folder)
        *_, tenth = sweep(f"{name}_tenth", f"{settings}\ntrain_images = [{train_images // 10}]", folder)
        ratios[f"seconds_{name}"] = seconds / plan["seconds"]
        ratios[f"memory_{name}"] = peak / (plan["memory"] + libraries)
        ratios[f"tenth_{name}"] = fmean(tenth.values()) / fmean(scores.values())
        figures |= {f"{name}: heads": len(scores), f"{name}: planned s": plan["seconds"], f"{name}: measured s": seconds}
        figures |= {f"{name}: planned MB": (plan["memory"] + libraries) / 1e6, f"{name}: measured MB": peak / 1e6}
        figures |= {f"{name}: SPC": fmean(scores.values()), f"{name}: SPC, a tenth": fmean(tenth.values())}
        figures[f"{name}: largest difference of a head"] = max(abs(scores[key] - tenth[key]) for key in scores)
        report_step(f"  {seconds:.0f} s, {peak / 1e6:.0f} MB")
    return ratios


def measure(images: int, folder: Path, photos: str) -> tuple[Figures, Figures]:
    """Return the ratios and the figures behind them."""
    os.environ.pop("POSENET_STORES", None)
    report_step("write the images")
    sets = write_sets(folder, Path(photos) if photos else None, images)
    libraries = measure_libraries(folder)
    figures: Figures = {"images": images, "libraries MB": libraries / 1e6}
    ratios = measure_builds(folder, sets, libraries, figures)
    return ratios | measure_sweeps(folder, len(list(sets["duts-tr"].iterdir())), libraries, figures), figures


if __name__ == "__main__":
    run(__doc__, IMAGES, measure, photos="folder of JPEG files that are cut instead of drawn images")
