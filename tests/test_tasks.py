"""Losses and metrics against other libraries and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from dnis_lightning.batch import Batch
from dnis_lightning.errors import DataError
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.mlp import MLP
from dnis_lightning.lookup import with_distinct
from dnis_lightning.ranking import Query
from dnis_lightning.recommender import FeatureSpace, Prediction, Recommender
from dnis_lightning.tasks import ClickThrough, Objective, Rating, TopK


def test_rating_is_squared_error(rng: np.random.Generator) -> None:
    logits, label = rng.normal(size=50), rng.normal(size=50)
    metrics = Rating().metrics()
    for half in (slice(0, 20), slice(20, 50)):
        metrics.update(torch.from_numpy(logits[half]), torch.from_numpy(label[half]))
    expected = float(np.mean((logits - label) ** 2))
    assert float(metrics.compute()["mse"]) == pytest.approx(expected, rel=1e-12)
    assert float(Rating().loss(torch.from_numpy(logits), torch.from_numpy(label))) == pytest.approx(expected, rel=1e-12)


def test_click_metrics_are_auc_and_logloss(rng: np.random.Generator) -> None:
    logits = rng.normal(size=200).round(1)  # rounded: ties count half
    label = (rng.random(200) < 0.3).astype(float)
    metrics = ClickThrough().metrics()
    for half in (slice(0, 77), slice(77, 200)):
        metrics.update(torch.from_numpy(logits[half]).float(), torch.from_numpy(label[half]).float())
    values = metrics.compute()
    clicks = label.sum()
    ranks = rankdata(logits.astype(np.float32))
    auc = (ranks[label == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (200 - clicks))
    p = 1 / (1 + np.exp(-logits))
    assert float(values["auc"]) == pytest.approx(auc, abs=1e-6)
    assert float(values["logloss"]) == pytest.approx(
        -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)), rel=1e-6
    )


def test_there_is_no_auc_where_all_labels_are_alike() -> None:
    for label, known in (([1.0, 1.0], False), ([0.0, 0.0], False), ([0.0, 1.0], True)):
        metrics = ClickThrough().metrics()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            metrics.update(torch.tensor([0.1, 0.2]), torch.tensor(label))
            found = metrics.compute()
        assert torch.isfinite(found["logloss"])
        assert bool(torch.isnan(found["auc"])) != known


def test_shares_of_the_loss_add_up() -> None:
    logits, label = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    parts = [Rating().loss(logits[r::2], label[r::2], rows=3) for r in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(Rating().loss(logits, label)))


def test_base_logit_is_the_best_constant() -> None:
    assert Rating().base_logit(3.5) == 3.5
    assert ClickThrough().base_logit(0.25) == pytest.approx(np.log(0.25 / 0.75))
    with pytest.raises(DataError, match=r"data\.task=ctr"):
        ClickThrough().base_logit(3.5)


def test_l2_counts_each_occurrence(rng: np.random.Generator) -> None:
    rows, terms = torch.from_numpy(rng.normal(size=(5, 2, 3))), torch.from_numpy(rng.normal(size=(5, 2)))
    logits, label = torch.from_numpy(rng.normal(size=5)), torch.zeros(5, dtype=torch.float64)
    by_loops = sum(
        float(logits[b]) ** 2 + 0.1 * float((rows[b] ** 2).sum()) + 0.3 * float((terms[b] ** 2).sum()) for b in range(5)
    )
    batch = Batch(torch.zeros(5, 2, dtype=torch.int64), label)
    value = Objective(Rating(), l2=0.1, l2_bias=0.3)(Prediction(logits, rows, terms, None), batch)
    assert float(value) == pytest.approx(by_loops / 5)


def test_l2_of_each_feature_has_its_share(rng: np.random.Generator) -> None:
    """Of a pass over all rows, with shares 1 / n: the same for each feature, however often it occurs."""
    ids = torch.tensor([[0, 3], [0, 4], [0, 3], [1, 3]])
    table, biases = torch.from_numpy(rng.normal(size=(5, 3))), torch.from_numpy(rng.normal(size=5))
    shares = 1 / ids.flatten().bincount(minlength=5).clamp(min=1)
    objective = Objective(Rating(), l2=0.1, l2_bias=0.3, l2_scale=shares)
    zeros, shown = torch.zeros(4, dtype=torch.float64), ids.unique()
    expected = 0.1 * table[shown].square().sum() + 0.3 * biases[shown].square().sum()
    by_row = objective(Prediction(zeros, table[ids], biases[ids], None), Batch(ids, zeros))
    assert float(4 * by_row) == pytest.approx(float(expected))
    (batch,) = with_distinct([Batch(ids, zeros)])
    distinct = batch.distinct.features
    by_feature = objective(Prediction(zeros, table[distinct], biases[distinct], None), batch)
    assert float(by_feature) == pytest.approx(float(by_row))


def test_l2_on_the_net_is_shared_among_the_ranks_of_a_batch() -> None:
    """Two ranks with 2 and 3 of 5 rows add up to loss + l2_net · Σ ‖W‖²."""
    logits, label, rows = torch.tensor([1.0, 0, 2, -1, 3]), torch.zeros(5), torch.zeros(5, 2, 3)
    ids, net = torch.zeros(5, 2, dtype=torch.int64), torch.tensor(7.0)
    objective = Objective(Rating(), l2_net=0.1)
    shares = [
        objective(Prediction(logits[part], rows[part], None, net), Batch(ids[part], label[part], total=5))
        for part in (slice(0, 2), slice(2, 5))
    ]
    assert float(sum(shares)) == pytest.approx((1 + 0 + 4 + 1 + 9) / 5 + 0.1 * 7)
    assert float(objective(Prediction(logits, rows, None, None), Batch(ids, label))) == pytest.approx(3.0)


def test_the_net_is_all_weight_matrices_and_no_bias() -> None:
    model = Recommender(FeatureSpace((0, 3, 5)), MLP(2, 4), dims=4)
    batch = Batch(torch.tensor([[0, 3], [1, 4]]), torch.zeros(2))
    matrices = [p for name, p in model.interaction.named_parameters() if name.endswith("weight")]
    assert float(model(batch).net) == pytest.approx(sum(float(p.detach().square().sum()) for p in matrices), rel=1e-5)
    with torch.no_grad():
        assert model(batch).net is None
    assert Recommender(FeatureSpace((0, 3, 5)), FM(), dims=4)(batch).net is None


def topk(**options: object) -> TopK:
    return TopK(**{"negatives": 3, "loss": "bce", "positive_weight": 1.0, "tops": [5, 10, 1, 5]} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_pointwise_loss_is_cross_entropy_with_a_weight(weight: float, rng: np.random.Generator) -> None:
    logits, label = rng.normal(size=(5, 4)), np.zeros((5, 4))
    label[:, 0] = 1
    p = 1 / (1 + np.exp(-logits))
    expected = -(weight * label * np.log(p) + (1 - label) * np.log(1 - p))
    found = topk(positive_weight=weight).losses(*(torch.from_numpy(one.ravel()) for one in (logits, label)))
    assert found.numpy() == pytest.approx(expected.ravel(), rel=1e-12)


def test_pairwise_loss_is_the_mean_over_pairs(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(5, 4))
    label = torch.tensor([1.0, 0, 0, 0]).repeat(5)
    pairs = [-np.log(1 / (1 + np.exp(-(row[0] - other)))) for row in logits for other in row[1:]]
    task, flat = topk(loss="bpr"), torch.from_numpy(logits.ravel())
    assert float(task.loss(flat, label)) == pytest.approx(np.mean(pairs), rel=1e-12)
    shares = [task.loss(flat.view(5, 4)[r::2].flatten(), label.view(5, 4)[r::2].flatten(), rows=20) for r in (0, 1)]
    assert float(sum(shares)) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_top_k_is_decided_by_ndcg_at_the_largest_k() -> None:
    task = topk()
    assert task.tops == [1, 5, 10]
    assert task.monitor == "ndcg@10"
    assert set(task.measured) == {
        f"{m}@{k}" for m in ("recall", "hr", "mrr", "ndcg", "precision", "map") for k in task.tops
    }


def test_the_best_constant_of_a_row_and_its_negatives() -> None:
    for weight in (1.0, 4.0):
        task, start = topk(positive_weight=weight), 0.0
        label = torch.tensor([1.0, 0, 0, 0])
        losses = {
            step: float(task.loss(torch.full((4,), task.base_logit(start) + step), label)) for step in (-0.1, 0, 0.1)
        }
        assert min(losses, key=lambda step: losses[step]) == 0
    assert topk(loss="bpr").base_logit(0.0) == 0


def test_a_query_is_scored_with_its_user_in_the_right_column() -> None:
    asked = []

    class Model:
        def scores(self, users: torch.Tensor, items: torch.Tensor, user_column: int) -> torch.Tensor:
            asked.append((users.tolist(), items.tolist(), user_column, torch.is_autocast_enabled("cpu")))
            return torch.tensor([[1.0, 2.0]])

    task, nothing = topk(), torch.zeros((2, 0), dtype=torch.int64)
    metrics, one = task.metrics(), torch.ones(1, dtype=torch.int64)
    query = Query(torch.tensor([7]), torch.tensor([3, 4]), nothing, torch.tensor([[0], [1]]), one, one, user_column=1)
    with torch.autocast("cpu", torch.bfloat16):
        task.assess(metrics, Model(), query)  # type: ignore[arg-type]
    assert asked == [([7], [3, 4], 1, False)]
    assert float(metrics.compute()["hr@1"]) == 1


def test_auc_does_not_depend_on_how_rows_are_batched(rng: np.random.Generator) -> None:
    """Logits of a batch that happen to lie between 0 and 1 are logits still."""
    logits, label = rng.random(400).astype(np.float32), torch.from_numpy(rng.integers(0, 2, 400))
    logits[200:] = rng.normal(size=200) * 3
    areas = []
    for batches in (1, 2, 8):
        metrics = ClickThrough().metrics()
        for said, given in zip(torch.from_numpy(logits).chunk(batches), label.chunk(batches), strict=True):
            metrics.update(said, given)
        areas.append(float(metrics.compute()["auc"]))
    clicked, rank = label.numpy() == 1, rankdata(logits)
    pairs = clicked.sum() * (~clicked).sum()
    by_ranks = (rank[clicked].sum() - clicked.sum() * (clicked.sum() + 1) / 2) / pairs  # Mann and Whitney's U
    assert areas == pytest.approx([by_ranks] * 3, abs=1e-6)
