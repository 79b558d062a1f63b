"""The picture of trials."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dnis_lightning.report.trials import trials

TOLD = [
    {"name": "dim=4", "kept": 400, "select/mse": 0.8, "select/auc": 0.6},
    {"name": "dim=8", "kept": 800, "select/mse": 0.7, "select/auc": 0.5},
    {"name": "dim=12", "kept": 1200, "select/mse": math.nan, "select/auc": math.nan},
]


@pytest.mark.parametrize(("metric", "best"), [("mse", (800, 0.7)), ("auc", (400, 0.6))])
def test_every_trial_is_a_point_and_the_best_a_star(metric: str, best: tuple[float, float]) -> None:
    (axes,) = trials(TOLD, metric).axes
    points = axes.collections[0].get_offsets()
    assert np.asarray(points[:2]).tolist() == [[400, TOLD[0][f"select/{metric}"]], [800, TOLD[1][f"select/{metric}"]]]
    (star,) = axes.lines
    assert (star.get_xdata()[0], star.get_ydata()[0]) == best
    assert [text.get_text() for text in axes.texts] == ["dim=4", "dim=8"], "a diverged trial has no place"
    assert axes.get_ylabel() == f"{metric} on the select split"


def test_nothing_but_diverged_trials_has_no_star() -> None:
    assert not trials(TOLD[2:], "mse").axes[0].lines
