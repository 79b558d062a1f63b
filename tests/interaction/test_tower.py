"""The shared tower, and the models that are little more than one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.deepfm import DeepFM
from dnis_lightning.interaction.mlp import MLP
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.interaction.tower import Affine, BatchNorm, Tower
from dnis_lightning.interaction.wide_deep import WideDeep
from tests.interaction.formulas import affine, nothing, pairwise_sum, settle, tower


def hidden_widths(model: nn.Module) -> list[int]:
    layers = [part for part in model.tower.layers if isinstance(part, nn.Linear)]
    return [layer.out_features for layer in layers][: -1 if model.tower.outputs == 1 else None]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MLP(2, 16), [16, 8, 4]),
        (MLP(2, 16, "authors"), [32, 16]),
        (MLP(2, 1), [1, 1, 1]),
        (MLP(2, 0, "authors"), [1, 1]),
        (MLP(5, 16, [3]), [3]),
        (NeuMF(2, 32), [32, 16, 8]),
        (NeuMF(2, 32, "authors"), [32, 16, 8]),
        (WideDeep(3, 4), [1024, 512, 256]),
        (WideDeep(3, 4, "authors"), [400, 400, 400]),
        (DeepFM(3, 4), [400, 400, 400]),
        (DeepFM(3, 4, hidden="authors"), [400, 400, 400]),
    ],
)
def test_hidden_layers_are_those_of_the_papers_and_of_the_authors(model: nn.Module, expected: list[int]) -> None:
    assert hidden_widths(model) == expected


def test_each_layer_is_normalised_then_rectified_then_dropped() -> None:
    parts = [type(part) for part in Tower(3, [4, 5], 0.5, True).layers]
    assert parts == [Affine, BatchNorm, nn.ReLU, nn.Dropout] * 2 + [Affine]


def test_the_start_has_xaviers_spread() -> None:
    torch.manual_seed(0)
    weight = Affine(300, 500).weight.detach()
    assert float(weight.std()) == pytest.approx(np.sqrt(2 / 800), rel=0.01)


def test_batches_are_normalised_by_their_own_mean_and_variance(rng: np.random.Generator) -> None:
    rows = rng.normal(2, 3, size=(7, 4))
    norm = BatchNorm(4).double()
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + norm.eps)
    assert norm(torch.from_numpy(rows)).detach().numpy() == pytest.approx(expected)
    assert norm.running_mean.numpy() == pytest.approx(0.1 * rows.mean(0))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("kind", [MLP, WideDeep])
def test_mlp_and_the_deep_part_are_towers_on_joined_rows(
    rng: np.random.Generator, kind: type[nn.Module], batch_norm: bool
) -> None:
    rows = rng.normal(size=(6, 3, 4))
    model = settle(kind(3, 4, [5, 2], batch_norm=batch_norm).double())
    expected = [tower(model.tower, np.concatenate(list(e)))[0] for e in rows]
    assert model(torch.from_numpy(rows), nothing(6)).tolist() == pytest.approx(expected)


def test_neumf_multiplies_the_first_half_and_feeds_the_second_to_its_tower(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(6, 2, 8))
    model = settle(NeuMF(2, 4).double())

    def by_hand(user: np.ndarray, item: np.ndarray) -> float:
        products = [user[k] * item[k] for k in range(4)]
        deep = tower(model.tower, np.array([*user[4:], *item[4:]]))
        return affine(model.output, np.array([*products, *deep]))[0]

    assert model.output.in_features == 4 + 1
    expected = [by_hand(user, item) for user, item in rows]
    assert model(torch.from_numpy(rows), nothing(6)).tolist() == pytest.approx(expected)


def test_neumf_wants_two_fields() -> None:
    with pytest.raises(ConfigError, match="2 fields, this data has 39; take model=deepfm"):
        NeuMF(fields=39, dims=4)


@pytest.mark.parametrize(("reduce", "share"), [("sum", 1), ("mean", 1 / 4)])
def test_deepfm_is_fm_and_tower_on_the_same_rows(rng: np.random.Generator, reduce: str, share: float) -> None:
    rows = rng.normal(size=(6, 3, 4))
    model = settle(DeepFM(3, 4, reduce, [5, 2]).double())
    deep = np.array([tower(model.tower, e.reshape(-1))[0] for e in rows])
    expected = share * pairwise_sum(rows) + deep
    assert model(torch.from_numpy(rows), nothing(6)).detach().numpy() == pytest.approx(expected)
