"""On planted data the search finds how many dims are useful in each block."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.data.synthetic import recovery
from tests.command import dnis, result_of

PLANTED = [2, 8, 4, 1, 6]


def test_the_number_of_useful_dims_is_recovered(tmp_path: Path) -> None:
    """At the planted number of entries; an even share and frequency alone know that number, too."""
    budget = f"search.budget=cr:{64 / np.mean(PLANTED)}"
    _, result = result_of(dnis(tmp_path, budget, "prune=elements", "trainer.threads=1", timeout=400))
    (score,) = result["recovery"].values()
    assert score["useful"] == PLANTED
    assert score["rank_correlation"] >= 0.9 > score["frequency_correlation"]
    assert score["error"] <= 1 < 2 < min(score["even_error"], score["frequency_error"])


def test_scores_by_hand() -> None:
    block_of = np.array([0, 0, 1, 1, 2])
    score = recovery(np.array([3, 3, 1, 1, 5]), np.array([4, 2, 1, 0, 2]), block_of)
    assert (score.useful, score.kept) == ((3.0, 1.0, 5.0), (3.0, 0.5, 2.0))
    assert score.rank_correlation == pytest.approx(0.5)
    assert score.error == pytest.approx((0 + 0.5 + 3) / 3)
    assert score.even_error == pytest.approx((0 + 2 + 2) / 3)
    assert score.frequency_correlation == pytest.approx(-0.5)  # 5, 3, 1 against 3, 1, 5
    assert score.frequency_error == pytest.approx((2 + 2 + 4) / 3)


def test_alike_blocks_have_no_rank_correlation() -> None:
    assert np.isnan(recovery(np.array([2, 2]), np.array([1, 3]), np.array([0, 1])).rank_correlation)


def test_undefined_figures_are_null_in_the_result(tmp_path: Path) -> None:
    folder, _ = result_of(
        dnis(
            tmp_path,
            "data.rows=4000",
            "data.dims=[2]",
            "data.batch_size=512",
            "trainer.max_epochs=1",
            "search.blocks=1",
        )
    )
    told = json.loads((folder / "result.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {score["rank_correlation"] for score in told["recovery"].values()} == {None}
