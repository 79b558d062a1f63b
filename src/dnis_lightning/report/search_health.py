"""The picture of what `diagnostics` of `result.json` says: whether a search is to be trusted. Style as in `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnis_lightning.measures import larger_is_better
from dnis_lightning.report.figures import BLUE, GREEN, GREY, MANY_BLOCKS, ORANGE, STYLE, grade, name_blocks


@rc_context(STYLE)
def search_health(
    blocks: Sequence[Mapping[str, Any]], drift: np.ndarray, epochs: np.ndarray, curves: pd.DataFrame, metric: str
) -> Figure:
    """Share of the data and signal of each block; drift of α and the two losses over the epochs of a search.

    blocks: those of `diagnostics`. drift (T, L), epochs (T,). curves: with columns `search/loss` and `select/<metric>`,
    a row an epoch; a metric that is no loss has an axis of its own. Returns a figure of four plots.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    (share, moved), (signal, losses) = figure.subplots(2, 2, width_ratios=(1, 1.25))
    _bars(share, blocks, "data_share", 0.5, "as much as\nthe penalty")
    share.set(ylabel="share of the data", ylim=(0, 1.05), title="What moved the gates of each block")
    _bars(signal, blocks, "signal", 1, "noise")
    signal.set(ylabel="signal of the gradient", xlabel="block of features (1 = most frequent)")
    _drift(figure, moved, drift, epochs)
    _losses(losses, epochs, curves, metric)
    return figure


def _bars(axes: Axes, blocks: Sequence[Mapping[str, Any]], key: str, line: float, meaning: str) -> None:
    """One bar a block that has features, orange where it is dead; a dashed line at what the values are held against."""
    there = [block for block in blocks if block["features"]]
    for dead, colour in ((False, BLUE), (True, ORANGE)):
        part = [block for block in there if block["dead"] == dead]
        if part:
            place, height = [block["block"] for block in part], [block[key] for block in part]
            axes.bar(place, height, color=colour, width=0.75, label="dead" if dead else None)
    axes.axhline(line, color="black", linewidth=1, linestyle="--")
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(meaning, (1, line), xytext=(4, 0), va="center", fontsize=9, color=GREY, **beside)
    axes.set_xlim(0.3, len(blocks) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11, min_n_ticks=1))
    if any(block["dead"] for block in there):
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def _drift(figure: Figure, axes: Axes, drift: np.ndarray, epochs: np.ndarray) -> None:
    blocks = drift.shape[1]
    for block in reversed(range(blocks)):
        width = 1.6 if blocks <= MANY_BLOCKS else 1.0
        axes.plot(
            epochs,
            drift[:, block],
            "o-",
            color=grade(blocks)(block),
            markersize=3,
            linewidth=width,
            label=str(block + 1),
        )
    axes.set(ylabel="mean |change of α| in an epoch", title="How far α moved")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    name_blocks(figure, axes, blocks)


def _losses(axes: Axes, epochs: np.ndarray, curves: pd.DataFrame, metric: str) -> None:
    """Both losses on one axis, where the select metric is one."""
    select = axes.twinx() if larger_is_better(metric) else axes
    lines = [
        *axes.plot(epochs, curves["search/loss"], "o-", color=ORANGE, markersize=3, linewidth=1.6, label="search/loss"),
        *select.plot(
            epochs, curves[f"select/{metric}"], "o-", color=GREEN, markersize=3, linewidth=1.6, label=f"select/{metric}"
        ),
    ]
    axes.set(xlabel="epoch, counted through all phases", ylabel="loss", title="Search against select")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if select is not axes:
        select.set_ylabel(metric)
        select.spines["right"].set_visible(True)
    axes.legend(handles=lines, loc="best")
