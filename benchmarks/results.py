"""The runs behind docs/results.md: each table's sweeps, and the table made of what they leave.

    python -m benchmarks.results                    # everything; an hour or two on two cores
    python -m benchmarks.results --only movielens-1m
    python -m benchmarks.results --table            # the tables of what is there already

Every row of a table is one `python -m dnis_lightning -m …`, printed before it runs. All follow dense Adam
(optimizer.catch_up=true) and are cut by equation 9 (prune=elements), as in the paper. The step of α and L2 are those
of when the tables were made. Finished jobs are passed over, so a run that was cut short goes on. DNIS_DATA names the
folder of the raw data.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runs import Row, cell, finished, slug, sweep

SEEDS = (0, 1, 2)
OUTPUTS = Path("outputs/results")


@dataclass(frozen=True)
class Table:
    """Rows that share data and model, and the test metrics that they are compared by."""

    name: str
    title: str
    shared: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def uniform(dims: int, *more: str) -> Row:
    """A plain table, the same width for all."""
    return Row(" ".join([f"uniform, K = {dims}", *more]), ("search=none", f"search.base_dim={dims}", *more))


def cut_by_magnitude(rates: str) -> Row:
    """A plain table whose smallest entries go, and whose others are fine-tuned."""
    return Row("uniform, K = 64, cut by magnitude", ("search=none", f"search.rates={rates}"))


def profile(name: str) -> Row:
    """The search by one of its profiles; the default one as it was when the tables were made."""
    then = ("search.gates_lr=0.05", "search.search_epochs=15", "search.search_patience=15", "search.start_counts=false")
    return Row(f"DNIS, {name}", ("search=dnis", f"profile={name}", *(then if name == "default" else ())))


NO_L2 = ("model.l2=0", "model.l2_bias=0")
THEN = ("data.default_l2_power=0", "data.default_l2_bias=0.02")
"""L2 of Movielens as it was when the tables were made: as much at each occurrence of a feature."""
TABLES = (
    Table(
        "movielens-1m",
        "Movielens-1M, MF",
        ("data=movielens-1m", "model=mf", "data.default_l2=0.05", *THEN),
        ("mse",),
        (
            *(uniform(dims) for dims in (0, 8, 16, 32, 64)),
            *(uniform(dims, *NO_L2) for dims in (8, 16, 32, 64)),
            cut_by_magnitude("[2,2.5,5]"),
            *(profile(name) for name in ("paper", "authors", "default")),
        ),
    ),
    Table(
        "movielens-100k",
        "Movielens-100K, MF",
        ("data=movielens-100k", "model=mf", "data.default_l2=0.1", *THEN),
        ("mse",),
        (*(uniform(dims) for dims in (0, 8, 64)), cut_by_magnitude("[2,2.5,5]"), profile("default")),
    ),
    Table(
        "criteo",
        "Criteo, the 137,139-row sample, FM",
        ("data=criteo", "model=fm", "model.l2=1e-5", "model.l2_bias=0", "model.l2_power=0"),
        ("auc", "logloss"),
        (*(uniform(dims) for dims in (0, 8, 64)), cut_by_magnitude("[2,5,20]"), profile("default")),
    ),
    Table(
        "synthetic",
        "Made-up data, MF, planted dims 2, 8, 4, 1, 6",
        ("data=synthetic", "model=mf"),
        ("mse",),
        (
            *(uniform(dims) for dims in (4, 8, 64)),
            cut_by_magnitude("[2,5,15]"),
            profile("default"),
        ),
    ),
)


def main() -> None:
    """Run what is missing and print the tables as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[table.name for table in TABLES], action="append")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    given = parser.parse_args()
    chosen = [table for table in TABLES if not given.only or table.name in given.only]
    if not given.table:
        for table in chosen:
            for row in table.rows:
                _sweep(table, row)
    for table in chosen:
        print("\n".join(_markdown(table)))


def _sweep(table: Table, row: Row) -> None:
    # what was the default when the tables were made
    then = ("optimizer.catch_up=true", "optimizer.lr=0.001", "optimizer.plateau_floor=0", "prune=elements")
    arguments = [*table.shared, *row.arguments, *then, f"seed={','.join(map(str, SEEDS))}"]
    if sweep([*arguments, f"output_dir={_folder(table, row)}", "hydra/launcher=joblib"]):
        sys.exit(1)


def _folder(table: Table, row: Row) -> Path:
    return OUTPUTS / table.name / slug(row.label)


def _markdown(table: Table) -> Iterator[str]:
    found = {row.label: list(_results(table, row)) for row in table.rows}
    cuts = list(dict.fromkeys(cut["budget"] for runs in found.values() for run in runs for cut in run["pruned"]))
    heads = [f"{metric}{f' at {cut}' if cut else ''}" for metric in table.metrics for cut in ("", *cuts)]
    yield from ("", f"### {table.title}", "")
    yield f"| | runs | {' | '.join(heads)} | MiB | minutes |"
    yield f"|---|---|{'---|' * (len(heads) + 2)}"
    for label, runs in found.items():
        if runs:
            columns = [(metric, cut) for metric in table.metrics for cut in ("", *cuts)]
            cells = [cell([_value(run, metric, cut) for run in runs]) for metric, cut in columns]
            size = ", ".join(f"{part['bytes'] / 2**20:.2f}" for part in (runs[0]["unpruned"], *runs[0]["pruned"]))
            minutes = f"{statistics.mean(run['seconds']['total'] for run in runs) / 60:.1f}"
            yield f"| {label} | {len(runs)} | {' | '.join(cells)} | {size} | {minutes} |"
    yield from _recoveries(found)


def _recoveries(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """On made-up data: how well the planted dims were found."""
    scored = {label: runs for label, runs in found.items() if any(run.get("recovery") for run in runs)}
    if not scored:
        return
    yield from ("", "| | cut | kept per planted block | rank correlation | error |", "|---|---|---|---|---|")
    for label, runs in scored.items():
        for cut in runs[0]["recovery"]:
            scores = [run["recovery"][cut] for run in runs]
            kept = ", ".join(
                f"{statistics.mean(values):.1f}" for values in zip(*(s["kept"] for s in scores), strict=True)
            )
            ranks, errors = ([score[key] for score in scores] for key in ("rank_correlation", "error"))
            yield f"| {label} | {cut} | {kept} | {cell(ranks, 2)} | {cell(errors, 2)} |"
    one = next(iter(next(iter(scored.values()))[0]["recovery"].values()))
    yield f"| the same for all | | | – | {one['even_error']:.2f} |"
    yield f"| by frequency | | | {one['frequency_correlation']:.2f} | {one['frequency_error']:.2f} |"


def _results(table: Table, row: Row) -> Iterator[dict[str, Any]]:
    for _, result in finished(_folder(table, row)):
        yield result


def _value(run: Mapping[str, Any], metric: str, cut: str) -> float | None:
    part = run["unpruned"] if not cut else next((one for one in run["pruned"] if one["budget"] == cut), None)
    return None if part is None else part["metrics"][f"test/{metric}"]


if __name__ == "__main__":
    main()
