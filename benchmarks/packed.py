"""Time of looking rows up in packed tables, and their bytes on disk and in memory, beside a dense one: `make packed`.

    python -m benchmarks.packed                    # a million features × 64 dimensions; some three minutes
    python -m benchmarks.packed --features 100000  # a look

The table has entries kept at random, 10 % and 5 % of them, in batches of 4096 × 39 features drawn evenly. Dense is
`nn.Embedding` without gradients. Both write 39 MiB of rows, and whether the pages of these are new to the process, or
those of the batch before, counts for as much as the reader: there is a table for either. Readers take turns on two
cores, and the median of all rounds counts. Resident memory is that of a fresh process that has opened a file and looked
131,072 rows up by NumPy, less what it took before.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.resident import resident_bytes
from dnis_lightning.packed.values import DTypeName

DIMS, ROWS = 64, 4096 * 39
WAYS = {
    "numpy": "NumPy",
    "compiled": "compiled (Numba)",
    "torch": "torch, no gradients",
    "gradients": "torch, gradients",
}
FORMS: tuple[tuple[LayoutName, DTypeName], ...] = (
    ("csr", "fp32"),
    ("csr", "fp16"),
    ("csr", "int8"),
    ("bitmap", "fp32"),
    ("bitmap", "int8"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # the compiled loops use all cores that there are
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(2)
    wanted = np.random.default_rng(0).integers(given.features, size=ROWS)
    for memory in ("new", "reused"):
        _take_memory(reused=memory == "reused")
        print(f"\nThe memory of a batch's rows is {memory}.\n")
        print(f"| kept | table | file, MiB | resident, MiB | {' | '.join(WAYS.values())} |")
        print("|---|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for kept in (0.1, 0.05):
                _measure(kept, given.features, given.rounds, wanted, Path(folder))


def _take_memory(*, reused: bool) -> None:
    """Let the C library keep large pieces of memory for the next batch, or give each back at once; of glibc alone."""
    trim, threshold = -1, -3  # as malloc.h numbers them
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(trim, 2**31 - 1 if reused else 2**20)
        libc.mallopt(threshold, 2**30 if reused else 2**20)


def _measure(kept: float, features: int, rounds: int, wanted: np.ndarray, folder: Path) -> None:
    """Lines for one share of entries that are kept."""
    indptr, positions, values = _entries(features, kept)
    ids = torch.from_numpy(wanted)
    dense, path = torch.nn.Embedding(features, DIMS), folder / "table.safetensors"
    tables = {form: PackedTable.of(indptr, positions, values, DIMS, layout=form[0], dtype=form[1]) for form in FORMS}
    readers: dict[tuple[str, str], Callable[[], object]] = {("dense", "torch"): torch.no_grad()(lambda: dense(ids))}
    for form, table in tables.items():
        name, module = f"{form[0]}, {form[1]}", PackedLookup(table)
        readers[name, "numpy"] = lambda table=table: table.rows(wanted, compiled=False)  # type: ignore[misc]
        readers[name, "compiled"] = lambda table=table: table.rows(wanted)  # type: ignore[misc]
        readers[name, "torch"] = torch.no_grad()(lambda module=module: module(ids))
        readers[name, "gradients"] = lambda module=module: module(ids)  # type: ignore[misc]
    times = _times(readers, rounds)
    base = times["dense", "torch"]
    PackedTable.of(indptr, positions, values, DIMS, layout="dense").save(path)
    print(f"| {kept:.0%} | dense, fp32 | {_sizes(path)} | – | – | {base:.1f} ms | – |")
    for form, table in tables.items():
        name = f"{form[0]}, {form[1]}"
        table.save(path)
        cells = [f"{times[name, way]:.1f} ms ({times[name, way] / base:.2f} ×)" for way in WAYS]
        assert path.stat().st_size == table.bytes
        print(f"| {kept:.0%} | {name} | {_sizes(path)} | {' | '.join(cells)} |")


def _sizes(path: Path) -> str:
    """MiB of a file, and that a process takes which has looked rows up in it."""
    resident = resident_bytes(path)
    return f"{path.stat().st_size / 2**20:.1f} | {'–' if resident is None else f'{resident / 2**20:.0f}'}"


def _entries(features: int, kept: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, positions and values of a table of which so large a share is kept at random."""
    rng, at_once = np.random.default_rng(1), 1 << 16
    counts, positions = [], []
    for start in range(0, features, at_once):
        mask = rng.random((min(at_once, features - start), DIMS)) < kept
        counts.append(mask.sum(1))
        positions.append(mask.nonzero()[1].astype(np.uint8))
    indptr = np.append(0, np.concatenate(counts).cumsum())
    return indptr, np.concatenate(positions), rng.normal(size=indptr[-1]).astype(np.float32)


def _times(readers: dict[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Milliseconds of each reader, which take turns."""
    found: dict[tuple[str, str], list[float]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name, read in readers.items():
            began = time.perf_counter()
            read()
            if number:  # the first compiles, and touches all memory
                found[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(every) for name, every in found.items()}


if __name__ == "__main__":
    main()
