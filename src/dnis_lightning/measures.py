"""Which metric of a task decides, and which way a metric is better. Light, so that all floors may know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LEVEL = 0.95
"""Of confidence intervals."""
LARGER_IS_BETTER = {"auc", "recall", "hr", "mrr", "ndcg", "precision", "map"}
_SHOWN, _AMONG = {"recall", "mrr", "ndcg"}, {"hr", "ndcg"}
_MONITOR = {"rating": "mse", "ctr": "logloss", "topk": "ndcg"}


def larger_is_better(metric: str) -> bool:
    """Whether of two values of a metric, `auc`, `ndcg@10` or `select/auc`, the larger is the better one."""
    return _base(metric) in LARGER_IS_BETTER


def monitor(task: str, metrics: Sequence[str]) -> str:
    """The metric that chooses among epochs, trials and rows on the select split: the task's own, or else the first.

    Of the same metric at several k it is the one at the largest.
    """
    own = _MONITOR.get(task, "")
    found = [name for name in metrics if name.split("@")[0] == own and not _at(name)[1]]
    if not found:
        return metrics[0] if metrics else own
    return max(found, key=lambda name: _at(name)[0])


def reported(names: Sequence[str]) -> list[str]:
    """What a table has room for: of metrics at several k, recall, MRR and NDCG, as in the paper's Table 4.

    Of those among given candidates, HR and NDCG at the largest k, as NCF's figures are. names: with or without their
    split, as `select/ndcg@10`.
    """
    largest = _largest(names)
    return [name for name in names if _is_reported(name, largest)]


def _is_reported(name: str, largest: dict[str, int]) -> bool:
    k, among = _at(name)
    if not k:
        return True
    return _base(name) in (_AMONG if among else _SHOWN) and (not among or k == largest[among])


def headline(names: Sequence[str]) -> list[str]:
    """What a line of a log has room for: what is reported, at the largest k alone."""
    largest = _largest(names)
    return [name for name in names if _is_reported(name, largest) and _at(name)[0] in (0, largest[_at(name)[1]])]


def _largest(names: Sequence[str]) -> dict[str, int]:
    """The largest k among the whole catalogue, and of each number of candidates."""
    found: dict[str, int] = {}
    for k, among in map(_at, names):
        found[among] = max(found.get(among, 0), k)
    return found


def _base(name: str) -> str:
    return name.split("@")[0].rpartition("/")[2]


def _at(name: str) -> tuple[int, str]:
    """The k of `ndcg@10_of_100`, 0 where there is none, and what stands behind it."""
    k, _, among = name.partition("@")[2].partition("_")
    return int(k or 0), among


def cost(metric: str, value: float | None) -> float:
    """A value of a metric so that smaller is better: infinite where it is no finite number."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if larger_is_better(metric) else float(value)


def cost_on_select(metric: str, metrics: Mapping[str, float | None]) -> float:
    """What models are compared by, smaller is better: the cost of their metric on the select rows.

    metrics: by names as `select/auc`; infinite where this one is not among them, or no finite number.
    """
    return cost(metric, metrics.get(f"select/{metric}"))


def worse_by(score: float, share: float) -> float:
    """A score, of which smaller is better, that is worse than another by a share of that."""
    return score + share * abs(score)
