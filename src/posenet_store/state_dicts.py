"""State dicts from files: tensors by name, from `.pth` or `.safetensors`; no code in a file is ever run.

What a file says of its tensors is bounded before it is parsed, and each tensor is an ordinary one: on the CPU, dense, with a
place in the file for every number, and finite.
"""

import io
import pickle
import pickletools
import re
import zipfile
from math import isfinite
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError, first_line, show_value
from posenet_store.files import TENSOR_SUFFIXES

MAX_STRUCTURE = 1 << 20
"""Bytes of what a file says of its tensors, besides their numbers: 200 a tensor. More would be parsed for minutes."""
LARGEST_INTEGER = 1 << 63
"""Dictionaries of larger ones can be made so that filling them takes hours; no state dict needs one."""
LEGACY_PICKLES = 5
"""A `.pth` file of before torch 1.6 begins with that many pickles; the first is a large integer that names the format."""
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Kinds of numbers that a state dict may hold; whole ones count batches."""
FOLDER = 0x10
"""The attribute of a zip archive's entry that is a folder."""


def unwrap_state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    """Accept a state dict, or a training checkpoint that holds one, saved from a plain or a parallel model.

    Raises UsageError if `loaded`, the content of `path`, is neither.
    """
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    entries = loaded.items() if isinstance(loaded, dict) else ()
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries):
        raise UsageError(f"{path} holds no state dict (names -> tensors); save it with torch.save(model.state_dict(), ...)")
    state = {re.sub(r"^(module\.)+", "", name): value for name, value in entries}
    for name, value in state.items():
        if fault := find_fault(value):
            raise UsageError(f"{path} can't be used: {show_value(name)} {fault}; save dense tensors of finite numbers")
    return state


def find_fault(value: Tensor, finite: bool = True) -> str | None:
    """Return why a tensor is none of ordinary numbers, or of finite ones if they must be, None if it is.

    >>> find_fault(torch.ones(2)), find_fault(torch.tensor([float("nan")]))
    (None, 'holds NaN or infinite numbers')
    """
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided or value.device.type != "cpu":
        return "is sparse, nested, or has no numbers"
    if value.dtype not in (*FLOATING, *WHOLE):
        return f"holds numbers of the kind {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has the shape {list(value.shape)}, and not as many numbers"
    return None if not finite or is_finite(value) else "holds NaN or infinite numbers"


def is_finite(value: Tensor) -> bool:
    """Return whether no number is NaN or infinite."""
    if value.dtype not in FLOATING or not value.numel():
        return True
    low, high = value.detach().aminmax()
    return isfinite(low) and isfinite(high)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file, and its metadata; raises ValueError or SafetensorError if it is damaged."""
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > MAX_STRUCTURE:
            raise ValueError(f"its header has more than {MAX_STRUCTURE:,} bytes")
    with safe_open(path, "pt") as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file's state dict; raises UsageError if it holds another thing, PosenetStoreError if it is damaged."""
    try:
        loaded = read_safetensors(path)[0] if path.suffix == ".safetensors" else _load_pth(path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; give a .pth or .safetensors file") from None
    except PosenetStoreError:
        raise
    except Exception as error:  # a flipped bit can end anywhere in torch's reader: IndexError, struct.error, ...
        if path.suffix not in TENSOR_SUFFIXES:
            raise UsageError(f"{path} is no state dict; give a file of {', '.join(TENSOR_SUFFIXES)}") from None
        if isinstance(error, pickle.UnpicklingError):
            raise UsageError(
                f"{path} can't be read as tensors: it is damaged, or it holds code, which is never run; "
                "save it again with torch.save(model.state_dict(), ...)"
            ) from None
        raise PosenetStoreError(f"{path} is damaged or cut short: {first_line(error)}") from None
    return unwrap_state_dict(loaded, path)


def _load_pth(path: Path) -> object:
    """Load what `torch.save` wrote, of tensors only, once its structure is checked."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
    else:
        with path.open("rb") as file:
            _check_pickles(file.read(MAX_STRUCTURE + 1), LEGACY_PICKLES, path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise PosenetStoreError if an entry of a zip archive is compressed, too large, or not what its checksum says.

    torch does not look at checksums, and takes an entry that is marked as a folder for an empty one: a damaged file would be
    loaded as other numbers. It compresses nothing.
    """
    entries = archive.infolist()
    folders = (entry.filename for entry in entries if entry.external_attr & FOLDER)
    packed = (entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if name := next(packed, None):
        raise PosenetStoreError(f"{path} is damaged: {name} in it is compressed, which torch.save does not do; save it again")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise PosenetStoreError(f"{path} is damaged: its entries are larger than itself; copy or download it again")
    if damaged := next(folders, None) or archive.testzip():
        raise PosenetStoreError(f"{path} is damaged: {damaged} in it does not match its checksum; copy or download it again")
    for entry in entries:
        if entry.filename.endswith("data.pkl"):
            with archive.open(entry) as file:
                _check_pickles(file.read(MAX_STRUCTURE + 1), 1, path)


def _check_pickles(content: bytes, count: int, path: Path) -> None:
    """Raise PosenetStoreError if the first `count` pickles do not end within `MAX_STRUCTURE` bytes, or hold a huge integer.

    Nothing is built of them here. What is no pickle is left for torch to say.
    """
    stream = io.BytesIO(content)
    try:
        for index in range(count):
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, int) and abs(argument) >= LARGEST_INTEGER and (index or count == 1):
                    raise PosenetStoreError(f"{path} holds an integer of over 64 bits, which no state dict needs")
    except ValueError:
        if len(content) > MAX_STRUCTURE and not stream.read(1):
            raise PosenetStoreError(
                f"{path} is too large: what it says of its tensors takes more than {MAX_STRUCTURE:,} bytes"
            ) from None
