"""What strangers can send, as a registry: how an input is drawn from samples, and what a user does with it."""

import io
import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from posenet_store.backbones.erasing import erase_inside
from posenet_store.errors import PosenetStoreError
from posenet_store.images.download import download
from posenet_store.images.sources import load_image_set
from posenet_store.images.unzip import unzip
from posenet_store.parallel.slurm import load_slurm_settings
from posenet_store.store.access_remote import open_files
from posenet_store.store.catalogue import describe_outdated, list_stores
from posenet_store.store.convert import convert_store
from posenet_store.store.reader import open_store
from posenet_store.store.removal import find_leftovers
from posenet_store.store.verify import find_damage
from posenet_store.sweep.evaluate import evaluate_external, evaluate_head
from posenet_store.sweep.head_files import ExternalHead
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.spec import EXPERIMENTS, load_sweep
from tests.support.fuzz_mutate import mutate_bytes, mutate_json, mutate_text
from tests.support.fuzz_samples import SECRETS
from tests.support.fuzz_server import RawServer
from tests.support.sign import sign_store
from tests.support.small import tiny_backbone

Make = Callable[[random.Random], bytes]
Use = Callable[[bytes, Path], object]
PART, RECORD, SHARD = "parts/part-00000.h5", "commits/b00000.json", "data.zarr/f1/c.0.0.0.0"
LIMIT = 1 << 20
OUTSIDE = tuple(f"{up}outside/{secret}" for secret in SECRETS for up in ("", "../../../", "../../../../"))
"""Files outside by names relative to the working folder, to a store, and to its parts."""


@dataclass(frozen=True)
class Target:
    """`make` draws an input; `use` does with it, in an empty folder, what users do, and raises this package's errors only."""

    make: Make
    use: Use
    network: bool = False
    """Whether any host may be connected to."""


def attempt(*works: Callable[[], object]) -> None:
    """Do all works, whatever the others raise; then raise the first error of this package, which must be a sentence."""
    errors = []
    for work in works:
        try:
            work()
        except PosenetStoreError as error:
            assert 0 < len(str(error)) < 4000, f"{len(str(error))} letters"
            errors.append(error)
    if errors:
        raise errors[0]


def use_store(root: Path, store: Path, target: str) -> None:
    """List, open, read and verify a store, and convert it into the format `target`, if that is given."""

    def list_all() -> None:
        infos, damaged = list_stores(root)
        json.dumps([info.to_dict() for info in infos])
        assert len(infos) + len(damaged) == 1
        describe_outdated(infos)
        find_leftovers(root, older=True)

    def read() -> None:
        reader = open_store(store, unsealed=True)
        assert repr(reader)
        for batch in reader.batches(batch_size=2):
            assert all(len(values) for values in batch.values())

    def convert() -> None:
        copy = convert_store(open_store(store), target, root.parent / "copies")
        assert copy.parent == root.parent / "copies"

    attempt(list_all, read, lambda: [*find_damage(store, deep=True)], *([convert] if target else []))


def edit_store(samples: Path, name: str, file: str, data: bytes, folder: Path) -> None:
    """Put an input in the place of a store's file, sign what can be signed, as its first byte says, and use the store."""
    store = Path(shutil.copytree(samples / name / "store", folder / "stores/store"))
    toss = data[0]
    (store / file).write_bytes(data[1:])
    if toss % 4:
        with suppress(Exception):  # what is no JSON, or has other fields, can't be signed
            sign_store(store)
    if toss % 3 == 0 and file != "manifest.json":
        (store / "manifest.json").unlink()
    use_store(folder / "stores", store, ("", "", "zarr", "hdf5")[toss // 16 % 4])


def make_store_target(samples: Path, name: str, file: str, make: Make) -> Target:
    """Return the target of a file of a store, whose inputs begin with a byte that says what else is done to the store."""
    return Target(lambda rng: rng.randbytes(1) + make(rng), partial(edit_store, samples, name, file))


def make_json_target(samples: Path, name: str, file: str) -> Target:
    """Return the target of a JSON file of a store."""
    content = json.loads((samples / name / "store" / file).read_text())
    return make_store_target(samples, name, file, lambda rng: mutate_json(rng, content, (*OUTSIDE, "/dev/zero")))


def make_bytes_target(samples: Path, name: str, file: str) -> Target:
    """Return the target of a data file of a store."""
    data = (samples / name / "store" / file).read_bytes()
    return make_store_target(samples, name, file, lambda rng: mutate_bytes(rng, data))


def craft_part(samples: Path, rng: random.Random) -> bytes:
    """Return an HDF5 part whose first array is stored in another way, or whose bytes are damaged."""
    data = (samples / "hdf5/store" / PART).read_bytes()
    if rng.random() < 0.7:
        return mutate_bytes(rng, data)
    part = io.BytesIO(data)
    with suppress(ValueError, TypeError, RuntimeError, OSError), h5py.File(part, "r+") as file:
        del file["f1"]
        _add_array(file, rng)
    return part.getvalue()


def _add_array(file: h5py.File, rng: random.Random) -> None:
    shape, kind = [2, 8, 16, 16], rng.randrange(8)
    if rng.random() < 0.3:
        shape[rng.randrange(4)] = rng.choice((0, 1, 3, 2**20, 2**40))
    if kind == 0:
        file["f1"] = h5py.ExternalLink(rng.choice((*OUTSIDE, "/dev/zero")), "f1")
    elif kind == 1:
        file["f1"] = h5py.SoftLink(rng.choice(("/f2", "/f1", "/", "nothing")))
    elif kind == 2:
        layout = h5py.VirtualLayout(tuple(shape), "<f2", maxshape=(None, *shape[1:]) if rng.random() < 0.5 else None)
        layout[...] = h5py.VirtualSource(rng.choice(OUTSIDE), "f1", tuple(shape), "<f2")
        file.create_virtual_dataset("f1", layout)
    elif kind == 3:
        file.create_dataset("f1", shape, "<f2", external=[(rng.choice(OUTSIDE), 0, h5py.h5f.UNLIMITED)])
    else:
        options: dict[str, Any] = {"dtype": rng.choice(("<f2", ">f2", "<f4", "<i8", "u1", "S8", "?")), "compression": "gzip"}
        options |= {"chunks": tuple(max(1, side // rng.choice((1, 1, 2))) for side in shape), "shape": shape}
        for change in ({"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True}, {"maxshape": (None,) * 4}):
            options |= change if rng.random() < 0.2 else {}
        dataset = file.create_dataset("f1", **options)
        if rng.random() < 0.7 and dataset.size < LIMIT:
            dataset[...] = np.zeros(shape, dataset.dtype)


def use_image(data: bytes, folder: Path) -> None:
    """Hash and decode an image of a folder."""
    (folder / "photos").mkdir()
    (folder / "photos/x.jpg").write_bytes(data)
    load_image_set(str(folder / "photos")).read(0, 28)


def use_head(samples: Path, data: bytes, folder: Path) -> None:
    """Score a head on a store."""
    (folder / "head.safetensors").write_bytes(data)
    evaluate_head(folder / "head.safetensors", open_store(samples / "zarr/store")).rows()


def use_weights(samples: Path, data: bytes, folder: Path) -> None:
    """Score another program's head on a store, from either kind of file."""
    path = folder / ("w.pth" if data[:2] == b"PK" or b"{" not in data[:16] else "w.safetensors")
    path.write_bytes(data)
    evaluate_external(ExternalHead(path, "H"), open_store(samples / "zarr/store")).rows()


def use_eraser(data: bytes, folder: Path) -> None:
    """Erase inside a network."""
    (folder / "eraser.safetensors").write_bytes(data)
    erase_inside(tiny_backbone(stages=1), str(folder / "eraser.safetensors"))


def make_head(samples: list[bytes], rng: random.Random) -> bytes:
    """Return a safetensors file with another header, or other bytes."""
    data = rng.choice(samples)
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4 or data[8:9] != b"{":
        return mutate_bytes(rng, data, other=rng.choice(samples))
    content = json.loads(data[8 : 8 + length])
    if "__metadata__" in content and rng.random() < 0.6:
        name = rng.choice(list(content["__metadata__"]))
        text = mutate_json(rng, {"": json.loads(content["__metadata__"][name])}, ("F16", "I64", "C64"))
        with suppress(ValueError, KeyError, RecursionError):
            content["__metadata__"][name] = json.dumps(json.loads(text)[""])
        header = json.dumps(content).encode()
    else:
        header = mutate_json(rng, content, ("F16", "I64", "C64", "BOOL", "F8_E4M3", "hidden.0.weight", "shift", "scale"))
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def use_sweep(samples: Path, data: bytes, folder: Path) -> None:
    """Read a sweep's settings and plan it, and read a cluster's."""
    path = folder / "sweep.toml"
    path.write_bytes(data)
    if b"partition" in data:
        load_slurm_settings(path)
    else:
        plan_sweep(load_sweep(path), root=samples / "sweep")


SWEEP = """title = "Fuzz"
networks = ["tiny*"]
tests = ["photos"]
holdout = 0.3
train_images = [0, 1]
inputs = ["f1", "aligned"]
targets = ["H", "G", "ramp:30"]
range = [0.0, 1.0]
kernels = [1, 3]
paddings = [0, 1]
protocols = ["ridge", "report-2020"]
seeds = [0, 1]
[ridge]
lambdas = [0.1, 1.0]
folds = 0
[report-2020]
epochs = [1, 2]
learning_rate = 0.01
"""


def make_sweep_target(samples: Path) -> Target:
    """Return the target of TOML files."""
    texts = [path.read_text() for path in sorted(EXPERIMENTS.glob("*.toml"))]
    texts += [SWEEP] * len(texts)
    texts.append('partition = "gpu"\ncores = 4\nmemory = "16GB"\nworkers = 2\njob_extra_directives = ["--gres=gpu:1"]\n')
    tokens = [line.split(" ")[0] for text in texts for line in text.splitlines() if " = " in line]
    draw = lambda rng: mutate_text(rng, rng.choice(texts), tokens).encode(errors="replace")  # noqa: E731
    return Target(draw, partial(use_sweep, samples))


def make_answer(name: bytes, body: bytes) -> bytes:
    """Return a server's whole answer."""
    head = b"HTTP/1.1 200 OK\r\nLast-Modified: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n" % len(body)
    return name + b"\n" + head + body


HTTP_TOKENS = (
    b"206 Partial Content", b"302 Found\r\nLocation: ftp://127.0.0.1/", b"302 Found\r\nLocation: http://[x/", b"416 X",
    b"500 X",    b"\r\nContent-Length: 1000000000000000", b"\r\nContent-Length: abc", b"\r\nTransfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
    b"\r\nContent-Range: bytes 0-9/10", b"\r\nContent-Encoding: gzip", b"\r\nETag: W/\"x\"", b"304 Not Modified",
    b"100 Continue",
)  # fmt: skip


def make_store_server_target(samples: Path) -> Target:
    """Return the target of a store behind a URL, one of whose files the server answers as it likes."""
    store, server = samples / "zarr/store", RawServer()
    names = ("plan.json", "manifest.json", RECORD, SHARD, "data.zarr/f1/zarr.json")
    server.folder = store

    def make(rng: random.Random) -> bytes:
        name = rng.choice(names)
        answer = make_answer(name.encode(), (store / name).read_bytes())
        skip = len(name) + 1
        return answer[:skip] + mutate_bytes(rng, answer[skip:], HTTP_TOKENS)

    def use(data: bytes, folder: Path) -> None:
        name, _, server.answer = data.partition(b"\n")
        server.name = name.decode(errors="replace")
        open_files(server.url)
        reader = open_store(server.url)
        attempt(lambda: [*reader.scan()], lambda: [*find_damage(server.url, deep=True)])

    return Target(make, use)


def make_download_target(samples: Path) -> Target:
    """Return the target of a server that `fetch` asks for an archive."""
    server = RawServer()
    answer = make_answer(b"archive", (samples / "archive.zip").read_bytes()).partition(b"\n")[2]

    def use(data: bytes, folder: Path) -> None:
        server.name, server.answer = "archive", data
        download(f"{server.url}/archive", folder / "archive", LIMIT)
        unzip(folder / "archive", folder / "unpacked", LIMIT)

    return Target(lambda rng: mutate_bytes(rng, answer, HTTP_TOKENS), use, network=True)


def make_images_target(samples: Path) -> Target:
    """Return the target of image files, in formats that are no images here, too."""
    images = [path.read_bytes() for path in sorted((samples / "images").iterdir())]
    return Target(lambda rng: mutate_bytes(rng, rng.choice(images), other=rng.choice(images)), use_image)


def use_archive(data: bytes, folder: Path) -> None:
    """Unpack an archive."""
    (folder / "a.zip").write_bytes(data)
    unzip(folder / "a.zip", folder / "unpacked", LIMIT)


def make_archive_target(samples: Path) -> Target:
    """Return the target of archives."""
    data = (samples / "archive.zip").read_bytes()
    return Target(lambda rng: mutate_bytes(rng, data, (b"../x", b"/etc/x", b"DUTS-TE/b.txt")), use_archive)


def use_tar(data: bytes, folder: Path) -> None:
    """Load and read the images of a tar file."""
    (folder / "a.tar").write_bytes(data)
    images = load_image_set(folder / "a.tar")
    images.count_reading(28, 2)
    images.read(0, 28)


def seal_tar(data: bytes) -> bytes:
    """Give each header of a tar file that may be one its checksum."""
    sealed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        if sealed[start + 257 : start + 262] == b"ustar":
            sealed[start + 148 : start + 156] = b" " * 8
            sealed[start + 148 : start + 156] = b"%06o\0 " % sum(sealed[start : start + 512])
    return bytes(sealed)


def make_tar_target(samples: Path) -> Target:
    """Return the target of tar files, most of whose headers have their checksums."""
    archives = [(samples / f"{form}.tar").read_bytes() for form in ("gnu", "pax")]
    tokens = (b"../x.png", b"/etc/x.png", b"-5 path=a\n", b"0 =\n", b"99 size=0\n", b"GNU.sparse.major=1", b"77777777777\0")
    kinds = (b"L", b"S", b"x", b"2", b"\x80")

    def make(rng: random.Random) -> bytes:
        data = mutate_bytes(rng, rng.choice(archives), tokens + kinds, other=rng.choice(archives))
        return seal_tar(data) if rng.random() < 0.9 else data

    return Target(make, use_tar)


def make_heads_target(samples: Path) -> Target:
    """Return the target of heads that a sweep wrote."""
    heads = [path.read_bytes() for path in (samples / "heads/ridge.safetensors", samples / "heads/paper.safetensors")]
    return Target(partial(make_head, heads), partial(use_head, samples))


def make_weights_target(samples: Path) -> Target:
    """Return the target of weights and heads of other programs."""
    weights = [(samples / "heads" / name).read_bytes() for name in ("weights.pth", "old.pth", "weights.safetensors")]
    return Target(partial(make_head, weights), partial(use_weights, samples))


def make_erasers_target(samples: Path) -> Target:
    """Return the target of files of what is erased."""
    return Target(partial(make_head, [(samples / "heads/eraser").read_bytes()]), use_eraser)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "plans": lambda samples: make_json_target(samples, "zarr", "plan.json"),
    "manifests": lambda samples: make_json_target(samples, "hdf5", "manifest.json"),
    "records": lambda samples: make_json_target(samples, "zarr", RECORD),
    "zarr metadata": lambda samples: make_json_target(samples, "zarr", "data.zarr/f1/zarr.json"),
    "zarr shards": lambda samples: make_bytes_target(samples, "zarr", SHARD),
    "HDF5 parts": lambda samples: make_store_target(samples, "hdf5", PART, partial(craft_part, samples)),
    "heads": make_heads_target,
    "weights": make_weights_target,
    "erasers": make_erasers_target,
    "TOML": make_sweep_target,
    "images": make_images_target,
    "archives": make_archive_target,
    "tar files": make_tar_target,
    "store servers": make_store_server_target,
    "downloads": make_download_target,
}
"""Name -> the target, made from a folder of samples in the process that uses it."""
