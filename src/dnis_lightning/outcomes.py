"""What a model made of each row of a split, how sure differences between models are, and how clicks are calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from dnis_lightning.measures import LEVEL
from dnis_lightning.paths import finite

_LEAST = 10
"""Rows or users that an interval rests on; of fewer, values of 0 and 1 say nothing of their spread."""
_BINS = 10


@dataclass(frozen=True)
class Recorded:
    """What is kept of a batch.

    units: by metric, (U,) its values of single rows or users, of which it is the mean over the split.
    rows (R,): a value of each row that features stand in: its loss; for top-k, of each wanted item, 1 where it was
    found. logits, label (R,) or None: of clicks.
    """

    units: Mapping[str, Tensor]
    rows: Tensor
    logits: Tensor | None = None
    label: Tensor | None = None

    def cpu(self) -> Recorded:
        """The same on the CPU."""
        units = {name: values.cpu() for name, values in self.units.items()}
        logits, label = (None if one is None else one.cpu() for one in (self.logits, self.label))
        return Recorded(units, self.rows.cpu(), logits, label)


@dataclass(frozen=True)
class Outcomes:
    """What a model made of a split: its metrics, and `Recorded` of all batches, in order, float32."""

    metrics: Mapping[str, float]
    units: Mapping[str, np.ndarray]
    rows: np.ndarray
    logits: np.ndarray | None = None
    label: np.ndarray | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, float], recorded: Sequence[Recorded]) -> Outcomes:
        """Put batches together."""
        names = list(recorded[0].units) if recorded else []
        units = {name: _joined([one.units[name] for one in recorded]) for name in names}
        clicks = bool(recorded) and recorded[0].logits is not None
        logits = _joined([one.logits for one in recorded if one.logits is not None]) if clicks else None
        label = _joined([one.label for one in recorded if one.label is not None]) if clicks else None
        return cls(metrics, units, _joined([one.rows for one in recorded]), logits, label)

    @cached_property
    def chances(self) -> np.ndarray | None:
        """(R,) the predicted chances of clicks, or None."""
        return None if self.logits is None else 1 / (1 + np.exp(-self.logits.astype(np.float64)))


@dataclass(frozen=True)
class Interval:
    """A difference and its confidence interval at `LEVEL`; NaN where there are too few rows for one."""

    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, difference: float, error: float, freedom: float) -> Interval:
        """From the standard error, by Student's t with so many degrees of freedom."""
        half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if math.isfinite(error) else math.nan
        return cls(difference, difference - half, difference + half)

    def told(self) -> dict[str, float | None]:
        """For JSON."""
        told: dict[str, float | None] = finite(asdict(self))
        return told


def mean_interval(differences: np.ndarray) -> Interval:
    """Of the mean of (U,) differences of single rows or users, which are taken to be independent."""
    return Interval.of(*_mean_and_error(differences), len(differences) - 1)


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error, NaN where there are too few values."""
    if not len(values):
        return math.nan, math.nan
    spread = float(values.std(ddof=1, dtype=np.float64)) if len(values) >= _LEAST else math.nan
    return float(values.mean(dtype=np.float64)), spread / math.sqrt(len(values))


def auc(scores: np.ndarray, label: np.ndarray) -> float:
    """The area under the ROC curve of scores (R,) and labels (R,) in {0, 1}; NaN where all labels are alike."""
    clicked = label > 0
    if clicked.all() or not clicked.any():
        return math.nan
    return float(_placements(scores, clicked)[0].mean())


def auc_interval(before: np.ndarray, after: np.ndarray, label: np.ndarray) -> Interval:
    """Of the difference of two areas under ROC curves of the same rows (DeLong et al. 1988).

    before, after (R,): scores; label (R,) in {0, 1}. NaN where all labels are alike.
    """
    clicked = label > 0
    if clicked.all() or not clicked.any():
        return Interval(math.nan, math.nan, math.nan)
    (first, other), (later, another) = (_placements(scores, clicked) for scores in (before, after))
    difference, of_clicks = _mean_and_error(later - first)
    _, of_others = _mean_and_error(another - other)
    return Interval.of(difference, math.hypot(of_clicks, of_others), len(label) - 2)


def _placements(scores: np.ndarray, clicked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each click the share of the others that score less, of each of these that of clicks that score more.

    Equal scores count a half. Both have the area under the ROC curve as their mean.
    """
    clicks, others = np.sort(scores[clicked]), np.sort(scores[~clicked])
    return _below(scores[clicked], others), 1 - _below(scores[~clicked], clicks)


def _below(scores: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """The share of some ordered numbers that is below each score, equal ones by half."""
    return (ordered.searchsorted(scores, "left") + ordered.searchsorted(scores, "right")) / (2 * len(ordered))


def differences(before: Outcomes, after: Outcomes) -> dict[str, Interval]:
    """By metric, that of `after` less that of `before`, of the same rows."""
    found = {name: mean_interval(after.units[name] - values) for name, values in before.units.items()}
    if before.logits is not None and after.logits is not None and before.label is not None:
        found["auc"] = auc_interval(before.logits, after.logits, before.label)
    return found


@dataclass(frozen=True)
class Calibration:
    """Predicted chances against what happened: means over all rows, and over bins of equally many, by the prediction.

    Equal predictions are in one bin.
    error: the mean over rows of the distance between both in their bin (expected calibration error, Naeini et al.
    2015, but in bins of equally many rows).
    """

    predicted: float
    observed: float
    error: float
    bins: list[dict[str, float]]


def calibration(outcomes: Outcomes) -> Calibration | None:
    """Of clicks; None for other tasks, and where a prediction is no number."""
    chances, label = outcomes.chances, outcomes.label
    if chances is None or label is None or not len(label) or not np.isfinite(chances).all():
        return None
    order = np.argsort(chances, kind="stable")
    firsts = chances[order][np.linspace(0, len(label), _BINS, endpoint=False).astype(int)]
    parts = np.split(order, np.unique(chances[order].searchsorted(firsts))[1:])
    bins = [
        {"rows": len(part), "predicted": float(chances[part].mean()), "observed": float(label[part].mean())}
        for part in parts
    ]
    error = sum(one["rows"] * abs(one["predicted"] - one["observed"]) for one in bins) / len(label)
    return Calibration(float(chances.mean()), float(label.mean()), error, bins)


def _joined(parts: Sequence[Tensor]) -> np.ndarray:
    joined = torch.cat(list(parts)) if parts else torch.zeros(0)
    found: np.ndarray = joined.float().numpy()
    return found
