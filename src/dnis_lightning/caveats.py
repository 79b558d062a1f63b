"""What the numbers of a run are to be read with, beside what its search says of itself: sentences for its result.

Each says what was found and, behind the first semicolon, what to do. metric: the one that decides, without its split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dnis_lightning.facts import CutFacts, TableFacts
from dnis_lightning.measures import cost_on_select, worse_by
from dnis_lightning.search.budget import Budget

_DIVERGED = 10
"""Times as bad as biases alone no training is that did not diverge."""
SLOW = 100
"""Epochs after which a learning rate that is still the first one, nearly each epoch better, looks too small."""
_STEADY = 0.9
"""Share of those epochs that are better than the one before, at least."""


def no_better_than_biases(
    uncut: TableFacts, cuts: Iterable[CutFacts], biases: Mapping[str, Any] | None, metric: str, l2: float
) -> Iterator[str]:
    """Tables that are no better on select than none, biases alone. l2: that of the rows."""
    if biases is None:
        return
    models: dict[str, TableFacts] = {"the whole table": uncut, **{cut["budget"]: cut for cut in cuts}}
    least = cost_on_select(metric, biases["metrics"])
    costs = {name: cost_on_select(metric, facts["metrics"]) for name, facts in models.items()}
    poor = [name for name, cost in costs.items() if cost >= least]
    other = (
        f"a model.l2 a few times as large as {l2:g} where the table is overfitted, or as small where it has shrunk to "
        "nothing"
        if l2
        else "a model.l2 above 0"
    )
    if max(costs.values()) > _DIVERGED * abs(least):
        other = "a smaller optimizer.lr, since training has diverged"
    if poor:
        monitor = f"select/{metric}"
        yield (
            f"no better on select than biases alone ({monitor} {biases['metrics'][monitor]:.5f}): {', '.join(poor)}; "
            f"take {other}, or search.base_dim=0, which has no table"
        )


def beyond_their_loss(cuts: Iterable[CutFacts]) -> Iterator[str]:
    """Cuts to a loss that no table was found to be within."""
    for cut in cuts:
        if not cut.get("within_loss", True):
            yield (
                f"{cut['budget']}: no table was found within that loss; take a larger one, or prune.schedule=one_shot, "
                "which starts from what is known to be within it"
            )


def beyond_their_size(cuts: Iterable[CutFacts], budgets: Iterable[Budget], whole: int) -> Iterator[str]:
    """Cuts that keep nothing, or whose file is larger than it may be. whole: entries of the uncut table, N·K."""
    bounds = {budget.name: budget.of_table(whole) for budget in budgets}
    for cut in cuts:
        name, size = cut["budget"], cut["bytes"]
        bound = bounds[name]
        if whole and not cut["kept"] and cut.get("within_loss", True):
            yield f"{name}: nothing of the table is kept; {_what_keeps_more(bound)}"
        if size > bound.most_bytes:
            yield f"{name}: its file has {size:,} bytes, more than that; take a larger budget"


def beaten_by_smaller(cuts: Sequence[CutFacts], metric: str, margin: float) -> Iterator[str]:
    """Cuts that are worse on select than one whose file is smaller: a budget is filled, whether that is best or not.

    margin: the share of the metric by which they may be.
    """
    monitor = f"select/{metric}"

    def cost(cut: CutFacts) -> float:
        return cost_on_select(metric, cut["metrics"])

    for cut in cuts:
        best = min((one for one in cuts if one["bytes"] < cut["bytes"]), key=cost, default=None)
        if best is not None and worse_by(cost(best), margin) < cost(cut):
            values = " against ".join(f"{one['metrics'][monitor]:.5f}" for one in (cut, best))
            yield (
                f"{cut['budget']}: worse on select than {best['budget']} ({monitor} {values}), which is smaller; "
                f"take {best['budget']}"
            )


def _what_keeps_more(budget: Budget) -> str:
    """What to do where nothing is kept."""
    if budget.epsilon is not None:
        return "take a smaller threshold"
    if budget.loss is not None:
        return "it is within that loss without one, and search.base_dim=0 has none"
    return "take a larger budget"


def unfinished(rows: Iterable[Mapping[str, Any]], training: str, metric: str) -> Iterator[str]:
    """A training that was still getting better when its epochs were over, or that was slow to get there.

    rows: of `metrics.csv`. training: its name there.
    """
    own = [row for row in rows if row["phase"] == training]
    costs = [cost_on_select(metric, row) for row in own]
    at_first = sum(row["lr"] == own[0]["lr"] for row in own)
    gains = sum(later < earlier for earlier, later in pairwise(costs[:at_first]))
    if len(own) > 1 and at_first == len(own) and costs[-1] < min(costs[:-1]):
        yield (
            f"{training}: select was at its best in the last of {at_first} epochs; take more epochs "
            "(trainer.max_epochs, or search.fit_epochs where that is set)"
        )
    elif at_first >= SLOW and gains >= _STEADY * (at_first - 1):
        yield (
            f"{training}: select got better, little by little, for {at_first} epochs; compare with an optimizer.lr "
            "three times as large, which gets there sooner, and where features are rare maybe further"
        )
