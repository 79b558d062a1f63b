"""A table as it is printed: heads, cells with their marks, the words around it; and that as markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from dnis_lightning.measures import headline, larger_is_better
from dnis_lightning.report.doubts import doubts
from dnis_lightning.report.gains import sentences
from dnis_lightning.report.groups import SURE, group_tables
from dnis_lightning.report.metrics import model_title, title
from dnis_lightning.report.side import SideTable, side_tables
from dnis_lightning.report.tables import DIGITS, LEAST_SEEDS, Table

NONE = "–"
DAGGER = "†"


@dataclass(frozen=True)
class Cell:
    """What a cell says: `text`, printed by `mark` (best: bold, second: underlined), and what follows it plainly."""

    text: str
    mark: str = ""
    tail: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of cells: `models` each span `columns`; `rows` are labels with their cells, models one after another."""

    models: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def grid(table: Table) -> Grid:
    """The paper's layout: methods down, models across, for each model size, time and metrics."""
    metrics = [head for metric in table.metrics for head in _heads(table, metric)]
    columns = ("Runs", "Params (MiB)", "Entries", "coo_npz_mib", "Time", "Time ÷ ref.", *metrics)
    lines = {(str(line["row"]), str(line["model"])): line for _, line in table.summary.iterrows()}
    rows = []
    for row in table.summary["row"].drop_duplicates():
        cells = (_cells(table, lines.get((row, model)), model) for model in table.models)
        rows.append((str(row), tuple(cell for part in cells for cell in part)))
    return _without_empty_columns(Grid(tuple(map(model_title, table.models)), columns, tuple(rows)))


def _heads(table: Table, metric: str) -> list[str]:
    """A metric, and its difference to the reference row, where there is room for it."""
    return [title(metric), *([f"Δ {title(metric)} (p)"] if metric in headline(table.metrics) else [])]


def _without_empty_columns(plan: Grid) -> Grid:
    """Columns that say nothing in any row of any model are left out, but for the metrics themselves."""
    every = len(plan.columns)
    said = [{cells[i].text for _, cells in plan.rows for i in range(c, len(cells), every)} for c in range(every)]
    differences = [c for c, column in enumerate(plan.columns) if column.startswith("Δ ")]
    kept = [c for c in range(every) if said[c] - {NONE, "", "reference"} or c + 1 in differences]
    rows = (
        (label, tuple(cells[start + c] for start in range(0, len(cells), every) for c in kept))
        for label, cells in plan.rows
    )
    return Grid(plan.models, tuple(plan.columns[c] for c in kept), tuple(rows))


def _cells(table: Table, line: pd.Series | None, model: str) -> Iterator[Cell]:
    if line is None:
        yield from [Cell("")] * (6 + sum(len(_heads(table, metric)) for metric in table.metrics))
        return
    yield Cell(str(line["n"]))
    yield Cell(mib(line["bytes"]))
    yield Cell(f"{line['kept']:,.0f}")
    yield Cell(mib(line["coo_npz_bytes"]))
    yield Cell(duration(line["seconds"]))
    yield Cell(_number(line["seconds_ratio"], ".2f"))
    for metric in table.metrics:
        yield _metric(line, metric)
        if len(_heads(table, metric)) == 1:
            continue
        yield Cell("reference") if table.reference.get(model) == line["row"] else Cell(_difference(line, metric))


def _metric(line: pd.Series, metric: str) -> Cell:
    mean, spread = line[f"{metric}_mean"], line[f"{metric}_std"]
    if not np.isfinite(mean):
        return Cell(NONE, tail=DAGGER if line["single_trials"] else "")
    return Cell(_number(mean), line[f"{metric}_mark"], f" ± {_number(spread)}" if np.isfinite(spread) else "")


def _difference(line: pd.Series, metric: str) -> str:
    difference, half, p = (line[f"{metric}_{what}"] for what in ("difference", "half", "p"))
    if np.isnan(difference):
        return NONE
    return f"{difference:+.{DIGITS}f}{f' ± {_number(half)}' if np.isfinite(half) else ''} ({_number(p, '.2g')})"


def _number(value: float, form: str = f".{DIGITS}f") -> str:
    return f"{value:{form}}" if np.isfinite(value) else NONE


def mib(size: float) -> str:
    """Bytes in MiB."""
    value = size / 2**20
    return "0" if value == 0 else _number(value, ".2f" if value >= 0.1 else ".3f" if value >= 0.001 else ".5f")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is easiest to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def heading(table: Table) -> str:
    """The title of a table."""
    models = ", ".join(map(model_title, table.models))
    return f"Table {table.number}. {table.data}, {table.task}: {models} ({table.split} split)"


READING = (
    "A row is one method with its settings and cut; nothing is averaged but seeds. Labels name the fewest settings "
    "that tell the rows of one method apart; runs.csv has all. Metrics are means ± standard deviation "
    "(n − 1) over seeds. Bold: the best of a model's column, underlined: the second, by the digits printed.",
    "Params: the file of the embedding table as it is shipped, indices included, in fp32 where ship.dtype was not set. "
    "Entries: how many values it keeps. coo_npz_mib: MiB of the file that the authors of DNIS measured, to be held "
    "against the paper's Params (M).",
    "Time: mean of preparing, search, training and the cut of this row, without the other cuts of the same run; of "
    "single-trial jobs the sum; a cut by learned thresholds or NIS starts afresh and is not charged with the unpruned "
    "model. "
    "Time ÷ ref.: that, divided by the reference row's.",
    f"Δ: mean difference to the reference row over the seeds that both have, ± half of its 95 % confidence interval, "
    f"and p, both by the two-sided paired t-test, from {LEAST_SEEDS} such seeds on. With 3 seeds both say little: they "
    "rest on two degrees of freedom, know nothing of other splits of the data, and are not corrected for the number of "
    "rows.",
    "Cuts against their unpruned models: mean difference, and means of the ends of its 95 % confidence interval on the "
    "test rows, taken as independent. Calibration: mean predicted and observed click rate, and their mean distance in "
    "ten bins. How the searches went: docs/reading.md.",
    "Who pays: of unpruned models the metric of some of the test rows, of cuts the difference to the unpruned model of "
    f"the same run, means over seeds; {SURE} where the 95 % confidence interval of every run is on one side of 0, rows "
    "taken as independent. No row: ids that have no row of the table of their own, unseen in train or rarer than "
    "data.min_count. A row counts in the block of each of its features. After "
    "--choose a cut and the unpruned model above it may be of different configurations.",
)
"""How to read any table."""


def caption(table: Table) -> str:
    """What the numbers of this table are."""
    return " ".join([*_what(table), *_reference(table)])


def _what(table: Table) -> Iterator[str]:
    seeds = table.summary["seeds"].unique()
    many = "seeds" if " " in seeds[0] else "seed"
    over = f"{many} {seeds[0].replace(' ', ', ')}" if len(seeds) == 1 else "as many seeds as the column Runs says"
    rows = int(table.runs[f"rows_{table.on}"].iloc[0])
    yield f"{', '.join(_ways(table))} on the {rows:,} {table.on} rows of the {table.split} split, over {over}."
    if table.common:
        yield f"All rows have {', '.join(table.common)}."


def _ways(table: Table) -> Iterator[str]:
    """The metrics, those next to each other that are better in the same direction together."""
    for larger, metrics in groupby(table.metrics, larger_is_better):
        yield f"{', '.join(map(title, metrics))} (the {'larger' if larger else 'smaller'} the better)"


def _reference(table: Table) -> Iterator[str]:
    if not table.reference:
        yield f"Nothing is tested against search={table.against}: it has no run here."
        return
    one = len(set(table.reference.values())) == 1
    told = {model: row if one else f"{row} for {model_title(model)}" for model, row in table.reference.items()}
    named = ", ".join(dict.fromkeys(told.values()))
    yield f"Reference row: {named}; of the rows of search={table.against} it is the best on select."


def footnotes(table: Table) -> list[str]:
    """Sentences on single rows, under a table."""
    return [*sentences(table), *doubts(table), *_on_trials(table), *_on_absence(table), *_on_machines(table)]


_CHOSEN = ["model", "seed", "trial", "trial_name", "jobs"]


def _on_trials(table: Table) -> Iterator[str]:
    jobs = table.runs[table.runs["trial"].notna()].drop_duplicates(["base", "model", "seed"])
    for row, part in jobs.groupby("row", sort=False):
        chosen = "; ".join(
            f"{model_title(model)}, seed {seed}: trial {trial:.0f} ({name}), best of {jobs}"
            for model, seed, trial, name, jobs in part.sort_values(["model", "seed"])[_CHOSEN].itertuples(index=False)
        )
        yield (
            f"{DAGGER} {row}: single-trial jobs, which take no look at the test rows. On select: {chosen}. A run "
            "without search.trial, with resume=auto, evaluates test."
        )


def _on_absence(table: Table) -> Iterator[str]:
    finished = table.summary[~table.summary["single_trials"]]
    if any(finished[f"{metric}_mean"].isna().any() for metric in table.metrics):
        yield f"{NONE} for a metric: at least one run of this row has no finite value."


def _on_machines(table: Table) -> Iterator[str]:
    machines: Any = table.runs["device"].unique()
    if len(machines) > 1:
        told = "; ".join("{} (threads: {}, processes: {})".format(*one.rsplit(" ", 2)) for one in machines)
        yield f"Times come from different machines and cannot be compared as they stand: {told}."


def markdown(table: Table) -> str:
    """The table with its words, in markdown."""
    plan = grid(table)
    one = len(plan.models) == 1
    heads = [column if one else f"{model}: {column}" for model in plan.models for column in plan.columns]
    lines = [["Method", *map(_escaped, heads)]]
    lines += [[_escaped(label), *map(_marked, cells)] for label, cells in plan.rows]
    words = [f"### {_escaped(heading(table))}", _escaped(caption(table)), "\n".join(_ruled(lines))]
    return (
        "\n\n".join(
            [*words, *map(_escaped, footnotes(table)), *map(_side, [*side_tables(table), *group_tables(table)])]
        )
        + "\n"
    )


def _side(table: SideTable) -> str:
    lines = [["Method", *map(_escaped, table.columns)]]
    lines += [[_escaped(label), *cells] for label, cells in table.rows]
    return "\n\n".join([f"#### {_escaped(table.heading)}", "\n".join(_ruled(lines))])


def _ruled(lines: list[list[str]]) -> Iterator[str]:
    """Cells in columns of equal width, so that the text, too, is a table."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for cells in (lines[0], rule, *lines[1:]):
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        yield f"| {' | '.join([cells[0].ljust(widths[0]), *padded[1:]])} |"


def _marked(cell: Cell) -> str:
    before, after = {"best": ("**", "**"), "second": ("<u>", "</u>")}.get(cell.mark, ("", ""))
    return f"{before}{_escaped(cell.text)}{after}{cell.tail}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
