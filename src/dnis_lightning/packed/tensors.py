"""Named arrays in a file of the safetensors format: written whole, read as memory maps, their size known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dnis_lightning.paths import whole_file

_NAMES = {
    np.dtype(kind): name
    for kind, name in (
        (np.uint64, "U64"),
        (np.int64, "I64"),
        (np.float32, "F32"),
        (np.uint32, "U32"),
        (np.int32, "I32"),
        (np.float16, "F16"),
        (np.uint16, "U16"),
        (np.int16, "I16"),
        (np.int8, "I8"),
        (np.uint8, "U8"),
    )
}
"""What the format calls the types of numbers, in the order in which it puts arrays."""
_KINDS = {name: kind.newbyteorder("<") for kind, name in _NAMES.items()}
DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading raises where a file is absent, damaged or something else."""
_MOST = 100 << 20
"""Bytes of a header, as the format has it."""


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], told: Mapping[str, str]) -> None:
    """Write arrays and a few words, whole or not at all."""
    with whole_file(path) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, part, dict(told))


def map_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, memory-mapped read-only, and its words.

    Raises one of `DAMAGE` where it is absent or not of this format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        if size < 8 or head > min(size - 8, _MOST):
            raise ValueError("no safetensors file")
        header: dict[str, Any] = json.loads(file.read(head))
    told = header.pop("__metadata__", {})
    start = 8 + head
    if max((start + one["data_offsets"][1] for one in header.values()), default=start) != size:
        raise ValueError(f"{size} bytes, which is not what its header says")
    whole = np.memmap(path, np.uint8, "r").view(np.ndarray)  # one for all arrays: each has a file descriptor
    return {name: _view(whole[start:], one) for name, one in header.items()}, dict(told)


def file_bytes(tensors: Mapping[str, np.ndarray], told: Mapping[str, str]) -> int:
    """The size of the file that `write_tensors` makes."""
    header: dict[str, Any] = {"__metadata__": dict(told)}
    order, end = list(_NAMES), 0
    for name, array in sorted(tensors.items(), key=lambda one: (order.index(one[1].dtype), one[0])):
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    written = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-written // 8) * 8 + end


def expect(tensors: Mapping[str, np.ndarray], name: str, kind: str, *shape: int) -> np.ndarray:
    """One of the arrays, of one of the kinds of NumPy's; see `numpy.dtype.kind`.

    Raises KeyError where it is not there, ValueError where it is of another kind or shape.
    """
    found = tensors[name]
    if found.dtype.kind not in kind or found.shape != shape:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, expected {kind} {shape}")
    return found


def _view(data: np.ndarray, one: Mapping[str, Any]) -> np.ndarray:
    kind, shape, (begin, end) = _KINDS[one["dtype"]], tuple(one["shape"]), one["data_offsets"]
    if int(np.prod(shape, dtype=np.int64)) * kind.itemsize != end - begin:
        raise ValueError("an array of another size than its shape")
    return data[begin:end].view(kind).reshape(shape)
