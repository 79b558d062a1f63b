"""The picture of a method's trials: what each reached on select, and how large its table was. Style as in `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from dnis_lightning.measures import larger_is_better
from dnis_lightning.report.figures import BLUE, GREY, ORANGE, STYLE


@rc_context(STYLE)
def trials(told: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """The select metric of every trial against the entries of its table, each with its name, the best with a star.

    told: the trials of `result.json`: `name`, `kept` and `select/<metric>`, which is NaN where training diverged.
    """
    kept = np.array([trial["kept"] for trial in told], dtype=float)
    scores = np.array([trial[f"select/{metric}"] for trial in told], dtype=float)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(kept, scores, color=BLUE, s=22, zorder=3)
    for trial, x, y in zip(told, kept, scores, strict=True):
        if np.isfinite(y):
            axes.annotate(
                trial["name"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=GREY, clip_on=True
            )
    if np.isfinite(scores).any():
        best = int(np.nanargmax(scores) if larger_is_better(metric) else np.nanargmin(scores))
        label = f"best: {told[best]['name']}, {scores[best]:.4f}"
        axes.plot(kept[best], scores[best], "*", color=ORANGE, markersize=14, zorder=4, label=label)
        figure.legend(loc="outside upper right", fontsize=9)
    axes.margins(x=0.18)
    axes.set_xlabel("entries of the table")
    axes.set_ylabel(f"{metric} on the select split")
    figure.suptitle("Trials", x=0.02, ha="left", fontsize=12)
    return figure
