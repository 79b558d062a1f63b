"""What stands under a table: how cuts differ from their unpruned models, calibration, and how searches went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dnis_lightning.measures import headline
from dnis_lightning.report.metrics import model_title, title
from dnis_lightning.report.settle import UNPRUNED
from dnis_lightning.report.tables import DIGITS, Table, values

MOST_BLOCKS = 12
"""Of more the report has no column each; they are in `result.json`."""


@dataclass(frozen=True)
class SideTable:
    """A heading, and labels each with a cell for each column."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def side_tables(table: Table) -> list[SideTable]:
    """Of each model, those that there are figures for; all means over seeds."""
    found = [
        made
        for model, runs in table.runs.groupby("model", sort=False)
        for made in _of_model(model_title(str(model)), runs, table)
    ]
    return [made for made in found if made.rows]


def _of_model(model: str, runs: pd.DataFrame, table: Table) -> Iterator[SideTable]:
    if table.on == "test":
        metrics = headline(table.metrics)
        cells = {title(metric): _interval(f"test/{metric}") for metric in metrics}
        yield _table(f"{model}, cuts against their unpruned models, on test", runs[runs["cut"] != UNPRUNED], cells)
        yield _table(f"{model}, calibration on test", runs, CALIBRATION)
    searched = runs.drop_duplicates(["base", "seed"])
    yield _table(f"{model}, how the searches went", searched, SEARCH)
    yield _table(f"{model}, data share · signal, the most frequent block first", searched, _by_block(searched))


def _by_block(runs: pd.DataFrame) -> Mapping[str, Cell]:
    """A column for each block that a search has; none where there are too many for a line."""
    numbers = range(1, MOST_BLOCKS + 2)
    there = [number for number in numbers if not values(runs, f"search_signal_{number}").isna().all()]
    return {} if len(there) > MOST_BLOCKS else {f"block {number}": _share_and_signal(number) for number in there}


def _share_and_signal(number: int) -> Cell:
    share, signal = _mean(f"search_data_share_{number}", ".2f"), _mean(f"search_signal_{number}", ".1f")
    return lambda one: " · ".join(told for told in (share(one), signal(one)) if told)


Cell = Callable[[pd.DataFrame], str]


def _table(heading: str, runs: pd.DataFrame, cells: Mapping[str, Cell]) -> SideTable:
    """Rows that say nothing are left out."""
    told = [(str(one["row"].iloc[0]), tuple(cell(one) for cell in cells.values())) for _, one in runs.groupby("place")]
    return SideTable(heading, tuple(cells), tuple((label, line) for label, line in told if any(line)))


def _mean(name: str, form: str = f".{DIGITS}f") -> Cell:
    return lambda one: number(values(one, name).mean(skipna=False), form)


def _interval(metric: str) -> Cell:
    def cell(one: pd.DataFrame) -> str:
        ends = [number(values(one, f"{end}_{metric}").mean(skipna=False), f"+.{DIGITS}f") for end in ("low", "high")]
        told = number(values(one, f"difference_{metric}").mean(skipna=False), f"+.{DIGITS}f")
        return f"{told} ({ends[0]} to {ends[1]})" if all(ends) else told

    return cell


def number(value: Any, form: str) -> str:
    """Empty where there is none."""
    return f"{value:{form}}" if np.isfinite(value) else ""


CALIBRATION: Mapping[str, Cell] = {
    "predicted": _mean("calibration_predicted"),
    "observed": _mean("calibration_observed"),
    "error": _mean("calibration_error"),
}
SEARCH: Mapping[str, Cell] = {
    "least data share of a block": _mean("search_data_share", ".2f"),
    "least signal of a block": _mean("search_signal", ".1f"),
    "dead blocks": _mean("search_dead", ".1f"),
    "drift of α, first epochs": _mean("search_drift_first"),
    "last epochs": _mean("search_drift_last"),
    "gap grew by": _mean("search_gap_growth", ".1%"),
}
