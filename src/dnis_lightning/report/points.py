"""The points of a frontier: which rows of which tables share a picture, and which of them are joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dnis_lightning.measures import headline
from dnis_lightning.report.metrics import model_title
from dnis_lightning.report.rows import method
from dnis_lightning.report.settle import UNPRUNED
from dnis_lightning.report.tables import Table

_RANDOM = {"three_way", "paper", "authors"}  # kinds of split that draw the same test rows


@dataclass(frozen=True)
class Picture:
    """The points of one model on one set of test rows, for `frontier.frontier`, and the tables that they come from."""

    data: str
    task: str
    model: str
    metrics: tuple[str, ...]
    points: pd.DataFrame
    numbers: tuple[int, ...]
    on: str

    @property
    def heading(self) -> str:
        """What is drawn."""
        return f"{self.data}, {model_title(self.model)}: metrics on {self.on} against size"


def pictures(tables: Sequence[Table]) -> list[Picture]:
    """One for each data, model and set of test rows that has figures on test."""
    groups: dict[tuple[Any, ...], list[Table]] = {}
    for table in tables:
        for model in table.models:
            groups.setdefault((*_test_rows(table), model), []).append(table)
    drawn = [_picture(group, key[-1]) for key, group in groups.items()]
    return [picture for picture in drawn if len(picture.points) and picture.metrics]


def _test_rows(table: Table) -> tuple[Any, ...]:
    first = table.runs.iloc[0]
    kind = "random" if table.split in _RANDOM and table.on == "test" else table.split
    return table.data, table.task, kind, first["split_seed"], first["rows_test"]


def _picture(tables: Sequence[Table], model: str) -> Picture:
    several = len({table.split for table in tables}) > 1
    points = [point for table in tables for point in _points(table, model, f"{table.split} split" if several else "")]
    frame = pd.DataFrame(points)
    metrics = dict.fromkeys(metric for table in tables for metric in table.metrics)
    drawn = tuple(metric for metric in headline(list(metrics)) if frame[f"{metric}_mean"].notna().any())
    first = tables[0]
    numbers = tuple(table.number for table in tables)
    return Picture(first.data, first.task, model, drawn, frame, numbers, first.on)


def _points(table: Table, model: str, split: str) -> Iterator[dict[str, Any]]:
    """Unpruned models that differ in their widths alone are joined, and each model with its own cuts."""
    lines = table.summary[table.summary["model"] == model]
    widths = lines[lines["cut"] == UNPRUNED].groupby(["search", "narrower"])["width"].transform("nunique")
    lines = lines.assign(wide=widths > 1)  # false for cuts, too
    whole, cuts = lines[lines["cut"] == UNPRUNED], lines[lines["cut"] != UNPRUNED]
    for line in whole[whole["wide"] | ~whole["base"].isin(cuts["base"])].to_dict("records"):
        if line["wide"]:
            yield _point(line, str(line["width"]), str(line["narrower"]), split)
        else:
            yield _point(line, f"K = {line['base_dim']}", str(line["settings"]), split)
    for (_, settings), part in cuts.groupby(["search", "settings"], sort=False):
        start = whole[whole["base"].isin(part["base"])]
        told = ", ".join(filter(None, ("cut" if start["wide"].any() else "", str(settings))))
        for line in pd.concat([start, part]).to_dict("records"):
            yield _point(line, str(line["cut"]), told, split)


def _point(line: Mapping[Any, Any], name: str, told: str, split: str) -> dict[str, Any]:
    series = ", ".join(filter(None, (method(line["search"]), told, split)))
    return {"series": series, "name": name, **line}
