"""Which metric decides, and what a log has room for."""

from __future__ import annotations

import math

import pytest

from dnis_lightning.measures import cost, cost_on_select, headline, larger_is_better, monitor, reported, worse_by


def test_the_tasks_own_metric_decides() -> None:
    assert monitor("rating", ["mse"]) == "mse"
    assert monitor("ctr", ["auc", "logloss"]) == "logloss"
    assert monitor("topk", ["recall@10", "ndcg@5", "ndcg@10", "ndcg@100_of_100", "ndcg@9"]) == "ndcg@10"
    assert monitor("another", ["mae", "mse"]) == "mae"


def test_smaller_costs_are_better() -> None:
    assert cost("mse", 0.7) < cost("mse", 0.8)
    assert cost("ndcg@10", 0.4) < cost("ndcg@10", 0.3) < cost("ndcg@10", math.nan)
    assert cost("auc", None) == cost("mse", math.inf) == math.inf
    assert larger_is_better("hr@10_of_100")
    assert cost("select/auc", 0.8) == -0.8
    assert cost_on_select("auc", {"auc": 0.1, "select/auc": 0.8}) == -0.8
    assert cost_on_select("auc", {"auc": 0.1}) == math.inf


def test_worse_by_a_share_is_worse_of_what_grows_too() -> None:
    assert worse_by(0.8, 0.1) == pytest.approx(0.88)
    assert worse_by(-0.4, 0.1) == pytest.approx(-0.36)


@pytest.mark.parametrize("split", ["", "select/"])
def test_of_many_metrics_a_few_are_shown(split: str) -> None:
    plain = ["mse", "recall@5", "recall@10", "hr@10", "map@5", "ndcg@10", "mrr@1"]
    names = [f"{split}{name}" for name in (*plain, "hr@5_of_100", "hr@10_of_100", "ndcg@10_of_100", "mrr@10_of_100")]
    tables = ("mse", "recall@5", "recall@10", "ndcg@10", "mrr@1", "hr@10_of_100", "ndcg@10_of_100")
    assert reported(names) == [f"{split}{name}" for name in tables]
    lines = ("mse", "recall@10", "ndcg@10", "hr@10_of_100", "ndcg@10_of_100")
    assert headline(names) == [f"{split}{name}" for name in lines]
