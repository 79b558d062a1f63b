"""What one search gains over another at the same width and budget: the paper's words on its Table 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dnis_lightning.measures import larger_is_better
from dnis_lightning.report.metrics import model_title, title
from dnis_lightning.report.rows import method
from dnis_lightning.report.settle import UNPRUNED
from dnis_lightning.report.tables import Table


@dataclass(frozen=True)
class Pair:
    """A row of the reference's search and one of another search, of the same model, width and budget.

    gains: by metric, relative, of the reference over the other; positive = the reference is better. kept: how many
    times the entries of the other the reference has: a controller may leave room.
    """

    model: str
    base_dim: int
    cut: str
    gains: dict[str, float]
    kept: float


def pairs(table: Table, other: str) -> list[Pair]:
    """For each cut of search `other` the reference search's cut to the same budget, of the same model and width.

    A metric that is not there, or 0 and so no measure of a gain, is left out.
    """
    key = ["model", "base_dim", "cut"]
    rows = table.summary[table.summary["cut"] != UNPRUNED]
    both = rows[rows["search"] == other].merge(rows[rows["search"] == table.against], on=key, suffixes=("", "_ours"))
    return [_pair(table, line) for _, line in both.iterrows()]


def _pair(table: Table, line: pd.Series) -> Pair:
    gains = {}
    for metric in table.metrics:
        ours, theirs = float(line[f"{metric}_mean_ours"]), float(line[f"{metric}_mean"])
        if np.isfinite(ours) and np.isfinite(theirs) and theirs:
            gains[metric] = (ours / theirs - 1) * (1 if larger_is_better(metric) else -1)
    kept = float(line["kept_ours"]) / max(float(line["kept"]), 1)
    return Pair(str(line["model"]), int(line["base_dim"]), str(line["cut"]), gains, kept)


def sentences(table: Table) -> Iterator[str]:
    """For top-k recommendation: the mean gains over each other search, by metric, over all k, widths and budgets."""
    others = dict.fromkeys(table.summary["search"]) if table.task == "topk" else {}
    for other in others:
        found = [] if other == table.against else pairs(table, str(other))
        gains: dict[str, list[float]] = {}
        for pair in found:
            for metric in (metric for metric in pair.gains if "_of_" not in metric):
                gains.setdefault(metric.split("@")[0], []).append(pair.gains[metric])
        if gains:
            told = ", ".join(f"{title(name)} {np.mean(some):+.1%}" for name, some in gains.items())
            over = "; ".join(f"{model_title(pair.model)}, K = {pair.base_dim}, {pair.cut}" for pair in found)
            yield (
                f"{method(table.against)} over {method(str(other))}, means of the relative gains at all k, widths and "
                f"budgets ({over}): {told}; with {np.mean([pair.kept for pair in found]):.2f} times the entries."
            )
