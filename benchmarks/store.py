"""How small a store is, and how fast it is written and read, in both formats

All in one run, on real features: VGG-16 with HED's weights on generated images, native layout, float16, warm page cache.
A *codec alone* reads or makes the same chunks with nothing around it: zstd for Zarr, ISA-L for HDF5.
On one core seconds are of CPU, which other programs don't change; on all cores they are of the clock, the best of several.

smaller_FORMAT           bytes of the features : bytes of the store's data files
scan_FORMAT              all rows, block by block, one core : the codec alone, one core (speed)
batches_FORMAT           shuffled batches of all taps, one core : the codec alone, one core (speed)
all_cores_FORMAT         shuffled batches of all taps, all cores : the codec alone, all cores (speed)
write_FORMAT             a committed block (checksums, digests, fsync; no statistics), one core : the codec alone, one core
hdf5_write_vs_plain      a committed block of HDF5 : one that is not compressed, with fletcher32, all cores (speed)
hdf5_write_vs_zarr       a committed block of HDF5 : one of Zarr, all cores (speed)
hdf5_read_vs_zarr        shuffled batches of HDF5, all cores : those of Zarr (speed)
isal_vs_zstd_encode      chunks made by ISA-L, one core : by zstd (speed)
isal_vs_zstd_decode      chunks decoded by ISA-L, one core : by zstd (speed)
h5py_loader_FORMAT       our batches, one process : rows drawn at random, one h5py read an image and tap (chunks of one image,
                         gzip level 1), in a DataLoader of one worker (speed)
loaders_FORMAT           our batches in a DataLoader : the same rows by h5py, both with a worker a core (speed)
readers2_vs_1            two processes that share an epoch of Zarr : one that reads all of it (speed)
open_FORMAT              a store is opened, with all checks of what strangers may have written : its JSON files are parsed, and
                         what they name is hashed, and nothing is checked (speed)
open_plan                a plan of 100,000 images is read and checked : its JSON is parsed (speed)
writer_share             the part of a build's time in which the network waits for blocks to be committed

    python benchmarks/store.py [--images 128] [--json]
"""

import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import h5py
import numpy as np
import torch
from isal import igzip_lib
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from command import report_step, run
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.timing import get_peak_memory
from posenet_store.files import sha256, write_json
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS, BackboneSpec, StoreSpec
from posenet_store.store.access import MANIFEST, PLAN, StoreFiles
from posenet_store.store.chunking import choose_chunk_rows, count_row_bytes, take_chunk
from posenet_store.store.convert import convert_store
from posenet_store.store.feature_statistics import compute_statistics
from posenet_store.store.formats import hdf5, hdf5_chunks, list_block_files, load_format
from posenet_store.store.formats import zarr_shards as shards
from posenet_store.store.plan import read_plan
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.writer import StoreWriter
from posenet_store.threads import count_cpus, map_on_threads

BATCH = 32
ROUNDS = 4
ZSTD = Zstd(level=shards.LEVEL, checksum=True)
Seconds = dict[str, float]


class Chunk(NamedTuple):
    """Where a chunk lies, and its bytes before compression."""

    path: Path
    offset: int
    length: int
    size: int


def time_best(works: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter) -> Seconds:
    """Return the fewest seconds of each work; they take turns, so that other programs disturb all alike."""
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            began = clock()
            work()
            seconds[name] = min(seconds[name], clock() - began)
    return seconds


def time_on_one_core_and_all(works: Mapping[str, Callable[[], object]]) -> Seconds:
    """Return the CPU seconds of each work on one core, and its seconds on all cores as "NAME, all cores"."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread and those that it starts
    try:
        seconds = time_best(works, time.process_time)
    finally:
        os.sched_setaffinity(0, cores)
    return seconds | {f"{name}, all cores": value for name, value in time_best(works).items()}


def read_batches(reader: Reader, rank: tuple[int, int] = (0, 1)) -> None:
    """Read this rank's share of a shuffled epoch."""
    drain(reader.torch(list(reader.spec.arrays), BATCH, rank=rank))


def scan(reader: Reader) -> None:
    """Read all rows, block by block."""
    drain(reader.scan())


def load(dataset: Any, **options: Any) -> None:
    """Read an epoch in a DataLoader."""
    drain(DataLoader(dataset, **options))


def drain(batches: Iterable[object]) -> None:
    """Take every batch."""
    for _ in batches:
        pass


def list_chunks(reader: Reader) -> Iterator[Chunk]:
    """Yield the chunks of a store."""
    spec, root = reader.spec, Path(str(reader.files))
    for block, (start, stop) in enumerate(reader.bounds):
        for name, shape in spec.arrays.items():
            rows = choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name]))
            size = rows * int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
            if spec.format == "hdf5":
                path = root / hdf5.name_file(name, block)
                with h5py.File(path, "r") as part:
                    dataset = part[name].id
                    infos = [dataset.get_chunk_info(number) for number in range(dataset.get_num_chunks())]
                yield from (Chunk(path, info.byte_offset, info.size, size) for info in infos)
            else:
                path = root / list_block_files(spec, block)[list(spec.arrays).index(name)]
                with path.open("rb") as file:
                    index = shards.read_index(file, spec.block_rows // rows)
                used = index[: -(-(stop - start) // rows)]
                yield from (Chunk(path, int(offset), int(length), size) for offset, length in used)


def make_decoder(reader: Reader) -> Callable[[], object]:
    """Return the work of the codec alone: read and decompress the store's chunks."""
    chunks = list(list_chunks(reader))

    def decode(chunk: Chunk) -> None:
        with chunk.path.open("rb") as file:
            file.seek(chunk.offset)
            data = file.read(chunk.length)
        if reader.spec.format == "hdf5":
            igzip_lib.decompress(data, igzip_lib.DECOMP_ZLIB, bufsize=chunk.size)
        else:
            ZSTD.decode(data)

    return lambda: map_on_threads(decode, chunks)


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


def write_per_image(reader: Reader, path: Path) -> PerImage:
    """Write the file of what labs do today."""
    with h5py.File(path, "w") as file:
        for name, shape in reader.spec.arrays.items():
            values = reader.read(name, 0, reader.spec.rows)
            file.create_dataset(name, data=values, chunks=(1, *shape), compression="gzip", compression_opts=1)
    return PerImage(path, list(reader.spec.arrays), reader.spec.rows)


def _process(path: str, rank: tuple[int, int], barrier: Barrier, seconds: Any) -> None:
    torch.set_num_threads(1)
    reader, before = open_store(path), get_peak_memory()
    read_batches(reader, rank)  # warm
    barrier.wait()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        read_batches(reader, rank)
    seconds.put((time.perf_counter() - began, get_peak_memory() - before))


def read_in_processes(path: str, count: int) -> tuple[float, int]:
    """Return the seconds until `count` processes have read an epoch together, and the most memory that it took one of them."""
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(count), spawn.Queue()
    children = [spawn.Process(target=_process, args=(path, (rank, count), barrier, answers)) for rank in range(count)]
    for child in children:
        child.start()
    results = [answers.get() for _ in children]
    for child in children:
        child.join()
    return max(seconds for seconds, _ in results) / ROUNDS, max(peak for _, peak in results)


def build_stores(images: int, root: Path) -> tuple[dict[str, Reader], float]:
    """Return the store in both formats, and the share of its build in which the network waited for blocks to be committed."""
    source = load_image_set(f"synthetic:dead-leaves?n={images}")
    backbone = load_backbone(BackboneSpec("vgg16", "hed", device="cpu"))
    result = build_store(source, backbone, plan_store(source, backbone, "native", "float16"), root)
    zarr = open_store(result.path)
    readers = {"zarr": zarr, "hdf5": open_store(convert_store(zarr, "hdf5", root))}
    return readers, result.speed["waited_for"]["buffers"] / result.seconds


def encode_plain(
    spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Any, pool: object = None
) -> dict[str, list[memoryview]]:
    """Encode a part as it would be without compression: HDF5 itself writes the chunks, with fletcher32."""
    part = io.BytesIO()
    with h5py.File(part, "w", libver=("earliest", "v110")) as file:
        for name, values in arrays.items():
            rows = min(choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])), len(values))
            file.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True)
        file.create_dataset(hdf5.IDS, data=list(ids), dtype=h5py.string_dtype())
    return {hdf5.name_file(hdf5.IDS, block): [part.getbuffer()]}


def measure_writing(readers: Mapping[str, Reader], root: Path) -> Seconds:
    """Return the seconds to write the first block: by the codecs alone, and as a committed block without statistics."""
    spec, (start, stop) = readers["zarr"].spec, readers["zarr"].bounds[0]
    arrays = {name: readers["zarr"].read(name, start, stop) for name in spec.arrays}
    rows = {name: choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])) for name in arrays}
    chunks = [take_chunk(v, first, rows[name]) for name, v in arrays.items() for first in range(0, stop - start, rows[name])]
    writers = {name: StoreWriter.open(root, reader.plan) for name, reader in readers.items()}

    def commit(writer: StoreWriter) -> None:
        writer.discard(0)  # a block that is there already would not be written
        writer.commit(0, arrays, [])

    def commit_plain() -> None:
        with patch.object(hdf5, "encode_block", encode_plain):
            commit(writers["hdf5"])

    encoders = {"zarr": ZSTD.encode, "hdf5": partial(igzip_lib.compress, level=hdf5_chunks.LEVEL, flag=igzip_lib.COMP_ZLIB)}
    works: dict[str, Callable[[], object]] = {"plain": commit_plain}
    works |= {f"codec {name}": partial(map_on_threads, encoder, chunks) for name, encoder in encoders.items()}
    works |= {f"commit {name}": partial(commit, writer) for name, writer in writers.items()}
    known = compute_statistics(arrays, range(stop - start))
    with patch("posenet_store.store.writer.compute_statistics", lambda *_: known):
        return time_on_one_core_and_all(works)


def measure_reading(readers: Mapping[str, Reader]) -> Seconds:
    """Return the seconds to read each store: by its codec alone, whole and in batches, on one core and on all."""
    decoders = {name: make_decoder(reader) for name, reader in readers.items()}
    works = {f"codec {name}": decoder for name, decoder in decoders.items()}
    works |= {f"scan {name}": partial(scan, reader) for name, reader in readers.items()}
    works |= {f"batches {name}": partial(read_batches, reader) for name, reader in readers.items()}
    return time_on_one_core_and_all(works)


def open_plainly(store: Path) -> None:
    """Parse and hash what a store is opened with; check nothing."""
    plan = json.loads((store / PLAN).read_bytes())
    json.loads((store / MANIFEST).read_bytes())
    for data in [(store / entry["path"]).read_bytes() for entry in plan["files"]]:
        sha256(data)
    for path in store.glob("data.zarr/*/zarr.json"):
        json.loads(path.read_bytes())


def open_all(location: str) -> None:
    """Open a store and its arrays."""
    reader = open_store(location)
    load_format(reader.spec.format).open_arrays(reader.files, reader.spec)


def repeat(work: Callable[[], object]) -> None:
    """Do a short work 20 times."""
    for _ in range(20):
        work()


def measure_opening(readers: Mapping[str, Reader], root: Path) -> Seconds:
    """Return the CPU seconds to open each store 20 times, and a plan of many images, with and without checks."""
    works: dict[str, Callable[[], object]] = {}
    for name, reader in readers.items():
        works[f"open {name}"] = partial(repeat, partial(open_all, str(reader.files)))
        works[f"open {name} plainly"] = partial(repeat, partial(open_plainly, Path(str(reader.files))))
    plan, rows = readers["zarr"].plan, 100_000
    ids = tuple(f"train/n{row // 1300:08d}/{row:08d}.JPEG" for row in range(rows))
    spec, digests, order = replace(plan.spec, rows=rows), (plan.digests[0],) * rows, tuple(range(rows))
    many = replace(plan, spec=spec, ids=ids, digests=digests, order=order)
    write_json(root / PLAN, many.to_dict())
    works["open plan"] = partial(read_plan, StoreFiles(root))
    works["open plan plainly"] = lambda: json.loads((root / PLAN).read_bytes())
    return time_best(works, time.process_time)


def measure_loaders(readers: Mapping[str, Reader], root: Path) -> Seconds:
    """Return the seconds of an epoch in DataLoaders with one worker and with a worker a core."""
    per_image, workers = write_per_image(readers["zarr"], root / "per-image.h5"), count_cpus()
    works = {
        "per image": partial(load, per_image, batch_size=BATCH, shuffle=True, num_workers=1),
        "per image, workers": partial(load, per_image, batch_size=BATCH, shuffle=True, num_workers=workers),
    }
    for name, reader in readers.items():
        batches = reader.torch(list(reader.spec.arrays), BATCH)
        works[f"{name}, workers"] = partial(load, batches, batch_size=None, num_workers=workers)
    return time_best(works)


def measure(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the figures behind them."""
    report_step("build, and convert to HDF5")
    readers, share = build_stores(images, root)
    spec, block_rows = readers["zarr"].spec, readers["zarr"].bounds[0][1]
    size = count_row_bytes(spec) * spec.rows
    report_step("read")
    read = measure_reading(readers)
    report_step("write")
    write = measure_writing(readers, root / "written")
    report_step("open")
    opened = measure_opening(readers, root / "many")
    report_step("one HDF5 file with a chunk an image")
    loaders = measure_loaders(readers, root)
    report_step("one and two readers")
    (alone, peak), (shared, _) = (read_in_processes(str(readers["zarr"].files), count) for count in (1, 2))
    ratios = {f"smaller_{name}": size / reader.manifest["bytes"] for name, reader in readers.items()}
    for name in FORMATS:
        ratios[f"open_{name}"] = opened[f"open {name} plainly"] / opened[f"open {name}"]
        ratios[f"scan_{name}"] = read[f"codec {name}"] / read[f"scan {name}"]
        ratios[f"batches_{name}"] = read[f"codec {name}"] / read[f"batches {name}"]
        ratios[f"all_cores_{name}"] = read[f"codec {name}, all cores"] / read[f"batches {name}, all cores"]
        ratios[f"write_{name}"] = write[f"codec {name}"] / write[f"commit {name}"]
        ratios[f"h5py_loader_{name}"] = loaders["per image"] / read[f"batches {name}, all cores"]
        ratios[f"loaders_{name}"] = loaders["per image, workers"] / loaders[f"{name}, workers"]
    ratios |= {
        "hdf5_write_vs_plain": write["plain, all cores"] / write["commit hdf5, all cores"],
        "hdf5_write_vs_zarr": write["commit zarr, all cores"] / write["commit hdf5, all cores"],
        "hdf5_read_vs_zarr": read["batches zarr, all cores"] / read["batches hdf5, all cores"],
        "isal_vs_zstd_encode": write["codec zarr"] / write["codec hdf5"],
        "isal_vs_zstd_decode": read["codec zarr"] / read["codec hdf5"],
        "open_plan": opened["open plan plainly"] / opened["open plan"],
        "readers2_vs_1": alone / shared,
        "writer_share": share,
    }
    facts = {f"read MB/s, {name}": size / value / 1e6 for name, value in (read | loaders).items()}
    facts |= {f"write MB/s, {name}": count_row_bytes(spec) * block_rows / value / 1e6 for name, value in write.items()}
    return ratios, facts | {"MB that reading takes a process": peak / 1e6}


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 128, measure)
