"""A data set in a picture: how often features occur, by rank, and the blocks they are put into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dnis_lightning.data.statistics import FieldFacts, Skew
from dnis_lightning.report.description import BlockFacts
from dnis_lightning.report.figures import BLUE, GREEN, GREY, ORANGE, STYLE

MANY_FIELDS, NAMED = 10, 9  # of more than MANY_FIELDS the largest NAMED have a colour, the rest are grey
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "black")
FEW_BLOCKS = 12  # bars that have room for a number


@rc_context(STYLE)
def data_picture(data: str, fields: Sequence[FieldFacts], blocks: Sequence[BlockFacts], least: int = 1) -> Figure:
    """Left: how often the features of each field occur in train, by rank. Right, if there are blocks: what each holds.

    least: a feature that occurs less often has no row of its own.
    """
    figure = Figure(figsize=(12 if blocks else 7, 4.8), layout="constrained")
    axes = figure.subplots(1, 2 if blocks else 1, squeeze=False)[0]
    _frequencies(axes[0], fields, least)
    if blocks:
        _blocks(axes[1], blocks)
    figure.suptitle(data, x=0.01, ha="left", fontsize=12)
    return figure


def _frequencies(axes: Axes, fields: Sequence[FieldFacts], least: int) -> None:
    drawn = [(facts.name, facts.skew) for facts in fields if facts.skew is not None]
    drawn.sort(key=lambda one: -one[1].features)
    named = NAMED if len(drawn) > MANY_FIELDS else len(drawn)
    for number, (name, skew) in enumerate(drawn[:named]):
        line = "-" if number < len(COLOURS) else "--"
        label = f"{_short(name)} ({skew.features:,})"
        _line(axes, skew, color=COLOURS[number % len(COLOURS)], linestyle=line, linewidth=1.8, label=label, zorder=3)
    for number, (_, skew) in enumerate(drawn[named:]):
        label = "_" if number else f"{len(drawn) - named} smaller fields"
        _line(axes, skew, color=GREY, alpha=0.45, linewidth=0.9, label=label, zorder=2)
    if least > 1:
        axes.axhline(least, color=GREY, linewidth=0.9, linestyle=":", label=f"min_count = {least:,}")
    if drawn:
        axes.set(xscale="log", yscale="log")
        axes.legend(title="field (features)", loc="upper right", fontsize=8, title_fontsize=8)
    else:
        axes.text(0.5, 0.5, "no field has ids", ha="center", transform=axes.transAxes, color=GREY)
    axes.set(xlabel="rank of a feature within its field (1 = most frequent)", ylabel="occurrences in train")
    axes.set_title("How often features occur", fontsize=11)


def _line(axes: Axes, skew: Skew, **look: object) -> None:
    alone = {"marker": "o", "markersize": 4} if len(skew.ranks) == 1 else {}
    axes.plot(skew.ranks, skew.frequency, **look, **alone)  # type: ignore[arg-type]


def _blocks(axes: Axes, blocks: Sequence[BlockFacts]) -> None:
    place, few = np.arange(1, len(blocks) + 1), len(blocks) <= FEW_BLOCKS
    total = max(sum(block.features for block in blocks), 1)
    parts = (
        ("features", BLUE, -0.2, [block.features / total for block in blocks]),
        ("occurrences in train", ORANGE, 0.2, [block.share for block in blocks]),
    )
    for label, colour, shift, shares in parts:
        axes.bar(place + shift, shares, width=0.4, color=colour, label=label)
    if few:
        for at, block in zip(place, blocks, strict=True):
            axes.text(at - 0.2, block.features / total, f" {block.features:,}", **_UPRIGHT, color=BLUE)
            axes.text(at + 0.2, block.share, f" {block.share:.1%}", **_UPRIGHT, color=ORANGE)
        axes.set_xticks(place, [f"{number}\n{_range(block)}" for number, block in zip(place, blocks, strict=True)])
        axes.tick_params(axis="x", labelsize=8)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.18 * max(max(shares) for *_, shares in parts))
    axes.set(
        xlabel="block (1 = most frequent)" + (" and frequency of its features" if few else ""), ylabel="share of all"
    )
    axes.set_title("Blocks", fontsize=11)
    axes.legend(loc="upper right", fontsize=8)


_UPRIGHT: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8}


def _range(block: BlockFacts) -> str:
    if not block.features:
        return "empty"
    return _brief(block.most) if block.least == block.most else f"{_brief(block.least)}–\n{_brief(block.most)}"


def _brief(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
    return f"{count:,}"


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"
