"""What the preparation of Criteo's log takes, from its text to batches: time, memory, disk: `make preparation`.

    python -m benchmarks.preparation                     # five million made-up rows, 1.2 GB of text
    python -m benchmarks.preparation --peers             # pandas and, where it is installed, polars as well
    python -m benchmarks.preparation --wide              # the bound on memory: categories that never repeat

Every job is measured in a process of its own, on a file that was just written: it lies in the page cache as far as
memory goes. Seconds are without imports; CPU seconds are those of all threads. The peak is that of the resident set, so
libraries count, and mapped pages of files. Prints a table and writes outputs/preparation/preparation.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.criteo_log import CATEGORIES, NUMBERS, generate

if TYPE_CHECKING:  # a job imports what it measures: another's libraries shall not count as its memory
    from dnis_lightning.data.prepare import Prepared

LOG_ROWS = 45_840_617
MIN_COUNT, BATCH = 10, 4096
RANKS = (4, 16)
OUTPUT = Path("outputs/preparation/preparation.json")
_CATEGORIES = range(1 + len(NUMBERS), 1 + len(NUMBERS) + len(CATEGORIES))


def main() -> None:
    """Measure, print a table in markdown and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()), help="folder for what is made")
    parser.add_argument("--peers", action="store_true", help="measure pandas and polars as well; takes their memory")
    parser.add_argument("--wide", action="store_true", help="no value twice in the columns with more than 50,000")
    parser.add_argument("--keep", action="store_true", help="leave the made-up log in --at")
    given = parser.parse_args()
    given.at.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preparation-", dir=given.at) as folder:
        text = (given.at if given.keep else Path(folder)) / f"criteo-{given.rows}{'-wide' * given.wide}.txt"
        make = functools.partial(_make, text, given.rows, given.seed, given.wide)
        lines = [{"job": "the made-up log", **_apart(make)}]
        lines += [{"job": name, **_apart(job)} for name, job in _jobs(text, Path(folder), given.peers)]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({"rows": given.rows, "wide": given.wide, "jobs": lines}, indent=1) + "\n")
    print("\n".join(_table(lines)))


def _jobs(text: Path, folder: Path, peers: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What to measure in turn; a job tells seconds, cpu_seconds and, where they count, rows and bytes that it made."""
    cache = folder / "cache"
    yield "prepared", functools.partial(_prepare, text, cache)
    yield "opened again", functools.partial(_open, text, cache)
    yield f"a pass in batches of {BATCH:,}", functools.partial(_load, text, cache, 1)
    for world in RANKS:
        yield f"a pass as one of {world} ranks: rows of all", functools.partial(_load, text, cache, world)
    if peers:
        yield "pandas, read_csv and factorize", functools.partial(_pandas, text)
    if peers and importlib.util.find_spec("polars"):
        yield "polars, streaming to parquet and vocabulary", functools.partial(_polars, text, folder / "peer.parquet")


def _make(text: Path, rows: int, seed: int, wide: bool) -> dict[str, Any]:
    with _timed() as took:
        generate(text, rows, seed, wide=wide)
    return {**took, "rows": rows, "bytes": text.stat().st_size}


def _prepared(text: Path, cache: Path) -> tuple[Prepared, dict[str, float]]:
    from dnis_lightning.data.criteo import Criteo
    from dnis_lightning.data.prepare import prepare
    from dnis_lightning.data.vocabulary import VocabularyOptions

    with _timed() as took:
        prepared = prepare(Criteo(path=str(text)), cache=cache, options=VocabularyOptions(MIN_COUNT))
    return prepared, took


def _prepare(text: Path, cache: Path) -> dict[str, Any]:
    prepared, took = _prepared(text, cache)
    made = sum(512 * path.stat().st_blocks for path in cache.rglob("*"))
    return {**took, "rows": prepared.dataset.rows, "bytes": made, "features": prepared.vocabulary.features}


def _open(text: Path, cache: Path) -> dict[str, Any]:
    return {**_prepared(text, cache)[1]}


def _load(text: Path, cache: Path, world: int) -> dict[str, Any]:
    """The second of two passes: the first brings the rows into the page cache. A rank has BATCH rows of a batch."""
    from dnis_lightning.data.loader import Loader

    prepared, _ = _prepared(text, cache)
    loader = Loader([prepared.parts["train"]], batch_size=world * BATCH, shuffle=True, world=world)
    for _ in range(2):
        with _timed() as took:
            for _batch in loader:
                pass
    return {**took, "rows": loader.rows}


def _pandas(text: Path) -> dict[str, Any]:
    import pandas as pd

    with _timed() as took:
        table = pd.read_csv(text, sep="\t", header=None)
        for column in _CATEGORIES:
            pd.factorize(table[column])
    return {**took, "rows": len(table)}


def _polars(text: Path, parquet: Path) -> dict[str, Any]:
    """Text to parquet, then the frequent values of each column: the rows are not encoded."""
    polars: Any = importlib.import_module("polars")
    names = {f"c{n}": polars.String if n in _CATEGORIES else polars.Int64 for n in range(_CATEGORIES.stop)}
    with _timed() as took:
        polars.scan_csv(text, separator="\t", has_header=False, schema=names).sink_parquet(parquet)
        table = polars.scan_parquet(parquet)
        for column in _CATEGORIES:
            counted = table.group_by(f"c{column}").len().filter(polars.col("len") >= MIN_COUNT)
            counted.collect(engine="streaming")
    return {**took, "rows": table.select(polars.len()).collect().item(), "bytes": parquet.stat().st_size}


def _apart(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a job tells and its peak memory, in a fresh process; of a job that the system killed, that alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_with_peak, job).result()
        except BrokenProcessPool:
            return {"killed": True}


def _with_peak(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    told = job()
    return {**told, "peak_rss_mib": sum(used.ru_maxrss for used in _usage()) / 1024}


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Filled at the end: seconds and cpu_seconds, of all threads and of processes that have ended."""
    took: dict[str, float] = {}
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield took
    took.update(seconds=time.perf_counter() - wall, cpu_seconds=_cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    return sum(used.ru_utime + used.ru_stime for used in _usage())


def _usage() -> list[resource.struct_rusage]:
    """Of this process and of its children that have ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _table(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| | rows/s | s | CPU s | peak MiB | MiB on disk | minutes for {LOG_ROWS:,} rows |"
    yield f"|{'---|' * 7}"
    for line in lines:
        if "killed" in line:
            yield f"| {line['job']} | killed |{' |' * 5}"
            continue
        rate = line["rows"] / line["seconds"] if "rows" in line else None
        cells = [
            "" if rate is None else f"{rate:,.0f}",
            f"{line['seconds']:.3g}",
            f"{line['cpu_seconds']:.3g}",
            f"{line['peak_rss_mib']:,.0f}",
            f"{line['bytes'] / 2**20:,.0f}" if "bytes" in line else "",
            "" if rate is None else f"{LOG_ROWS / rate / 60:.2g}",
        ]
        yield f"| {line['job']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
