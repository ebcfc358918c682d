"""Files of weights that were made to do harm: one sentence each, before time or memory is spent."""

import io
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.state_dicts import MAX_STRUCTURE, read_state_dict

WEIGHT = torch.ones(1, 9, 3, 3)


def quantize() -> torch.Tensor:
    return torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)


TENSORS: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.ones(1, 9, 3, 3, device="meta"),
    "complex": lambda: WEIGHT.to(torch.complex64),
    "complex double": lambda: WEIGHT.to(torch.complex128),
    "sparse": WEIGHT.to_sparse,
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "8-bit float": lambda: WEIGHT.to(torch.float8_e4m3fn),
    "unsigned": lambda: WEIGHT.to(torch.uint16),
    "quantized": quantize,
    "NaN": lambda: WEIGHT * float("nan"),
    "infinite": lambda: WEIGHT.half() * 1e6,
    "minus infinity": lambda: torch.where(torch.arange(9) == 8, -float("inf"), 0.0),
    "more numbers than the file has": lambda: torch.ones(1).expand(10**12),
    "lazy": torch.nn.parameter.UninitializedParameter,
}


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore")  # torch warns of such kinds when they are made
def test_only_dense_finite_real_numbers_are_weights(tmp_path: Path, make: Callable[[], Any]) -> None:
    torch.save({"w": make(), "b": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(PosenetStoreError, match=r"'w' (is sparse|holds|has the shape)|damaged|never run") as caught:
        read_state_dict(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.complex64, torch.float8_e5m2, torch.uint16])
def test_safetensors_hold_dense_finite_real_numbers_too(tmp_path: Path, kind: torch.dtype) -> None:
    save_file({"w": WEIGHT.to(kind)}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="'w' holds numbers of the kind"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sound_weights_are_read(tmp_path: Path, kind: torch.dtype, legacy: bool) -> None:
    state = {"w": WEIGHT.to(kind), "steps": torch.tensor(3), "empty": torch.ones(0)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    loaded = read_state_dict(tmp_path / "a.pth")
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def write_zip(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive as `torch.save` does, with `content` as its pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (("data.pkl", content), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"a/{name}", data)
    return path


LISTS = b"\x80\x02" + b"]" * 4_000_000 + b"a" * 3_999_999 + b"."  # 50 million take minutes
COLLIDING = b"\x80\x02}(" + b"".join(
    b"\x8a\x0a" + (index * (2**61 - 1)).to_bytes(10, "little") + b"N" for index in range(1 << 16)
) + b"u."  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", [LISTS, COLLIDING, b"\x80\x02" + b"N0" * 10**6], ids=["lists", "colliding keys", "stack"])
def test_a_file_that_would_be_parsed_for_minutes_is_refused(tmp_path: Path, content: bytes, zipped: bool) -> None:
    path, began = tmp_path / "a.pth", time.monotonic()
    if zipped:
        write_zip(path, content)
    else:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + content)
    with pytest.raises(PosenetStoreError, match=r"too large|integer of over 64 bits"):
        read_state_dict(path)
    assert time.monotonic() - began < 10


def test_a_header_of_safetensors_is_bounded(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"x":"' + b"y" * MAX_STRUCTURE + b'"}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(PosenetStoreError, match="its header has more than"):
        read_state_dict(tmp_path / "a.safetensors")


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", b"\x80\x02]." + bytes(10**6), zipfile.ZIP_DEFLATED)
    with pytest.raises(PosenetStoreError, match="compressed"):
        read_state_dict(path)


def test_entries_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    """A directory that names the same megabyte a hundred times makes of one file a hundred."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02].")
        archive.writestr("a/data/0", bytes(10**6))
        for index in range(1, 100):
            archive.filelist.append(zipfile.ZipInfo(f"a/data/{index}"))
            vars_of = archive.filelist[-1]
            vars_of.file_size = vars_of.compress_size = 10**6
            vars_of.header_offset, vars_of.CRC = archive.filelist[1].header_offset, archive.filelist[1].CRC
    (tmp_path / "a.pth").write_bytes(file.getvalue())
    with pytest.raises(PosenetStoreError, match="larger than itself"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_name_is_shown_without_control_characters_and_cut(tmp_path: Path, name: str) -> None:
    state = {"\x1b[31m\n" + "x" * 5000: WEIGHT * float("nan")}
    torch.save(state, tmp_path / name) if name.endswith("pth") else (tmp_path / name).write_bytes(save(state))
    with pytest.raises(UsageError, match="NaN") as caught:
        read_state_dict(tmp_path / name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
