"""Small raw files in the real layouts, a source of any shape, and the folder of real data."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dnis_lightning.data.source import Chunk, Column, Field, TaskName
from dnis_lightning.data.store import EncodedDataset, encode

LINES = {
    "100k": [f"{u}\t{i}\t{1 + (u + i) % 5}\t{100 * u + i}" for u in range(1, 7) for i in range(1, 7)],
    "1m": [f"{u}::{i}::{1 + (u + i) % 5}::{100 * u + i}" for u in range(1, 7) for i in range(1, 7)],
    "20m": ["userId,movieId,rating,timestamp"]
    + [f"{u},{i},{1 + (u + i) % 9 / 2},{100 * u + i}" for u in range(1, 7) for i in range(1, 7)],
}
FILES = {"100k": "ml-100k/u.data", "1m": "ml-1m/ratings.dat", "20m": "ml-20m/ratings.csv"}


class Table:
    """A source made of arrays, given out `rows_at_once` rows at a time; Arrow's are lists, of a multi field."""

    name = "table"

    def __init__(
        self,
        columns: Mapping[str, Column],
        label: np.ndarray,
        time: np.ndarray | None = None,
        *,
        task: TaskName = "rating",
        user_field: str | None = None,
        rows_at_once: int = 7,
        mark: str = "",
    ) -> None:
        self.columns, self.label, self.time = columns, label, time
        self.task, self.user_field, self.rows_at_once, self.mark = task, user_field, rows_at_once, mark
        self.fields = tuple(Field(name, _kind(column)) for name, column in columns.items())

    def identity(self) -> dict[str, Any]:
        return {"rows": len(self.label), "mark": self.mark}

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, len(self.label), self.rows_at_once):
            part = slice(start, start + self.rows_at_once)
            columns = {name: column[part] for name, column in self.columns.items()}
            time = None if self.time is None else self.time[part]
            yield Chunk(columns, self.label[part], time, min(1.0, (start + self.rows_at_once) / len(self.label)))


def _kind(column: Any) -> Any:
    if not isinstance(column, np.ndarray):
        return "multi"
    return "numeric" if column.dtype.kind == "f" else "categorical"


def random_table(rows: int, *, seed: int = 0, **options: Any) -> Table:
    """Fields a (number), b (text with missing ones), c (integers); user is c; times with ties."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=rows).astype(np.float32)
    numbers[rng.random(rows) < 0.3] = np.nan
    text = np.array(["", "x", "y", "zürich", "w"], dtype=object)[rng.integers(0, 5, rows)]
    columns = {"a": numbers, "b": text, "c": rng.integers(10, 30, rows)}
    label = rng.normal(size=rows).astype(np.float32)
    return Table(columns, label, rng.integers(0, rows // 3 + 1, rows), user_field="c", **options)


def mixed_table(rows: int, *, seed: int = 0, **options: Any) -> Table:
    """Fields of all kinds: a, n (numbers), b, c as in `random_table`, tags and words (lists, some empty or null)."""
    plain, rng = random_table(rows, seed=seed), np.random.default_rng(seed + 1)
    tags = [None if rng.random() < 0.1 else rng.integers(0, 40, rng.integers(0, 7)).tolist() for _ in range(rows)]
    words = [[f"w{one}" if one else None for one in rng.integers(0, 9, rng.integers(0, 3))] for _ in range(rows)]
    columns = {
        "tags": pa.array(tags, pa.list_(pa.int64())),
        **plain.columns,
        "n": np.round(rng.exponential(5, rows)).astype(np.float32),
        "words": pa.array(words, pa.list_(pa.string())),
    }
    return Table(columns, plain.label, plain.time, user_field="c", **options)


@pytest.fixture
def table() -> Table:
    return random_table(300)


@pytest.fixture
def dataset(table: Table, tmp_path: Path) -> EncodedDataset:
    return encode(table, tmp_path / "cache")


def write_movielens(root: Path, version: str, lines: list[str] | None = None, *, zipped: bool = False) -> Path:
    """A small MovieLens in its own layout; the path of the file, or of the archive."""
    text = "\n".join(LINES[version] if lines is None else lines) + "\n"
    path = root / (f"ml-{version}.zip" if zipped else FILES[version])
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(FILES[version], text)
    else:
        path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def criteo_line(label: object = 0, **columns: object) -> str:
    """A line of train.txt; columns that are not given are missing."""
    names = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
    return "\t".join([str(label), *(str(columns.get(name, "")) for name in names)])


def write_criteo(root: Path, lines: list[str]) -> Path:
    """A train.txt where it is looked for."""
    path = root / "criteo" / "train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(errors="surrogateescape"))
    return path


@pytest.fixture
def criteo_lines() -> list[str]:
    rng = np.random.default_rng(3)
    return [
        criteo_line(
            int(rng.integers(2)), I1=int(rng.integers(-2, 50)), I2=i, C1=f"{i % 7:08x}", C26="ff" if i % 3 else ""
        )
        for i in range(40)
    ]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips the test where it is absent."""
    named = os.environ.get("DNIS_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "ml-1m.zip").exists():
        pytest.skip(f"no real data in {folder}")
    return folder


@pytest.fixture
def listing() -> Callable[[Path], list[str]]:
    """All that lies under a folder, hidden things too."""
    return lambda folder: sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("mounting is not permitted here")
    yield place
    for _ in range(20):
        if not subprocess.run(["umount", "-l", place], capture_output=True).returncode:
            break
        time.sleep(0.1)
