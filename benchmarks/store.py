"""How fast a store is read and written, beside the best that its codec could do and beside what labs do today.

All in one run, on real features: VGG-16 with HED's weights on generated images, native layout, float16, warm page cache.

read_vs_codec       our shuffled batches of all taps, one process, one thread : the same chunks read and decompressed by zstd
                    alone, into one buffer that is reused
read_vs_h5py_loader our batches, one process : rows drawn at random, one h5py read an image and tap (chunks of one image,
                    gzip level 1), in a DataLoader of one worker
loaders_vs_loaders  our batches in a DataLoader : the same rows by h5py, both with a worker a processor
readers2_vs_1       two processes that share an epoch : one that reads all of it
write_vs_codec      a committed block (statistics, checksums, digests, fsync) : zstd alone, one thread
write_vs_threads    the same : zstd alone, on all processors
writer_share        the part of a build's time in which the network waits for blocks to be committed (a share, not a ratio)

    python benchmarks/store.py [--images 128] [--json]
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numcodecs.zstd import Zstd
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from command import report_step, run
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.timing import get_peak_memory
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.formats import list_block_files
from posenet_store.store.formats import zarr_shards as shards
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.writer import StoreWriter
from posenet_store.threads import count_cpus, map_on_threads

BATCH = 32
REPEATS = 3


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three runs: the others had company."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def all_batches(reader: Reader, rank: tuple[int, int] = (0, 1)) -> None:
    """Read this rank's share of a shuffled epoch."""
    for _ in reader.torch(list(reader.spec.arrays), BATCH, rank=rank):
        pass


def bare_codec(reader: Reader) -> Callable[[], None]:
    """Read and decompress the same chunks with nothing around it: no index, no shuffle, no batch, one reused buffer."""
    root, codec = Path(str(reader.files)), Zstd()
    places = []
    for block, (start, stop) in enumerate(reader.bounds):
        for name, file in zip(reader.spec.arrays, list_block_files(reader.spec, block), strict=True):
            chunk = chunk_rows_of(root, name)
            with (root / file).open("rb") as opened:
                index = shards.read_index(opened, reader.spec.block_rows // chunk)
            used = index[: -(-(stop - start) // chunk)]
            places.append((root / file, [(int(o), int(n)) for o, n in used], (chunk, *reader.spec.arrays[name])))
    buffers = {shape: np.empty(shape, reader.spec.dtype) for _, _, shape in places}

    def work() -> None:
        for path, entries, shape in places:
            with path.open("rb") as file:
                for offset, length in entries:
                    file.seek(offset)
                    codec.decode(file.read(length), buffers[shape])

    return work


def chunk_rows_of(root: Path, name: str) -> int:
    """The rows of an inner chunk."""
    metadata = json.loads((root / "data.zarr" / name / "zarr.json").read_text())
    return int(metadata["codecs"][0]["configuration"]["chunk_shape"][0])


class PerImage(Dataset[dict[str, Tensor]]):
    """What labs do today: one HDF5 file, a chunk an image, opened in each worker, read item by item."""

    def __init__(self, path: Path, names: list[str], rows: int) -> None:
        self.path, self.names, self.rows = path, names, rows
        self.file: Any = None

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        self.file = self.file or h5py.File(self.path, "r")
        return {name: torch.from_numpy(self.file[name][row]) for name in self.names}


def per_image_file(reader: Reader, path: Path) -> PerImage:
    """Write the baseline's file."""
    with h5py.File(path, "w") as file:
        for name, shape in reader.spec.arrays.items():
            values = reader.read(name, 0, reader.spec.rows)
            file.create_dataset(name, data=values, chunks=(1, *shape), compression="gzip", compression_opts=1)
    return PerImage(path, list(reader.spec.arrays), reader.spec.rows)


def drained(loader: Any) -> Callable[[], None]:
    """Take every batch of a DataLoader."""

    def work() -> None:
        for _ in loader:
            pass

    return work


def _process(path: str, rank: tuple[int, int], barrier: Barrier, seconds: Any) -> None:
    torch.set_num_threads(1)
    reader, before = open_store(path), get_peak_memory()
    all_batches(reader, rank)  # warm
    barrier.wait()
    began = time.perf_counter()
    for _ in range(REPEATS):
        all_batches(reader, rank)
    seconds.put((time.perf_counter() - began, get_peak_memory() - before))


def in_processes(path: str, count: int) -> tuple[float, int]:
    """Seconds until `count` processes have read an epoch together, and the most memory that reading took one of them."""
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(count), spawn.Queue()
    children = [spawn.Process(target=_process, args=(path, (rank, count), barrier, answers)) for rank in range(count)]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join()
    return max(seconds for seconds, _ in found) / REPEATS, max(peak for _, peak in found)


def built(images: int, root: Path) -> tuple[Reader, float]:
    """Build the store; return it and the share of the time in which the network waited for a block to be encoded or written."""
    backbone, source = (
        load_backbone(BackboneSpec("vgg16", "hed", device="cpu")),
        load_image_set(f"synthetic:dead-leaves?n={images}"),
    )
    outcome = build_store(source, backbone, plan_store(source, backbone, "native", "float16"), root)
    return open_store(outcome.path), outcome.speed["waited_for"]["buffers"] / outcome.seconds


def writing(reader: Reader, root: Path) -> Iterator[tuple[str, float]]:
    """Seconds to write the first block: by the codec alone on one thread, on all, and as a committed block."""
    start, stop = reader.bounds[0]
    arrays = {name: reader.read(name, start, stop) for name in reader.spec.arrays}
    codec = Zstd(level=shards.LEVEL, checksum=True)
    pieces = []
    for name, values in arrays.items():
        chunk = chunk_rows_of(Path(str(reader.files)), name)
        pieces += [values[first : first + chunk] for first in range(0, len(values), chunk)]
    yield "codec", best(lambda: [codec.encode(piece) for piece in pieces])
    yield "threads", best(lambda: map_on_threads(codec.encode, pieces))
    writer = StoreWriter.open(root, reader.plan)
    yield "commit", best(lambda: writer.commit(0, arrays, []))


def measured(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the figures behind them."""
    report_step("build")
    reader, share = built(images, root)
    size = count_row_bytes(reader.spec) * reader.spec.rows
    all_batches(reader)
    report_step("read")
    codec = best(bare_codec(reader))
    ours = best(lambda: all_batches(reader))
    workers = count_cpus()
    report_step("one HDF5 file an image")
    baseline = per_image_file(reader, root / "per-image.h5")
    per_image = best(drained(DataLoader(baseline, BATCH, shuffle=True, num_workers=1)))
    per_image_workers = best(drained(DataLoader(baseline, BATCH, shuffle=True, num_workers=workers)))
    loader = DataLoader(reader.torch(list(reader.spec.arrays), BATCH), batch_size=None, num_workers=workers)
    loaded = best(drained(loader))
    report_step("one and two readers")
    (one, peak), (two, _) = in_processes(str(reader.files), 1), in_processes(str(reader.files), 2)
    report_step("write")
    seconds = dict(writing(reader, root / "written"))
    block = count_row_bytes(reader.spec) * (reader.bounds[0][1] - reader.bounds[0][0])
    ratios = {
        "read_vs_codec": codec / ours,
        "read_vs_h5py_loader": per_image / ours,
        "loaders_vs_loaders": per_image_workers / loaded,
        "readers2_vs_1": one / two,
        "write_vs_codec": seconds["codec"] / seconds["commit"],
        "write_vs_threads": seconds["threads"] / seconds["commit"],
        "writer_share": share,
    }
    rates = {"codec": codec, "ours": ours, f"ours, {workers} workers": loaded}
    rates |= {"h5py, 1 worker": per_image, f"h5py, {workers} workers": per_image_workers}
    facts = {f"read MB/s, {name}": size / value / 1e6 for name, value in rates.items()}
    facts |= {f"write MB/s, {name}": block / value / 1e6 for name, value in seconds.items()}
    return ratios, facts | {"MB that reading takes a process": peak / 1e6}


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 128, measured)
