"""Whether the search does well without retuning, on other seeds, widths, blocks, batches and rows: `make robust`.

    python -m benchmarks.robust                  # everything; hours
    python -m benchmarks.robust --only width     # one series
    python -m benchmarks.robust --jobs 1         # at a time, 2 where nothing is said
    python -m benchmarks.robust --table          # the tables of what is there already

Each setting is run by `search=dnis` as it is by default, cut to 10 % of the bytes, and beside it are a plain table a
tenth as wide and one of K = 0, of the same data, batch and seed, trained on as what is cut is. Finished runs are passed
over, so that what was cut short goes on. DNIS_DATA names the folder of the raw data. Those of other defaults count,
too: empty outputs/robust after an update.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runs import RATINGS, TWEETS, Row, cell, finished, refuse_absent, sweep

OUTPUTS = Path("outputs/robust")
SHARE = 10
"""Percent of the bytes that are kept."""
FIRST_ROWS = OUTPUTS / "first-10000.tsv"
BY_DEFAULT = {"search.base_dim": 64, "search.blocks": 10, "data.batch_size": 4096, "seed": 0}
COUNTS = ("kept", "bytes", "bytes, plain", "dead blocks", "warnings")
Keys = Mapping[str, int]


@dataclass(frozen=True)
class Series:
    """Settings that differ in one key. data: arguments; label: of the data, where series of several share a table."""

    name: str
    key: str
    values: tuple[int, ...]
    data: tuple[str, ...] = ("data=movielens-100k", "model=mf")
    label: str = ""
    others: tuple[tuple[str, int], ...] = ()

    @property
    def folder(self) -> Path:
        """Of its runs; series on the same data share those that they have in common."""
        named = (word.partition("=")[2] for word in self.data if word.startswith(("data=", "data.n", "model=")))
        return OUTPUTS / "-".join(named)

    @property
    def settings(self) -> list[Keys]:
        """The keys of each setting, and their values."""
        return [BY_DEFAULT | dict(self.others) | {self.key: value} for value in self.values]


FIRST = (*RATINGS, "data.name=movielens-first", f"data.path={FIRST_ROWS}", "data.separator=tab", "model=mf")
NEUMF = ("data=movielens-100k", "model=neumf")
MADE_UP = ("data=synthetic", "data.rows=10000000", "data.features_per_field=20000", "model=mf")
SERIES = (
    Series("seeds", "seed", tuple(range(10))),
    Series("width", "search.base_dim", (8, 16, 32, 64, 128, 256)),
    Series("blocks", "search.blocks", (1, 5, 10, 20, 50)),
    Series("batch", "data.batch_size", (256, 1024, 4096, 16384)),
    Series("width, NeuMF", "search.base_dim", (8, 16, 32, 64, 128, 256), NEUMF),
    Series("blocks, NeuMF", "search.blocks", (1, 5, 10, 20, 50), NEUMF),
    Series("batch, NeuMF", "data.batch_size", (256, 1024, 4096, 16384), NEUMF),
    Series("rows", "seed", (0,), FIRST, "10⁴: the first of Movielens-100K"),
    Series("rows", "seed", (0,), FIRST, "the same in batches of 256", (("data.batch_size", 256),)),
    Series("rows", "seed", (0,), label="10⁵: Movielens-100K"),
    Series(
        "rows",
        "seed",
        (0,),
        (*TWEETS, "model=mf"),
        "1.4·10⁵: MovieTweetings, 1,024 a batch",
        (("data.batch_size", 1024),),
    ),
    Series("rows", "seed", (0,), ("data=movielens-1m", "model=mf"), "10⁶: Movielens-1M"),
    Series("rows", "seed", (0,), MADE_UP, "10⁷: made-up data"),
)
COLUMNS = (
    "whole table",
    f"cut to {SHARE} %",
    "plain, K / 10",
    "K = 0",
    "kept",
    "bytes",
    "bytes, plain",
    "dead blocks",
    "warnings",
    "minutes",
)


def main() -> None:
    """Run what is missing, and print the tables as markdown; what could not be run is told at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(_names()), action="append")
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    given = parser.parse_args()
    if given.table:
        refuse_absent(OUTPUTS, parser)
    failed = []
    for name in given.only or _names():
        if not given.table:
            failed += [row.label for row in _rows(name) if _sweep(row, given.jobs)]
        print("\n".join(_markdown(name)), flush=True)
    if failed:
        sys.exit(f"jobs failed in: {', '.join(failed)}")


def _names() -> Iterator[str]:
    yield from dict.fromkeys(series.name for series in SERIES)


def _rows(name: str) -> Iterator[Row]:
    """The sweeps of a table: for each of its series DNIS, then the plain tables that it is held against."""
    for series in (series for series in SERIES if series.name == name):
        places = (f"output_dir={series.folder}", *series.data)
        swept = {key: _listed(setting[key] for setting in series.settings) for key in BY_DEFAULT}
        told = [f"{key}={values}" for key, values in swept.items()]
        yield Row(f"{name}, DNIS", (*places, "search=dnis", f"search.budget=['bytes:{SHARE}%']", *told))
        narrow = {"search.base_dim": _listed(width for one in series.settings for width in (0, _tenth(one)))}
        told = [f"{key}={values}" for key, values in (swept | narrow).items() if key != "search.blocks"]
        yield Row(f"{name}, plain", (*places, "search=none", "search.rates=[1]", *told))


def _listed(values: Iterator[int]) -> str:
    return ",".join(map(str, dict.fromkeys(values)))


def _tenth(setting: Keys) -> int:
    return max(1, round(setting["search.base_dim"] * SHARE / 100))


def _sweep(row: Row, jobs: int) -> int:
    """The exit code; 1 where a job failed."""
    if f"data.path={FIRST_ROWS}" in row.arguments and not FIRST_ROWS.exists():
        _write_first_rows()
    return sweep([*row.arguments, "hydra/launcher=local", f"sweep.jobs={jobs}"])


def _write_first_rows() -> None:
    archive = Path(os.environ.get("DNIS_DATA", "~/.cache/dnis_lightning")).expanduser() / "ml-100k.zip"
    if not archive.exists():
        sys.exit(f"{archive}: it is not there; --only seeds downloads it")
    with zipfile.ZipFile(archive) as files, files.open("ml-100k/u.data") as ratings:
        lines = [line for _, line in zip(range(10_000), ratings, strict=False)]
    FIRST_ROWS.parent.mkdir(parents=True, exist_ok=True)
    FIRST_ROWS.write_bytes(b"".join(lines))


def _markdown(name: str) -> Iterator[str]:
    """Test MSE of each setting, and what its cut table takes; the mean and its spread under several seeds."""
    table = [series for series in SERIES if series.name == name]
    yield from ("", f"### {name}: test MSE", "")
    yield f"| {'' if table[0].label else table[0].key} | {' | '.join(COLUMNS)} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for series in table:
        found = dict(_results(series.folder))
        lines = [(setting, _figures(found, setting)) for setting in series.settings]
        for setting, figures in lines:
            yield f"| {series.label or setting[series.key]} | {' | '.join(_cells(figures))} |"
        if series.key == "seed" and len(lines) > 1:
            means = [cell([figures.get(column) for _, figures in lines]) for column in COLUMNS[:4]]
            yield f"| mean ± standard deviation | {' | '.join(means)} |"


def _results(folder: Path) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What is finished, by what it was run with."""
    for config, result in finished(folder):
        search = config["search"]
        blocks = search["blocks"] if search["name"] == "dnis" else None
        told = (search["name"], search["base_dim"], blocks, config["data"]["batch_size"], config["seed"])
        yield told, result


def _figures(found: Mapping[tuple[Any, ...], dict[str, Any]], setting: Keys) -> dict[str, float]:
    """The values of the columns, those that are known."""
    width, blocks, batch, seed = (setting[key] for key in BY_DEFAULT)
    figures: dict[str, float] = {}
    if run := found.get(("dnis", width, blocks, batch, seed)):
        blocks_told, (cut,) = run["diagnostics"]["blocks"], run["pruned"]
        figures |= {"whole table": _error(run["unpruned"]), f"cut to {SHARE} %": _error(cut), "kept": cut["kept"]}
        figures |= {"bytes": cut["bytes"], "dead blocks": sum(block["dead"] for block in blocks_told)}
        figures["warnings"] = len(run["warnings"])
        figures["minutes"] = run["seconds"]["total"] / 60
    if run := found.get(("none", _tenth(setting), None, batch, seed)):
        figures |= {"plain, K / 10": _error(run["pruned"][0]), "bytes, plain": run["unpruned"]["bytes"]}
    if run := found.get(("none", 0, None, batch, seed)):
        figures["K = 0"] = _error(run["pruned"][0])
    return figures


def _error(part: Mapping[str, Any]) -> float:
    return float(part["metrics"]["test/mse"])


def _cells(figures: Mapping[str, float]) -> Iterator[str]:
    for column in COLUMNS:
        form = ".1f" if column == "minutes" else ",d" if column in COUNTS else ".4f"
        yield format(figures[column], form) if column in figures else "–"


if __name__ == "__main__":
    main()
