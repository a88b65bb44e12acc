"""A checkpoint: one safetensors file, with all that is no tensor as JSON in its header.

It appears whole or not at all, and reading it runs no code from it.
"""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor

Json = dict[str, Any]
KIND = "cnn-lab checkpoint 1"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


class NotACheckpoint(Exception):
    """A file that is no checkpoint, or not a whole one; the message says which and why."""


def save(path: Path, state: Json) -> None:
    """Write `state` so that `path` holds, at any moment, all of the old or of the new.

    Args:
        state: of dicts, lists, tensors, floating-point types and what JSON can hold.

    Raises: OSError, with what was at `path` unchanged.
    """
    tensors: dict[str, Tensor] = {}
    packed = _packed(state, "", tensors)
    packed["tensors_crc32"] = _sum(tensors)
    packed["crc32"] = zlib.crc32(json.dumps(packed).encode())
    # One entry: several would be written in an order of their own each time.
    write(path, pack(tensors, {KIND: json.dumps(packed)}))


def write(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut.

    Raises: OSError, with what was at `path` unchanged.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the content, before the name
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror}") from None
        raise
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name
    finally:
        os.close(folder)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` at the end, or nothing if something fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> Json:
    """What `save` wrote, with its tensors on the CPU.

    Raises: NotACheckpoint, which says what is wrong with the file.
    """
    if path.is_dir():
        raise NotACheckpoint(f"{path} is a folder, not a checkpoint")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if KIND not in header:
                raise NotACheckpoint(
                    f"{path} was not written by this version of cnn-lab: expected "
                    f"{KIND!r} in its header, got {list(header)}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise NotACheckpoint(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise NotACheckpoint(
            f"{path} is damaged, or no safetensors file: {error}"
        ) from None
    try:
        packed = json.loads(header[KIND])
        crc = packed.pop("crc32", None)
        if crc not in (None, zlib.crc32(json.dumps(packed).encode())):
            raise ValueError(crc)
        if packed.pop("tensors_crc32", None) not in (None, _sum(tensors)):
            raise NotACheckpoint(f"{path} is damaged: a tensor's bytes have changed")
        state: Json = _unpacked(packed, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotACheckpoint(f"{path} is damaged: its header cannot be read") from None
    return state


def _sum(tensors: dict[str, Tensor]) -> int:
    """Of the bytes of all tensors, in the order of their names."""
    crc = 0
    for name in sorted(tensors):
        plain = tensors[name].flatten().view(torch.uint8)
        crc = zlib.crc32(plain.numpy().data, crc)
    return crc


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with every tensor moved to `tensors`, and its name in the tensor's place."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):  # as pairs: JSON would turn a number as key into text
        pairs = [
            [k, _packed(v, f"{name}.{k}".strip("."), tensors)] for k, v in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        return [_packed(v, f"{name}.{n}", tensors) for n, v in enumerate(value)]
    return value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "dtype" in value:
            return DTYPES[value["dtype"]]
        return {key: _unpacked(v, tensors) for key, v in value["dict"]}
    return value
