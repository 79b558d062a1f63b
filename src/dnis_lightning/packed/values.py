"""The values of kept entries in four types of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

DTypeName = Literal["fp32", "fp16", "bf16", "int8"]

STORED: Mapping[DTypeName, np.dtype] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
"""What values are stored as; NumPy has no bfloat16, so its bits stand in a uint16."""
_LARGEST = {"fp16": float(np.finfo(np.float16).max), "bf16": 2.0**127 * (2 - 2.0**-7)}
_STEPS = 127


@dataclass(frozen=True, eq=False)
class Values:
    """Numbers as they are stored, and the scale of each feature's, which there is of int8 alone.

    fp32: exact. fp16: off by no more than 2^-11 of each (2^-25, where it is smaller than 2^-14). bf16: by no more than
    2^-8 of each. int8: by no more than half a scale; scales (N,) are bfloat16, in a uint16, and at most 1 + 2^-7 times
    the largest value of the feature / 127.
    """

    dtype: DTypeName
    stored: np.ndarray
    scales: np.ndarray | None = None

    @classmethod
    def of(cls, values: np.ndarray, indptr: np.ndarray, dtype: DTypeName) -> Values:
        """Values (kept,) float32; feature i has those from indptr[i] to indptr[i + 1].

        Raises OverflowError where one of them is too large for fp16 or bf16.
        """
        if (largest := np.abs(values).max(initial=0)) > _LARGEST.get(dtype, np.inf):
            raise OverflowError(f"{dtype} holds numbers up to {_LARGEST[dtype]:g}, not {largest:g}")
        if dtype == "int8":
            return cls(dtype, *_quantised(values, indptr))
        return cls(dtype, to_bf16(values) if dtype == "bf16" else values.astype(STORED[dtype]))

    def at(self, places: np.ndarray | slice, features: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Values (n,) float32 at places (n,), of features of which each has so many of them."""
        scales = None if self.scales is None else np.repeat(from_bf16(self.scales[features]), counts)
        return self._numbers(self.stored[places], scales)

    def rows(self, features: np.ndarray, dims: int) -> np.ndarray:
        """Values (n, K) float32 of features (n,), where all have K of them."""
        scales = None if self.scales is None else from_bf16(self.scales[features])[:, None]
        return self._numbers(self.stored.reshape(-1, dims)[features], scales)

    def _numbers(self, stored: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        if scales is not None:
            return stored * scales
        return from_bf16(stored) if self.dtype == "bf16" else stored.astype(np.float32, copy=False)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The bits (uint16) of the nearest bfloat16, of two alike the even one."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    bits = single.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The numbers, float32, of such bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _quantised(values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts, largest = np.diff(indptr), np.zeros(len(indptr) - 1, dtype=np.float32)
    if len(values):
        largest[counts > 0] = np.maximum.reduceat(np.abs(values), indptr[:-1][counts > 0])
    bits = (largest / _STEPS).view(np.uint32)
    scales = ((bits + 0xFFFF) >> 16).astype(np.uint16)  # rounded up, so that 127 steps reach the largest
    steps = np.repeat(from_bf16(scales), counts)
    with np.errstate(invalid="ignore"):
        whole = np.rint(np.divide(values, steps, out=np.zeros_like(values), where=steps > 0))
    return np.clip(whole, -_STEPS, _STEPS).astype(np.int8), scales
