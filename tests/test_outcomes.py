"""Intervals against resampling and pair counting, calibration against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dnis_lightning.outcomes import Outcomes, Recorded, auc_interval, calibration, differences, mean_interval
from dnis_lightning.tasks import ClickThrough, Rating, TopK


def clicks(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the scores of two models of which the second is better; both have ties."""
    label = rng.integers(0, 2, rows)
    noise = rng.normal(size=rows)
    return label, np.round(0.5 * label + noise, 1), np.round(1.0 * label + noise + 0.3 * rng.normal(size=rows), 1)


def area_by_pairs(scores: np.ndarray, label: np.ndarray) -> float:
    pairs = list(itertools.product(scores[label == 1], scores[label == 0]))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def test_mean_interval_is_the_textbook_s() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0, 6.0] * 3))
    half = 2.200985 * math.sqrt(3 * (4 + 1 + 0 + 9) / 11 / 12)  # t of 11 degrees of freedom at 97.5 %
    assert found.difference == 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_too_few_rows_have_no_interval() -> None:
    for few in (1, 9):
        assert mean_interval(np.full(few, 2.0)).told() == {"difference": 2.0, "low": None, "high": None}
    assert mean_interval(np.zeros(0)).told() == {"difference": None, "low": None, "high": None}
    alike = auc_interval(np.arange(3.0), np.arange(3.0), np.ones(3))
    assert set(alike.told().values()) == {None}


def test_difference_of_areas_is_that_of_all_pairs(rng: np.random.Generator) -> None:
    label, before, after = clicks(rng, 60)
    expected = area_by_pairs(after, label) - area_by_pairs(before, label)
    assert auc_interval(before, after, label).difference == pytest.approx(expected, abs=1e-12)


def test_interval_of_areas_is_as_wide_as_samples_spread(rng: np.random.Generator) -> None:
    found = [auc_interval(before, after, label) for label, before, after in (clicks(rng, 400) for _ in range(400))]
    spread = np.std([one.difference for one in found])
    told = np.mean([(one.high - one.low) / 2 / 1.959964 for one in found])
    assert told == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("rows", [10, 200])
def test_an_interval_covers_the_truth_as_often_as_it_says(rows: int, rng: np.random.Generator) -> None:
    found = [mean_interval(rng.normal(0.3, 2.0, rows)) for _ in range(2000)]
    assert np.mean([one.low <= 0.3 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)


def of_batches(task: Rating | ClickThrough, logits: np.ndarray, label: np.ndarray) -> Outcomes:
    halves = np.array_split(np.arange(len(label)), 2)
    said = [(torch.from_numpy(logits[one]).float(), torch.from_numpy(label[one]).float()) for one in halves]

    class OnlyLabels:
        def __init__(self, label: torch.Tensor) -> None:
            self.label = label

    return Outcomes.of({}, [task.record(one, OnlyLabels(other)) for one, other in said])


def test_units_have_the_metric_as_their_mean(rng: np.random.Generator) -> None:
    label, before, after = clicks(rng, 101)
    ratings = [of_batches(Rating(), scores, label) for scores in (before, after)]
    assert ratings[0].units["mse"].mean() == pytest.approx(np.mean((before - label) ** 2), rel=1e-6)
    told = differences(*ratings)["mse"]
    assert told.difference == pytest.approx(np.mean((after - label) ** 2 - (before - label) ** 2), rel=1e-5)
    found = differences(*(of_batches(ClickThrough(), scores, label) for scores in (before, after)))
    losses = [np.log1p(np.exp(-scores * (2 * label - 1))).mean() for scores in (before, after)]
    assert found["logloss"].difference == pytest.approx(losses[1] - losses[0], rel=1e-4)
    assert found["auc"].difference == pytest.approx(
        area_by_pairs(after, label) - area_by_pairs(before, label), abs=1e-6
    )


def test_records_of_queries_are_by_user_and_by_wanted_item() -> None:
    class Query:
        wanted = torch.tensor([[0, 0, 1], [3, 4, 5]])
        relevant = torch.tensor([2, 2])

    task = TopK(negatives=1, loss="bce", positive_weight=1.0, tops=[2, 3])
    found = task.record(torch.tensor([1, 4, 3]), Query())
    assert found.rows.tolist() == [1, 0, 1]  # among the first three
    assert found.units["recall@2"].tolist() == [0.5, 0.0]
    assert found.units["recall@3"].tolist() == [0.5, 0.5]


def test_calibration_of_a_model_that_is_right_and_of_one_that_is_not(rng: np.random.Generator) -> None:
    chances = rng.uniform(0.05, 0.6, 40_000)
    label = (rng.random(40_000) < chances).astype(float)
    right, wrong = (np.log(p / (1 - p)) for p in (chances, np.minimum(chances + 0.2, 0.99)))
    told = [calibration(of_batches(ClickThrough(), logits, label)) for logits in (right, wrong)]
    assert told[0] is not None
    assert told[1] is not None
    assert told[0].error < 0.015
    assert told[1].error == pytest.approx(0.2, abs=0.015)
    assert told[1].predicted - told[1].observed == pytest.approx(0.2, abs=0.015)
    assert [one["rows"] for one in told[0].bins] == [4000] * 10


def test_equal_predictions_are_in_one_bin(rng: np.random.Generator) -> None:
    label = (rng.random(500) < 0.3).astype(float)
    told = calibration(of_batches(ClickThrough(), np.full(500, -0.5), label))
    assert told is not None
    assert told.error == pytest.approx(abs(told.predicted - told.observed))
    some = calibration(of_batches(ClickThrough(), np.repeat([-2.0, 1.0], [450, 50]), label))
    assert some is not None
    assert [one["rows"] for one in some.bins] == [450, 50]


def test_calibration_is_of_clicks_alone() -> None:
    assert calibration(of_batches(Rating(), np.zeros(4), np.ones(4))) is None
    assert calibration(of_batches(ClickThrough(), np.full(4, np.nan), np.ones(4))) is None
    assert calibration(Outcomes.of({}, [Recorded({}, torch.zeros(0))])) is None
