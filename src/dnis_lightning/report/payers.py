"""The pictures of who pays for a smaller table, and of how clicks are calibrated. Style as in `figures`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnis_lightning.report.figures import GREY, STYLE

_BY = {"block": "rows that show a feature of the block", "rarest": "rows whose rarest feature occurs so often"}


@rc_context(STYLE)
def payers(who_pays: Mapping[str, Any]) -> Figure:
    """The metric of each group of test rows, and under it how each cut differs from the unpruned model.

    who_pays: of `result.json`. Bars are 95 % confidence intervals. Returns a figure of two columns, by block and by
    rarest feature, and of one row of plots where nothing was cut.
    """
    lines = who_pays["groups"]
    cuts = list(lines[0]["cuts"]) if lines else []
    colours = dict(zip(cuts, colormaps["viridis"](np.linspace(0.15, 0.85, len(cuts))), strict=True))
    figure = Figure(figsize=(11, 6.4 if cuts else 3.6), layout="constrained")
    axes = figure.subplots(1 + bool(cuts), 2, squeeze=False, sharex="col")
    for column, (by, label) in enumerate(_BY.items()):
        own = [line for line in lines if line["by"] == by]
        _values(axes[0, column], own, colours, who_pays["metric"])
        if cuts:
            _differences(axes[1, column], own, colours)
        _name_groups(axes[-1, column], own, label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=len(cuts) + 1, fontsize=9)
    figure.suptitle("Who pays: test rows by frequency in train", x=0.02, ha="left", fontsize=12)
    return figure


def _values(axes: Axes, lines: Sequence[Mapping[str, Any]], colours: Mapping[str, Any], metric: str) -> None:
    places = np.arange(len(lines))
    axes.plot(places, _floats(line["unpruned"]["value"] for line in lines), "o-", color=GREY, label="unpruned")
    for cut, colour in colours.items():
        values = _floats(line["cuts"][cut]["value"] for line in lines)
        axes.plot(places, values, "o-", color=colour, markersize=4, linewidth=1.2, label=cut)
    axes.set_ylabel(f"{metric} on test")


def _differences(axes: Axes, lines: Sequence[Mapping[str, Any]], colours: Mapping[str, Any]) -> None:
    axes.axhline(0, color=GREY, linewidth=0.9)
    for number, (cut, colour) in enumerate(colours.items()):
        own = [line["cuts"][cut] for line in lines]
        middle, low, high = (_floats(one[key] for one in own) for key in ("difference", "low", "high"))
        places = np.arange(len(lines)) + (number - (len(colours) - 1) / 2) * 0.7 / max(len(colours), 1)
        axes.errorbar(places, middle, [middle - low, high - middle], fmt="o", color=colour, markersize=4, capsize=2)
    axes.set_ylabel("difference to unpruned")


def _name_groups(axes: Axes, lines: Sequence[Mapping[str, Any]], label: str) -> None:
    names = [f"{_frequency(line)}\n{_short(line['rows'])} rows" for line in lines]
    axes.set_xticks(np.arange(len(lines)), names, fontsize=8, rotation=45 if len(lines) > 8 else 0)
    axes.set_xlabel(f"{label}: occurrences in train")


def _frequency(line: Mapping[str, Any]) -> str:
    if line["by"] == "rarest":
        return str(line["name"])
    least, most = _short(line["least"]), _short(line["most"])
    return least if least == most else f"{least}–{most}"


def _short(count: int) -> str:
    """A count in three or four characters."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
    return f"{count}"


@rc_context(STYLE)
def reliability(parts: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Observed against predicted click rates of test rows, in bins of equally many by the prediction.

    parts: by the name of a cut, or `unpruned`, its `calibration` of `result.json`.
    """
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axes = figure.subplots()
    colours = [GREY, *colormaps["viridis"](np.linspace(0.15, 0.85, max(len(parts) - 1, 1)))]
    most = 0.0
    for (name, told), colour in zip(parts.items(), colours, strict=False):
        predicted, observed = ([one[key] for one in told["bins"]] for key in ("predicted", "observed"))
        label = f"{name}: error {told['error']:.4f}, mean {told['predicted']:.4f} of {told['observed']:.4f}"
        axes.plot(predicted, observed, "o-", color=colour, markersize=4, linewidth=1.2, label=label)
        most = max(most, *predicted, *observed)
    axes.plot([0, most], [0, most], color=GREY, linewidth=0.9, linestyle=":")
    axes.set(xlabel="predicted click rate of a bin", ylabel="observed click rate on test")
    axes.legend(fontsize=8, loc="upper left")
    figure.suptitle("Calibration", x=0.02, ha="left", fontsize=12)
    return figure


def _floats(values: Iterable[float | None]) -> np.ndarray:
    """NaN where there is no value."""
    return np.array(list(values), dtype=float)
