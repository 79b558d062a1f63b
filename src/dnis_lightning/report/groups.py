"""Who pays, over many runs: the test rows by frequency in train, of each row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from dnis_lightning.report.collect import TELLING
from dnis_lightning.report.metrics import model_title, title
from dnis_lightning.report.settle import UNPRUNED
from dnis_lightning.report.side import SideTable, number
from dnis_lightning.report.tables import DIGITS, Table, values

SURE = "*"
_KINDS = {"rarest": "by the rarest feature in them", "block": "by the blocks of the features in them"}


def long_form(table: Table) -> pd.DataFrame:
    """A line for each run, row of the table and group, with `value`, and of cuts `difference`, `low` and `high`."""
    runs = table.runs if table.on == "test" else table.runs.iloc[:0]
    keys = ["model", "row", "cut", "place", "seed"]
    lines = [
        {**dict(zip(keys, told, strict=True)), **line}
        for *told, groups in runs[[*keys, "groups"]].itertuples(index=False)
        for line in groups
    ]
    return pd.DataFrame(lines)


def group_tables(table: Table) -> list[SideTable]:
    """By model: first by the rarest feature, then by block, where all rows have the same blocks.

    Columns are the groups, with how many test rows each has. A cell is the metric, or of a cut the difference to the
    unpruned model of the same run, mean over seeds, with `SURE` behind it where the confidence interval of every run is
    on the same side of 0.
    """
    return list(_tables(long_form(table)))


def _tables(frame: pd.DataFrame) -> Iterator[SideTable]:
    if frame.empty:
        return
    for model, part in frame.groupby("model", sort=False):
        for by, told in _KINDS.items():
            own = part[part["by"].isin([by, "all"])]
            if by == "rarest" or _alike(own):
                metric = title(str(part["metric"].iloc[0]))
                yield _table(f"Who pays: {model_title(str(model))}, {metric} of the test rows {told}", own)


def _alike(frame: pd.DataFrame) -> bool:
    """Whether all runs have the same groups."""
    told = {tuple(map(tuple, one[list(TELLING)].to_numpy())) for _, one in frame.groupby(["row", "seed"])}
    return len(told) == 1


def _table(heading: str, frame: pd.DataFrame) -> SideTable:
    groups = frame[list(TELLING)].drop_duplicates(["by", "name", "least", "most"])
    # all rows first, then from the rarest on, or from the first block on
    order = {"all": -1.0}
    groups = groups.assign(
        at=[order.get(by, least if by == "rarest" else -most) for by, least, most in _at(groups)]
    ).sort_values(["by", "at"], kind="stable")
    rows = []
    for _, one in frame.groupby("place"):
        cells = [_cell(one[(one["by"] == by) & (one["name"] == name)]) for by, name in _named(groups)]
        rows.append((str(one["row"].iloc[0]), tuple(cells)))
    return SideTable(heading, tuple(_column(line) for line in groups.to_dict("records")), tuple(rows))


def _at(groups: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return groups[["by", "least", "most"]].itertuples(index=False)


def _named(groups: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return groups[["by", "name"]].itertuples(index=False)


def _column(line: Mapping[Any, Any]) -> str:
    name = str(line["name"])
    if line["by"] == "block":
        name = f"{name}: {line['least']:,}–{line['most']:,}"
    return f"{name} ({line['rows']:,} rows)"


def _cell(one: pd.DataFrame) -> str:
    """Of all seeds; empty where the group has no rows in these runs."""
    if one.empty:
        return ""
    if one["cut"].iloc[0] == UNPRUNED:
        return number(values(one, "value").mean(skipna=False), f".{DIGITS}f")
    sure = (values(one, "low") > 0).all() or (values(one, "high") < 0).all()
    return number(values(one, "difference").mean(skipna=False), f"+.{DIGITS}f") + SURE * bool(sure)
