"""The picture of metric against bytes: what each method reaches at which size. Style and rules as in `figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from dnis_lightning.measures import larger_is_better
from dnis_lightning.report.figures import GREY, STYLE
from dnis_lightning.report.metrics import title

# Okabe and Ito's colours without yellow, which is lost on white; markers differ, too, for print without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"
MIB = 2**20
_HALF_A_LINE = 45
"""Letters of a name in the legend that leave room for a second one beside it."""


@rc_context(STYLE)
def frontier(points: pd.DataFrame, metrics: Sequence[str], heading: str) -> Figure:
    """Metrics against the bytes of the table, with the Pareto front: a panel for each metric.

    points: a line for each row of a table, with `series` (points of one are joined), `name` (of the point within it),
    `bytes`, and for each metric m `m_mean` and `m_std`; lines without a mean are left out, a NaN spread has no bar.
    Tables of 0 bytes stand left of a dotted line. Returns a figure.
    """
    series = list(dict.fromkeys(points["series"]))
    columns = 1 if max(map(len, series)) > _HALF_A_LINE else 2
    height = 0.7 + 3.4 * len(metrics) + 0.2 * (1 + len(series) // columns)
    figure = Figure(figsize=(8, height), layout="constrained")
    place = _places(points["bytes"].to_numpy(float))
    for axes, metric in zip(figure.subplots(len(metrics), squeeze=False, sharex=True)[:, 0], metrics, strict=True):
        seen = points.assign(place=place)[np.isfinite(points[f"{metric}_mean"])]
        for number, name in enumerate(series):
            _series(axes, seen[seen["series"] == name].sort_values("place"), metric, number, name)
        _front(axes, seen, metric)
        way = "larger" if larger_is_better(metric) else "smaller"
        axes.set_ylabel(f"{title(metric)} ({way} is better)")
    _label_bytes(axes, points["bytes"].to_numpy(float))
    handles, labels = _legend(figure.axes)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    figure.suptitle(f"{heading}, mean ± standard deviation over seeds", x=0.02, ha="left", fontsize=12)
    return figure


def _places(sizes: np.ndarray) -> np.ndarray:
    """Where sizes in bytes stand on the axis, in MiB: those of 0 at a third of the smallest other."""
    return np.where(sizes > 0, sizes, _least(sizes) / 3) / MIB


def _least(sizes: np.ndarray) -> float:
    return float(sizes[sizes > 0].min(initial=np.inf)) if (sizes > 0).any() else float(MIB)


def _series(axes: Axes, part: pd.DataFrame, metric: str, number: int, name: str) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    if part.empty:
        return
    spread = part[f"{metric}_std"].fillna(0)
    axes.errorbar(
        part["place"],
        part[f"{metric}_mean"],
        spread,
        color=colour,
        marker=marker,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.2,
        elinewidth=1.2,
        capsize=2.5,
        zorder=3,
        label=name,
    )


def _front(axes: Axes, seen: pd.DataFrame, metric: str) -> None:
    """A step line through what no other point beats in both size and metric, and the names of these points."""
    best = pareto(seen["place"].to_numpy(float), seen[f"{metric}_mean"].to_numpy(float), larger_is_better(metric))
    if not len(best):
        return
    front = seen.iloc[best]
    x, y = front["place"].to_numpy(float), front[f"{metric}_mean"].to_numpy(float)
    right = seen["place"].max() * 1.3
    axes.plot(
        [*x, right],
        [*y, y[-1]],
        drawstyle="steps-post",
        color=GREY,
        linewidth=5,
        alpha=0.25,
        zorder=1,
        label="Pareto front",
    )
    below = larger_is_better(metric)
    for place, mean, name in zip(x, y, front["name"], strict=True):
        offset = (4, 7) if below else (-4, -7)
        axes.annotate(
            name,
            (place, mean),
            offset,
            textcoords="offset points",
            ha="left" if below else "right",
            va="bottom" if below else "top",
            fontsize=8,
            color=GREY,
        )
    axes.margins(x=0.08, y=0.12)


def pareto(sizes: np.ndarray, means: np.ndarray, larger: bool) -> np.ndarray:
    """Positions of the points, by ascending size, that are better than every point of their size or less.

    sizes, means: (P,). Of equal points the first counts.
    """
    signed = -means if larger else means
    ordered = np.lexsort((signed, sizes))
    before = np.concatenate([[np.inf], np.minimum.accumulate(signed[ordered])[:-1]])
    return ordered[signed[ordered] < before]


def _label_bytes(axes: Axes, sizes: np.ndarray) -> None:
    least = _least(sizes) / MIB
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("size of the embedding table as shipped, indices included (MiB)")
    if (sizes == 0).any():
        _mark_nothing(axes, least, sizes)


def _mark_nothing(axes: Axes, least: float, sizes: np.ndarray) -> None:
    """A place for tables of 0 bytes, which a logarithm has none for."""
    for panel in axes.figure.axes:
        panel.axvline(least / 3 * 3**0.5, color=GREY, linewidth=0.9, linestyle=":", zorder=0)
    some = (sizes > 0).any()
    largest = sizes.max() / MIB if some else least
    ticks = [
        tick
        for tick in LogLocator(subs=(1, 2, 5)).tick_values(least, max(largest, least * 1.01))
        if tick >= least * 0.8
    ]
    ticks = [tick for tick in ticks if tick <= largest * 1.3] if some else []
    axes.xaxis.set_major_locator(FixedLocator([least / 3, *ticks]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "0" if np.isclose(value, least / 3) else f"{value:g}")
    )
    axes.set_xlabel(
        "size of the embedding table as shipped, indices included (MiB; left of the dotted line: no table at all)"
    )


def _legend(panels: Sequence[Axes]) -> tuple[list, list[str]]:
    """One entry a series, whatever panels it is in, the front last."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if "Pareto front" in found:
        found["Pareto front"] = found.pop("Pareto front")
    return list(found.values()), list(found)
