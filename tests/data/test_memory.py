"""Data several times larger than the memory that is left for them: prepared, and streamed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnis_lightning.data import dictionary, encoder, loader, parallel, rows, vocabulary
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.source import Chunk, Field

MIB = 1 << 20
LIMIT = 32 * MIB
ROWS, IDS, ID_BYTES, NUMBERS = 300_000, 150_000, 400, 50
"""Ids of 57 MiB, in the chunks' dictionaries twice; numbers of 57 MiB; records of 60 MiB, 48 of them train's."""


class Large:
    """A source that makes its rows as it gives them out."""

    name, task, user_field = "large", "rating", None
    fields = (Field("id", "categorical"), *(Field(f"n{number}", "numeric") for number in range(NUMBERS)))

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows

    def identity(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def chunks(self) -> Iterator[Chunk]:
        rng = np.random.default_rng(0)
        for start in range(0, self.rows, 4096):
            size = min(4096, self.rows - start)
            ids = np.array([f"{number % IDS:0{ID_BYTES}d}" for number in range(start, start + size)], dtype=object)
            numbers = rng.normal(size=(NUMBERS, size)).astype(np.float32)
            columns = {f"n{number}": numbers[number] for number in range(NUMBERS)}
            yield Chunk({"id": ids, **columns}, numbers[0], None, (start + size) / self.rows)


def shrink() -> None:
    """Make all that is held at a time about 30 times smaller than usual.

    What is held at a time is in proportion to these constants, and to the number of features, of which a model has rows
    anyway. So what passes here in 32 MiB passes with the usual ones in about 1 GiB, however many rows there are.
    """
    dictionary.TEXTS_AT_ONCE, dictionary.BYTES_AT_ONCE = 1 << 13, MIB
    vocabulary._ROWS_AT_ONCE, rows._ROWS_AT_ONCE = 1 << 13, 1 << 12
    rows._BUCKET_BYTES, rows._HELD_BYTES = 2 * MIB, MIB
    loader._STRETCH_ROWS = 1 << 11
    encoder.cores = parallel.cores = lambda: 2  # type: ignore[assignment]  # each thread holds some


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes. VmHWM is ru_maxrss, but without what the parent had before exec."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{name}:")[1].split()[0])


def limited(name: str, work: Any) -> Any:
    """Do some work with no more than LIMIT for data beyond what there is already; tell how far memory has grown."""
    import resource

    before, hard = status("VmRSS"), resource.getrlimit(resource.RLIMIT_DATA)[1]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + LIMIT, hard))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        print(json.dumps([name, (status("VmHWM") - before) / MIB]), flush=True)


def too_much(name: str, work: Any) -> None:
    """The same of work that must not fit."""
    try:
        limited(name, work)
    except MemoryError:
        return
    raise AssertionError(f"{name}: the limit does not tell")


def epoch(prepared: Prepared, buffer: int) -> int:
    """The rows of an epoch."""
    return sum(batch.size for batch in Loader([prepared.parts["train"]], batch_size=512, shuffle=True, buffer=buffer))


def main(cache: str) -> None:
    whole = dictionary.TEXTS_AT_ONCE, dictionary.BYTES_AT_ONCE
    shrink()
    epoch(prepare(Large(9000), cache=cache), MIB)  # type: ignore[arg-type]  # imports, and what libraries keep
    prepared = limited("prepare", lambda: prepare(Large(), cache=cache))  # type: ignore[arg-type]
    assert prepared.dataset.cardinalities == (IDS,)
    assert limited("epoch", lambda: epoch(prepared, 8 * MIB)) == prepared.rows["train"]
    too_much("held epoch", lambda: epoch(prepared, 1 << 40))
    dictionary.TEXTS_AT_ONCE, dictionary.BYTES_AT_ONCE = 10 * whole[0], 10 * whole[1]
    too_much("held ids", lambda: prepare(Large(), cache=cache + "-held"))  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone holds processes to RLIMIT_DATA")
def test_data_larger_than_memory_are_prepared_and_streamed(tmp_path: Path) -> None:
    plain = {  # nothing is kept back or taken ahead of need, so that what is counted is what is held
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "OMP_NUM_THREADS": "1",
    }
    code = f"import sys, {__name__} as here; here.main(sys.argv[1])"
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "cache"],
        env=os.environ | plain,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    grown = dict(map(json.loads, process.stdout.splitlines()))
    assert grown["prepare"] < 48, grown
    assert 8 < grown["epoch"] < 13, grown  # the buffer, and no other before it is gone
