"""What the runs of a table say against their own searches, as footnotes: each warning once, with all its runs."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dnis_lightning.report.metrics import model_title
from dnis_lightning.report.tables import Table


def doubts(table: Table) -> Iterator[str]:
    """A sentence for each piece of advice: what was found, in which rows and seeds, then the advice.

    A warning has what was found in front of its first semicolon, and behind it what to do, which all runs that have the
    fault share.
    """
    said = pd.DataFrame(_said(table), columns=["advice", "finding", "row", "seed"])
    for advice, part in said.groupby("advice", sort=False):
        told = (f"{finding} ({_named(runs)})" for finding, runs in part.groupby("finding", sort=False))
        yield f"In doubt: {'; '.join(told)}; {advice}."


def _said(table: Table) -> Iterator[tuple[str, str, str, int]]:
    lines = table.runs.drop_duplicates(["base", "model", "seed"])  # a run has a line for each cut, too
    for row, model, seed, warnings in lines[["row", "model", "seed", "warnings"]].itertuples(index=False):
        for warning in warnings.splitlines():
            finding, _, advice = warning.partition("; ")
            yield advice, finding, f"{row}, {model_title(model)}", seed


def _named(runs: pd.DataFrame) -> str:
    return "; ".join(
        f"{row}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        for row, seeds in runs.groupby("row", sort=False)["seed"]
    )
