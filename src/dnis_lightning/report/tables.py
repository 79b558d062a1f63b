"""The paper's tables 2 and 3 over any runs: means and spreads over seeds, and paired tests against one row.

A table holds what can be compared: the same data, task, split and rows. Within it a row is a method with its settings
and cut, and nothing is averaged but seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnis_lightning.measures import LEVEL, cost, larger_is_better, monitor, reported
from dnis_lightning.report import rows
from dnis_lightning.report.metrics import model_rank
from dnis_lightning.report.settle import USED, Settled

Split = Literal["test", "select"]
LEAST_SEEDS = 3  # for a paired test
DIGITS = 4  # of a metric as it is printed; what prints alike is level
_GROUP = ["data", "task", "split", "split_seed", "rows_test", "features"]


@dataclass(frozen=True)
class Table:
    """One table.

    runs: the rows of `Settled.frame` behind it, with what `rows.with_labels` adds.
    summary: a line for each row and model, in order: `n` runs, `seeds`, means of `kept`, `bytes`, `coo_npz_bytes`,
    `seconds`, `seconds_ratio` to the reference row, and for each metric m its `m_mean`, `m_std` (NaN for one run),
    `m_difference`, `m_half` and `m_p` of the paired test, `m_mark` (best, second or empty).
    reference: for each model the row that the others are held against; absent where there is none.
    """

    number: int
    data: str
    task: str
    split: str
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: pd.DataFrame
    summary: pd.DataFrame
    reference: Mapping[str, str]
    common: tuple[str, ...]
    against: str
    on: Split


def make_tables(settled: Settled, against: str = "dnis", on: Split = "test") -> list[Table]:
    """All tables; `against` names the search whose best row on the select split the others are held against.

    on: the split whose metrics they show; choices, as of an L2, are made on select.
    """
    counting = settled.frame[settled.frame["used"] == USED]
    groups = counting.groupby(_GROUP, dropna=False)
    return [_table(number, part, settled, against, on) for number, (_, part) in enumerate(groups, 1)]


def _table(number: int, frame: pd.DataFrame, settled: Settled, against: str, on: Split) -> Table:
    runs = rows.with_labels(frame, settled.configs)
    first, metrics = runs.iloc[0], metrics_of(runs)
    reference = dict(_references(runs, against, metrics, on))
    return Table(
        number,
        first["data"],
        first["task"],
        first["split"],
        tuple(sorted(runs["model"].unique(), key=model_rank)),
        metrics,
        runs,
        _summary(runs, metrics, reference, on),
        reference,
        tuple(rows.in_common([settled.configs[name] for name in runs["config"].unique()])),
        against,
        on,
    )


def metrics_of(runs: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that these runs have, in order, on either split."""
    found = [name for name in runs.columns if name.startswith(("test/", "select/")) and runs[name].notna().any()]
    return tuple(reported(list(dict.fromkeys(name.partition("/")[2] for name in found))))


def _references(runs: pd.DataFrame, against: str, metrics: tuple[str, ...], on: Split) -> Iterator[tuple[str, str]]:
    """For each model the row of a search with the best mean on select: of those with figures, if there are any."""
    decisive = monitor(runs["task"].iloc[0], metrics)
    for model, part in runs[runs["search"] == against].groupby("model"):
        tested = part[values(part, f"{on}/{decisive}").notna().groupby(part["place"]).transform("any")]
        part = tested if len(tested) else part
        costs = values(part, f"select/{decisive}").map(partial(cost, decisive))  # infinite where training diverged
        place = costs.groupby(part["place"]).mean().idxmin()
        yield str(model), part.loc[part["place"] == place, "row"].iloc[0]


def values(runs: pd.DataFrame, name: str) -> pd.Series:
    """A column of floats; NaN throughout where there is none."""
    column = runs[name] if name in runs else pd.Series(np.nan, runs.index)
    return column.astype(float)


def _summary(runs: pd.DataFrame, metrics: tuple[str, ...], reference: Mapping[str, str], on: Split) -> pd.DataFrame:
    lines = []
    for model, part in runs.groupby("model"):
        groups = {str(row): one.set_index("seed") for row, one in part.groupby("row")}
        against = groups.get(reference.get(str(model), ""))
        lines += [_line(one, against, metrics, on) for one in groups.values()]
    summary = pd.DataFrame(lines).sort_values(["place", "model"], ignore_index=True)
    for metric in metrics:
        marks = [marked(part[f"{metric}_mean"], metric) for _, part in summary.groupby("model")]
        summary[f"{metric}_mark"] = pd.concat(marks)
    return summary


def _line(one: pd.DataFrame, against: pd.DataFrame | None, metrics: tuple[str, ...], on: Split) -> dict[str, Any]:
    """One row of one model: its runs, by seed."""
    told = (
        "data",
        "task",
        "split",
        "model",
        "search",
        "cut",
        "settings",
        "narrower",
        "width",
        "base",
        "base_dim",
        "row",
        "place",
    )
    line = {key: one[key].iloc[0] for key in told}
    line |= {"method": rows.method(line["search"]), "n": len(one), "seeds": " ".join(map(str, sorted(one.index)))}
    line["single_trials"] = bool(one["trial"].notna().any())
    sizes = ("kept", "bytes", "coo_npz_bytes", "seconds")
    line |= {name: values(one, name).mean(skipna=False) for name in sizes}
    line["seconds_ratio"] = np.nan if against is None else line["seconds"] / values(against, "seconds").mean()
    for metric in metrics:
        line |= _metric_columns(one, against, metric, on)
    return line


def _metric_columns(one: pd.DataFrame, against: pd.DataFrame | None, metric: str, on: Split) -> dict[str, float]:
    """Mean and spread of a metric; NaN where a run has none, so that a diverged run is not left out."""
    ours = values(one, f"{on}/{metric}")
    other = ours.iloc[:0] if against is None else values(against, f"{on}/{metric}")
    difference, half, p = paired(ours, other)
    select = values(one, f"select/{metric}").mean(skipna=False)
    return {
        f"{metric}_mean": ours.mean(skipna=False),
        f"{metric}_std": ours.std(ddof=1, skipna=False),
        f"{metric}_difference": difference,
        f"{metric}_half": half,
        f"{metric}_p": p,
        f"{metric}_select_mean": select,
    }


def paired(ours: pd.Series, theirs: pd.Series) -> tuple[float, float, float]:
    """Mean of ours − theirs over their common seeds (the index), half of its 95 % confidence interval, and p.

    Both by the two-sided paired t-test. NaN for all with fewer than `LEAST_SEEDS` common seeds; for the last two where
    all differences are the same.
    """
    from scipy.stats import ttest_rel  # takes longer to load than everything else that starts the command

    a, b = ours.align(theirs, join="inner")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < LEAST_SEEDS:
        return np.nan, np.nan, np.nan
    difference = (a - b).to_numpy()
    if np.ptp(difference) <= 1e-12 * np.abs(a).max():
        return float(difference.mean()), np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are nearly the same
        found = ttest_rel(a, b)
        interval = found.confidence_interval(LEVEL)
        return float(difference.mean()), float(interval.high - interval.low) / 2, float(found.pvalue)


def marked(means: pd.Series, metric: str) -> pd.Series:
    """`best` and `second` by the values as printed: what prints alike is marked alike."""
    printed = means.round(DIGITS)
    levels = sorted(printed[np.isfinite(printed)].unique(), reverse=larger_is_better(metric))
    names = dict(zip(levels, ("best", "second"), strict=False))
    return pd.Series([names.get(value, "") for value in printed], means.index)
