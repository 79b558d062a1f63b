"""Says at the end of a search whether it is to be trusted: in the log, and in facts for the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from dnis_lightning.columns import aligned
from dnis_lightning.measures import cost, larger_is_better
from dnis_lightning.search.diagnosis import Diagnosis, Gap, diagnose, gap_between
from dnis_lightning.search.doubts import Course, doubts
from dnis_lightning.training.callbacks import BestWeights, History
from dnis_lightning.training.search_module import SearchModule

log = logging.getLogger(__name__)


def examine(module: SearchModule, history: History, best: BestWeights, *, shared: bool) -> dict[str, Any]:
    """What `result.json` has as `diagnostics` of the search that has just ended; the log has it, too.

    shared: the rows of search serve as select, too.
    """
    rows = [row for row in history.rows if row["phase"] == history.phase]
    search, select = ([row[name] for row in rows] for name in ("search/loss", best.monitor))
    metric = module.objective.task.monitor
    gap = None if shared or larger_is_better(metric) else gap_between(search, select)  # what ranks are worth is no loss
    features = torch.bincount(module.selection.block_of, minlength=len(module.selection.gates)).tolist()
    ends_with = best.best_epoch if math.isfinite(best.best) else len(rows)
    diagnosis = diagnose(module.pushes.to("cpu"), history.gates[-len(rows) :], features, best=ends_with, gap=gap)
    costs = [cost(metric, value) for value in select]
    course = Course(costs, ends_with, best.stopping.least_epochs, shared, judged=math.isfinite(best.start))
    warnings = doubts(diagnosis, course)
    log.info("%s: what moved the gates\n%s", history.phase, "\n".join(_told(diagnosis, _gap(gap, metric, shared))))
    for warning in warnings:
        log.warning("%s: %s", history.phase, warning)
    return {"phase": history.phase, **asdict(diagnosis), "warnings": list(warnings)}


def _told(diagnosis: Diagnosis, gap: str) -> Iterator[str]:
    head = ("block", "features", "data share", "signal", "gates", "drift", "")
    body = [
        (
            str(one.block),
            f"{one.features:,}",
            f"{one.data_share:.2f}",
            f"{one.signal:.1f}",
            f"{one.gates:.3f}",
            f"{one.drift:.4f}",
            "dead" if one.dead else "",
        )
        for one in diagnosis.blocks
    ]
    yield from aligned(head, body, left=(6,))
    yield f"drift of α: {diagnosis.drift.first:.4f} an epoch at first, {diagnosis.drift.last:.4f} at last"
    yield f"gap between search and select loss: {gap}"


def _gap(gap: Gap | None, metric: str, shared: bool) -> str:
    if gap is not None:
        return f"{gap.first:+.5f} at first, {gap.last:+.5f} at last, a growth by {gap.growth:.1%} of the select loss"
    return "none, " + ("both have the same rows" if shared else f"select is measured in {metric}, which is no loss")
