"""State dicts from files: tensors by name, from `.pth` or `.safetensors`; no code in a file is ever run."""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError, first_line

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
    return {re.sub(r"^(module\.)+", "", name): value for name, value in entries}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file's state dict; raises UsageError if it holds another thing, PosenetStoreError if it is damaged."""
    try:
        safe = path.suffix == ".safetensors"
        _check_archive(path)
        loaded: object = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; give a .pth or .safetensors file") from None
    except PosenetStoreError:
        raise
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path} can't be read as tensors: it is damaged, or it holds code, which is never run; "
            "save it again with torch.save(model.state_dict(), ...)"
        ) from None
    except Exception as error:  # a flipped bit can end anywhere in torch's reader: IndexError, struct.error, ...
        raise PosenetStoreError(f"{path} is damaged or cut short: {first_line(error)}") from None
    return unwrap_state_dict(loaded, path)


def _check_archive(path: Path) -> None:
    """Raise PosenetStoreError if an entry of a zip archive, which `torch.save` writes, is not what its checksum says.

    torch does not look at checksums, and takes an entry that is marked as a folder for an empty one: a damaged file would be
    loaded as other numbers.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & FOLDER]
            if damaged := next(iter(folders), None) or archive.testzip():
                raise PosenetStoreError(
                    f"{path} is damaged: {damaged} in it does not match its checksum; copy or download it again"
                )
