"""Each interaction against an independent formula, and the contract that all keep."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from dnis_lightning.batch import Batch
from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.mf import MF


def nothing(rows: int) -> Batch:
    return Batch(torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(rows))


def pairwise_sum(rows: np.ndarray) -> np.ndarray:
    """Σ_{f<g} Σ_k e_{f,k} e_{g,k} by loops."""
    return np.array([sum(float(e[f] @ e[g]) for f, g in combinations(range(len(e)), 2)) for e in rows])


@pytest.mark.parametrize("fields", [1, 2, 5])
def test_fm_is_the_sum_over_pairs(rng: np.random.Generator, fields: int) -> None:
    rows = rng.normal(size=(6, fields, 3))
    assert FM()(torch.from_numpy(rows), nothing(6)).numpy() == pytest.approx(pairwise_sum(rows), abs=1e-12)
    assert FM("mean")(torch.from_numpy(rows), nothing(6)).numpy() == pytest.approx(pairwise_sum(rows) / 3, abs=1e-12)


def test_mf_is_the_inner_product(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(6, 2, 3))
    assert MF(fields=2)(torch.from_numpy(rows), nothing(6)).numpy() == pytest.approx(pairwise_sum(rows))
    assert MF(fields=2, reduce="mean")(torch.from_numpy(rows), nothing(6)).numpy() == pytest.approx(
        pairwise_sum(rows) / 3
    )


def test_mf_wants_two_fields() -> None:
    with pytest.raises(ConfigError, match="2 fields, this data has 39; take model=fm"):
        MF(fields=39)


@pytest.mark.parametrize("model", [MF(2), MF(2, "mean"), FM(), FM("mean")], ids=["mf", "mf-mean", "fm", "fm-mean"])
class TestContract:
    """rows (B, F, K) and a batch in, logits (B,) out."""

    @pytest.mark.parametrize(("rows", "dims"), [(5, 4), (1, 1), (0, 4), (5, 0)])
    def test_shapes(self, model: nn.Module, rows: int, dims: int) -> None:
        assert model(torch.randn(rows, 2, dims), nothing(rows)).shape == (rows,)

    def test_no_dimensions_add_nothing(self, model: nn.Module) -> None:
        assert model(torch.randn(3, 2, 0), nothing(3)).tolist() == [0, 0, 0]

    def test_rows_do_not_see_each_other(self, model: nn.Module) -> None:
        rows = torch.randn(4, 2, 3)
        alone = torch.cat([model(rows[i : i + 1], nothing(1)) for i in range(4)])
        assert torch.allclose(model(rows, nothing(4)), alone)

    def test_gradients_reach_every_field(self, model: nn.Module) -> None:
        rows = torch.randn(4, 2, 3, requires_grad=True)
        model(rows, nothing(4)).sum().backward()
        assert (rows.grad.abs().sum((0, 2)) > 0).all()
