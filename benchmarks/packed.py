"""Time of looking rows up in packed tables, and their bytes on disk and in memory, beside a dense one: `make packed`.

    python -m benchmarks.packed                    # a million features × 64 dimensions; some three minutes
    python -m benchmarks.packed --features 100000  # a look

The table has entries kept at random, 10 % and 5 % of them, in batches of 4096 × 39 features drawn evenly. Dense is
`nn.Embedding` without gradients. Readers take turns, and the median of all rounds counts. Resident memory is that of a
fresh process that has opened a file and looked up a batch, less what the process takes without. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import DTypeName

DIMS, ROWS = 64, 4096 * 39
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
    torch.set_num_threads(2)
    wanted = np.random.default_rng(0).integers(given.features, size=ROWS)
    print("| kept | table | file, MiB | resident, MiB | NumPy | compiled | torch, no gradients | torch, gradients |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kept in (0.1, 0.05):
            _measure(kept, given.features, given.rounds, wanted, Path(folder))


def _measure(kept: float, features: int, rounds: int, wanted: np.ndarray, folder: Path) -> None:
    """Lines for one share of entries that are kept."""
    indptr, positions, values = _entries(features, kept)
    ids = torch.from_numpy(wanted)
    dense = torch.nn.Embedding(features, DIMS)
    np.save(folder / "dense.npy", dense.weight.detach().numpy())
    tables = {form: PackedTable.of(indptr, positions, values, DIMS, layout=form[0], dtype=form[1]) for form in FORMS}
    readers: dict[tuple[str, str], Callable[[], object]] = {("dense", "torch"): torch.no_grad()(lambda: dense(ids))}
    for form, table in tables.items():
        name, module = f"{form[0]}, {form[1]}", PackedLookup(table)
        plain = PackedTable(table.layout, table.values)
        plain.__dict__["_loop"] = None  # as where Numba is not installed
        readers[name, "numpy"] = lambda plain=plain: plain.rows(wanted)  # type: ignore[misc]
        readers[name, "compiled"] = lambda table=table: table.rows(wanted)  # type: ignore[misc]
        readers[name, "torch"] = torch.no_grad()(lambda module=module: module(ids))
        readers[name, "gradients"] = lambda module=module: module(ids)  # type: ignore[misc]
    times = _times(readers, rounds)
    base = times["dense", "torch"]
    size, resident = (folder / "dense.npy").stat().st_size, _resident(folder / "dense.npy", features)
    print(f"| {kept:.0%} | dense, fp32 | {size / 2**20:.1f} | {resident:.0f} | – | – | {base:.1f} ms | – |")
    for form, table in tables.items():
        path, name = folder / "table.safetensors", f"{form[0]}, {form[1]}"
        table.save(path)
        cells = [f"{times[name, way]:.1f} ms ({times[name, way] / base:.2f} ×)" for way in WAYS]
        assert path.stat().st_size == table.bytes
        sizes = f"{table.bytes / 2**20:.1f} | {_resident(path, features):.0f}"
        print(f"| {kept:.0%} | {name} | {sizes} | {' | '.join(cells)} |")


WAYS = ("numpy", "compiled", "torch", "gradients")


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


_PROBE = f"""
import sys
import numpy as np
from dnis_lightning.packed import PackedTable

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

path, features = sys.argv[1:]
wanted = np.random.default_rng(0).integers(int(features), size={ROWS})
small = PackedTable.of(np.arange(3), np.zeros(2, np.uint8), np.ones(2, np.float32), {DIMS}, layout="csr")
small.rows(np.zeros(4096, np.int64))
before = resident()
table = np.load(path, mmap_mode="r") if path.endswith(".npy") else PackedTable.load(path)
for start in range(0, len(wanted), 4096):
    some = wanted[start : start + 4096]
    table[some] if path.endswith(".npy") else table.rows(some)
print(resident() - before)
"""


def _resident(path: Path, features: int) -> float:
    """MiB that a fresh process takes more for a table that it has opened and looked a batch up in."""
    command = [sys.executable, "-c", _PROBE, str(path), str(features)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
