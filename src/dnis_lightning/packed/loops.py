"""Rows of a packed table in one pass each, by loops that Numba compiles, where it is installed (the extra `fast`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from dnis_lightning.packed.layouts import Bitmap, Blocks, Csr, Layout, Prefix
from dnis_lightning.packed.pointers import Pointers
from dnis_lightning.packed.values import Values, from_bf16

_ROWS_AT_ONCE = 1 << 14
"""Rows that a thread makes at a time; for fewer a second one is not worth it."""

Loop = Callable[[np.ndarray, np.ndarray], None]
"""Writes all of rows (n, K) float32, those of features (n,) int64, which have to be features of the table.

Of a damaged table rows are wrong; nothing is read or written beyond its arrays.
"""


def loop_of(layout: Layout, values: Values) -> Loop | None:
    """The loop for a table of this layout with these values; None where there is none, or no Numba."""
    if not isinstance(layout, Csr | Bitmap | Blocks | Prefix):
        return None
    try:
        kernel = _kernels(values.dtype != "fp32")[layout.name]
    except ImportError:  # not installed, or not for this NumPy
        return None
    arguments = (*_of_layout(layout), *_of_values(values))

    def loop(features: np.ndarray, rows: np.ndarray) -> None:
        pieces = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(features), _ROWS_AT_ONCE)]
        if len(pieces) < 2:
            kernel(features, rows, *arguments)
        else:
            list(_threads().map(lambda piece: kernel(features[piece], rows[piece], *arguments), pieces))

    return loop


def _of_layout(layout: Csr | Bitmap | Blocks | Prefix) -> tuple[Any, ...]:
    if isinstance(layout, Blocks):
        ends, columns = np.append(0, layout.widths.cumsum()), layout.dimensions
        return np.asarray(layout.first), np.asarray(layout.start), np.asarray(layout.pattern), ends, columns
    starts: Pointers = layout.starts
    pointers = np.asarray(starts.base), np.asarray(starts.offset), starts.shift
    if isinstance(layout, Prefix):
        return pointers
    return *pointers, np.asarray(layout.positions if isinstance(layout, Csr) else layout.bits)


def _of_values(values: Values) -> tuple[np.ndarray, ...]:
    """The values as they are stored; what each code stands for, before it is scaled; and the scales.

    scales: (N,) codes, or none; then what each of these stands for.
    """
    stored, nothing = np.asarray(values.stored), np.zeros(0, dtype=np.float32)
    if values.dtype == "fp32":
        return stored, nothing, nothing.astype(np.uint16), nothing
    bits = np.arange(1 << 16, dtype=np.uint16)
    if values.scales is not None:
        codes = np.arange(1 << 8, dtype=np.uint8).view(np.int8).astype(np.float32)
        return stored.view(np.uint8), codes, np.asarray(values.scales), from_bf16(bits)
    numbers = bits.view(np.float16).astype(np.float32) if values.dtype == "fp16" else from_bf16(bits)
    return stored.view(np.uint16), numbers, nothing.astype(np.uint16), nothing


@cache
def _kernels(coded: bool) -> dict[str, Any]:
    """The loops by layout, for values that are stored as codes or as they are; compiled when first called."""
    import numba

    compiled = numba.njit(nogil=True, error_model="numpy")

    if coded:

        @compiled
        def number(code: Any, numbers: Any, scale: Any) -> Any:
            return numbers[code] * scale

    else:

        @compiled
        def number(code: Any, numbers: Any, scale: Any) -> Any:
            return code

    @compiled
    def scale_of(feature: Any, scales: Any, meant: Any) -> Any:
        return meant[scales[feature]] if len(scales) else np.float32(1)

    @compiled
    def clear(rows: Any, row: Any) -> None:
        for column in range(rows.shape[1]):
            rows[row, column] = 0

    @compiled
    def csr(features, rows, base, offset, shift, positions, stored, numbers, scales, meant):  # type: ignore[no-untyped-def]
        for row, feature in enumerate(features):
            clear(rows, row)
            scale = scale_of(feature, scales, meant)
            start = np.int64(base[feature >> shift]) + np.int64(offset[feature])
            end = np.int64(base[(feature + 1) >> shift]) + np.int64(offset[feature + 1])
            for place in range(max(start, 0), min(end, len(stored))):
                if positions[place] < rows.shape[1]:
                    rows[row, positions[place]] = number(stored[place], numbers, scale)

    @compiled
    def prefix(features, rows, base, offset, shift, stored, numbers, scales, meant):  # type: ignore[no-untyped-def]
        for row, feature in enumerate(features):
            clear(rows, row)
            scale = scale_of(feature, scales, meant)
            start = np.int64(base[feature >> shift]) + np.int64(offset[feature])
            end = np.int64(base[(feature + 1) >> shift]) + np.int64(offset[feature + 1])
            for place in range(max(start, 0), min(end, len(stored), start + rows.shape[1])):
                rows[row, place - start] = number(stored[place], numbers, scale)

    @compiled
    def bitmap(features, rows, base, offset, shift, bits, stored, numbers, scales, meant):  # type: ignore[no-untyped-def]
        for row, feature in enumerate(features):
            clear(rows, row)
            scale = scale_of(feature, scales, meant)
            place = np.int64(base[feature >> shift]) + np.int64(offset[feature])
            for byte in range(bits.shape[1]):
                left, column = bits[feature, byte], 8 * byte
                while left:
                    if left & 1 and 0 <= place < len(stored) and column < rows.shape[1]:
                        rows[row, column] = number(stored[place], numbers, scale)
                        place += 1
                    left >>= 1
                    column += 1

    @compiled
    def blocks(features, rows, first, start, pattern, ends, columns, stored, numbers, scales, meant):  # type: ignore[no-untyped-def]
        for row, feature in enumerate(features):
            clear(rows, row)
            scale = scale_of(feature, scales, meant)
            run = np.searchsorted(first, feature, side="right") - 1
            begin, end = ends[pattern[run]], ends[pattern[run] + 1]
            place = np.int64(start[run]) + (feature - np.int64(first[run])) * (end - begin) - begin
            for nth in range(begin, end):
                if 0 <= place + nth < len(stored):
                    rows[row, columns[nth]] = number(stored[place + nth], numbers, scale)

    return {"csr": csr, "prefix": prefix, "bitmap": bitmap, "blocks": blocks}


@cache
def _threads() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores)


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of its parent's threads
