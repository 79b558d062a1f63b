"""Figures of a run. Arrays in, `matplotlib.figure.Figure` out: no pyplot, so no display and no global state.

L blocks of features, K dimensions, N features, T epochs. Colours are safe for the colour-blind: Okabe and Ito's for
curves, viridis and cividis for scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from dnis_lightning.measures import larger_is_better
from dnis_lightning.paths import whole_file

DPI = 150
BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#595959", "#EFEFEF"
STYLE: dict[Any, Any] = {
    "axes.titlelocation": "left",
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "boxplot.showfliers"), False),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "boxplot.medianprops.color"), "black"),
    **dict.fromkeys((f"boxplot.{part}props.color" for part in ("box", "whisker", "cap")), GREY),
    "boxplot.medianprops.linewidth": 1.8,
}
MANY_BLOCKS = 10  # more than these share a colour bar
MANY_FEATURES = 3000  # more than these are counted in cells instead of drawn one by one
NEVER = -0.5  # where frequency 0 stands on an axis of log10


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=DPI)


@rc_context(STYLE)
def learning_curves(metrics: pd.DataFrame, metric: str) -> Figure:
    """The select metric of every epoch with its best, and under it the losses, over the phases of a run.

    metrics: one row an epoch, with columns `phase`, `epoch` (running through all phases) and `select/<metric>`; where
    there are any, `train/loss` and `search/loss`. NaN leaves a gap. Returns a figure of one or two axes.
    Raises KeyError when one of the first three columns is missing.
    """
    losses = [name for name in ("train/loss", "search/loss") if name in metrics and metrics[name].notna().any()]
    figure = Figure(figsize=(8, 5.6 if losses else 3.6), layout="constrained")
    axes = list(figure.subplots(2 if losses else 1, sharex=True, squeeze=False)[:, 0])
    parts = _phases(metrics)
    _curve(axes[0], parts, f"select/{metric}", GREEN)
    _mark_best(axes[0], metrics, metric)
    for name, colour in zip(losses, (BLUE, ORANGE), strict=False):
        _curve(axes[1], parts, name, colour)
    _label_curves(axes, metric)
    _shade(axes, parts)
    return figure


def _phases(metrics: pd.DataFrame) -> list[pd.DataFrame]:
    """The table in pieces, one for each stretch of equal `phase`."""
    stretch = metrics["phase"].ne(metrics["phase"].shift()).cumsum()
    return [part for _, part in metrics.groupby(stretch.to_numpy())]


def _curve(axes: Axes, parts: Sequence[pd.DataFrame], name: str, colour: str) -> None:
    """One line a phase, not joined: each phase goes on from the best weights of the one before, not from the last."""
    for number, part in enumerate(parts):
        label = "_" if number else name  # one entry in the legend for all
        axes.plot(part["epoch"], part[name], "o-", color=colour, markersize=3, linewidth=1.6, label=label)


def _mark_best(axes: Axes, metrics: pd.DataFrame, metric: str) -> None:
    seen = metrics[metrics[f"select/{metric}"].notna()]
    if len(seen):
        values = seen[f"select/{metric}"].to_numpy(float)
        best = int(values.argmax() if larger_is_better(metric) else values.argmin())
        label = f"best: {values[best]:.4f}\n(epoch {seen['epoch'].iloc[best]})"
        axes.plot(seen["epoch"].iloc[best], values[best], "*", color=ORANGE, markersize=14, zorder=5, label=label)


def _label_curves(axes: Sequence[Axes], metric: str) -> None:
    for axis, label in zip(axes, (f"{metric} on the select split", "loss, mean over the epoch"), strict=False):
        axis.set_ylabel(label)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("epoch, counted through all phases")


def _shade(axes: Sequence[Axes], parts: Sequence[pd.DataFrame]) -> None:
    """Every other phase on grey, with its name on top: slanted if one is too long for its span, left out if crowded."""
    spans = [(part["epoch"].min() - 0.5, part["epoch"].max() + 0.5) for part in parts]
    names = [str(part["phase"].iloc[0]) for part in parts]
    first, last = spans[0][0], spans[-1][1]
    widths = [(end - start) / (last - first) for start, end in spans]
    slanted = any(len(name) / 80 > width for name, width in zip(names, widths, strict=True))
    place: dict[str, Any] = {"rotation": 40, "ha": "left"} if slanted else {"rotation": 0, "ha": "center"}
    labelled = -np.inf
    for number, (name, (start, end)) in enumerate(zip(names, spans, strict=True)):
        for axis in axes:
            axis.axvspan(start, end, color=PALE if number % 2 else "white", zorder=0, linewidth=0)
        middle = (start + end) / 2
        if middle - labelled > (last - first) / 26:
            top = axes[0].get_xaxis_transform()
            axes[0].text(middle, 1.02, name, transform=top, va="bottom", fontsize=9, color=GREY, **place)
            labelled = middle
    axes[0].set_xlim(first, last)


@rc_context(STYLE)
def gates_over_time(history: np.ndarray, epochs: np.ndarray) -> Figure:
    """The mean gate of each block after each epoch, and the band that holds the middle 80 % of its gates.

    history: (T, L, K), blocks by descending frequency. epochs: (T,). Returns a figure.
    """
    blocks = history.shape[1]
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for block in reversed(range(blocks)):
        _band(axes, epochs, history[:, block], block, blocks)
    axes.set(xlabel="epoch, counted through all phases", ylabel="gate α", ylim=(-0.03, 1.03))
    axes.set_title("Gates of each block of features: mean, and 10–90 % of its dimensions")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    name_blocks(figure, axes, blocks)
    return figure


def _band(axes: Axes, epochs: np.ndarray, gates: np.ndarray, block: int, blocks: int) -> None:
    """One block: its gates (T, K)."""
    (low, high), mean, colour = np.quantile(gates, (0.1, 0.9), axis=1), gates.mean(1), grade(blocks)(block)
    if len(epochs) == 1:  # a band of no width would not be seen: bars, side by side
        place = epochs + 0.6 * ((block + 0.5) / blocks - 0.5)
        axes.vlines(place, low, high, color=colour, alpha=0.5, linewidth=3)
        axes.plot(place, mean, "o", color=colour, label=str(block + 1))
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
        return
    axes.fill_between(epochs, low, high, color=colour, alpha=min(0.12, 0.8 / blocks), linewidth=0)
    axes.plot(epochs, mean, color=colour, linewidth=1.8 if blocks <= MANY_BLOCKS else 1.1, label=str(block + 1))


def grade(blocks: int) -> Colormap:
    """One colour a block, dark for the most frequent; viridis without its yellow end, which is lost on white."""
    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, blocks)))


def name_blocks(figure: Figure, axes: Axes, blocks: int) -> None:
    if blocks <= MANY_BLOCKS:
        handles, labels = axes.get_legend_handles_labels()
        labels[-1] += " (most\nfrequent)"
        axes.legend(handles[::-1], labels[::-1], title="block", loc="center left", bbox_to_anchor=(1, 0.5))
        return
    scale = ScalarMappable(Normalize(0.5, blocks + 0.5), grade(blocks))
    bar = figure.colorbar(scale, ax=axes, label="block of features (1 = most frequent)")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar.ax.invert_yaxis()


@rc_context(STYLE)
def gates_distribution(gates: np.ndarray) -> Figure:
    """Figure 3a of the paper: how the gates of each block are distributed; box of quartiles, mean, and every gate.

    gates: (L, K), blocks by descending frequency. Returns a figure.
    """
    blocks, dims = gates.shape
    figure = Figure(figsize=(min(5 + 0.3 * blocks, 13), 4.4), layout="constrained")
    axes = figure.subplots()
    place = np.arange(1, blocks + 1)
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, gates.shape)
    axes.scatter(place[:, None] + jitter, gates, s=7, color=BLUE, alpha=0.35, linewidths=0, zorder=1)
    axes.boxplot(gates.T, positions=place, widths=0.68, manage_ticks=False, zorder=3)
    axes.plot(place, gates.mean(1), "D", color=ORANGE, markersize=5, markeredgecolor="white", zorder=4, label="mean")
    axes.set(xlabel="block of features (1 = most frequent)", ylabel="gate α", title=f"Gates found, {dims} to a block")
    axes.set(xlim=(0.3, blocks + 0.7), ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=25, min_n_ticks=1))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, handletextpad=0.1)
    return figure


@rc_context(STYLE)
def dims_against_frequency(dims: np.ndarray, frequency: np.ndarray, base_dim: int, title: str) -> Figure:
    """Figure 3b of the paper: kept dimensions of every feature against its frequency, with both distributions.

    dims, frequency: (N,). base_dim: K. Features that train never shows stand apart, left of a dotted line. Returns a
    figure of three plots (joint, above, right), and a colour bar when features are counted in cells.
    """
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
    joint = figure.add_subplot(grid[1, 0])
    above, right = figure.add_subplot(grid[0, 0], sharex=joint), figure.add_subplot(grid[1, 1], sharey=joint)
    place = np.where(frequency > 0, np.log10(np.maximum(frequency, 1)), NEVER)
    columns, levels = _edges(place, max(base_dim, int(dims.max(initial=1))))
    _joint(joint, dims, place, columns, levels)
    joint.axhline(base_dim, color=GREY, linewidth=0.9, linestyle="--", label=f"K = {base_dim}")
    above.hist(place, columns.tolist(), color=BLUE, log=True)
    right.hist(dims, levels.tolist(), color=BLUE, log=True, orientation="horizontal")
    _label_joint(joint, place, columns, levels)
    _label_margins(above, right)
    corner = figure.add_subplot(grid[0, 1], frame_on=False, xticks=[], yticks=[])
    corner.legend(*joint.get_legend_handles_labels(), loc="lower left", handlelength=1.2, borderpad=0)
    figure.suptitle(title, x=0.02, ha="left", fontsize=12)
    return figure


def _edges(place: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of cells: tenths of a decade with one more cell for frequency 0, and at most 65 levels of dimensions."""
    decades = np.arange(-0.05, max(place.max(initial=0), 1) + 0.15, 0.1)
    step = -(-(highest + 1) // 65)
    return np.concatenate([[NEVER - 0.05, NEVER + 0.05], decades]), np.arange(-0.5, highest + step, step)


def _joint(axes: Axes, dims: np.ndarray, place: np.ndarray, columns: np.ndarray, levels: np.ndarray) -> None:
    if len(dims) <= MANY_FEATURES:
        axes.scatter(place, dims, s=14, color=BLUE, alpha=0.35, linewidths=0)
    else:
        counts = np.histogram2d(place, dims, bins=(columns, levels))[0]
        blues = ListedColormap(colormaps["Blues"](np.linspace(0.2, 1, 256)))
        cells = axes.pcolormesh(columns, levels, np.ma.masked_equal(counts.T, 0), norm=LogNorm(1), cmap=blues)
        axes.figure.colorbar(cells, ax=axes, location="bottom", label="features in a cell", aspect=45, pad=0.02)
    # means over quarters of a decade, and apart from them that of frequency 0
    means = pd.DataFrame({"place": place, "dims": dims}).groupby(np.floor(place * 4)).mean()
    seen, never = means[means["place"] >= 0], means[means["place"] < 0]
    axes.plot(seen["place"], seen["dims"], "o-", color=ORANGE, markersize=3.5, linewidth=1.8, label="mean")
    axes.plot(never["place"], never["dims"], "o", color=ORANGE, markersize=5)


def _label_joint(axes: Axes, place: np.ndarray, columns: np.ndarray, levels: np.ndarray) -> None:
    powers = range(int(columns[-1]) + 1)
    axes.set_xticks([NEVER, *powers], ["0", *(f"$10^{{{power}}}$" for power in powers)])
    axes.axvline(NEVER / 2, color=GREY, linewidth=0.9, linestyle=":")
    axes.set(xlabel="frequency of a feature in train (rows)", ylabel="kept dimensions of a feature")
    pad = (levels[-1] - levels[0]) / 60
    left = min(place.min(initial=0), 0) - 0.15
    axes.set(xlim=(left, columns[-1] + 0.05), ylim=(levels[0] - pad, levels[-1] + pad))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _label_margins(above: Axes, right: Axes) -> None:
    for axis, counts in ((above, above.yaxis), (right, right.xaxis)):
        counts.set_minor_formatter(NullFormatter())
        counts.set_label_text("features")
        axis.tick_params(labelbottom=axis is right, labelleft=axis is above)
    above.set_ylim(bottom=0.7)  # so that a single feature still has a bar on the logarithmic scale
    right.set_xlim(left=0.7)
