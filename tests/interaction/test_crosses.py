"""DCN, xDeepFM and AutoInt against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.autoint import Attention, AutoInt
from dnis_lightning.interaction.dcn import DCN, Cross
from dnis_lightning.interaction.xdeepfm import CIN, XDeepFM
from tests.interaction.formulas import affine, array, nothing, settle, tower


def cross_by_loops(weight: np.ndarray, bias: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """x_0i (Σ_j W_ij x_j + b_i) + x_i."""
    out = np.zeros_like(last)
    for i in range(len(last)):
        out[i] = last[i] + first[i] * (bias[i] + sum(weight[i, j] * last[j] for j in range(len(last))))
    return out


def matrix_of(cross: Cross) -> tuple[np.ndarray, np.ndarray]:
    """W and b."""
    if isinstance(cross.weigh, torch.nn.Sequential):
        narrow, wide = cross.weigh
        return array(wide.weight) @ array(narrow.weight), array(wide.bias)
    return array(cross.weigh.weight), array(cross.weigh.bias)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_dcn_crosses_with_the_first_input(rng: np.random.Generator, rank: int | None, structure: str) -> None:
    rows = rng.normal(size=(5, 3, 2))
    model = settle(DCN(3, 2, 2, rank, structure, [4]).double())
    for row, logit in zip(rows.reshape(5, 6), model(torch.from_numpy(rows), nothing(5)).tolist(), strict=True):
        crossed = row
        for cross in model.crosses:
            crossed = cross_by_loops(*matrix_of(cross), row, crossed)
        deep = tower(model.tower, crossed if structure == "stacked" else row)
        seen = deep if structure == "stacked" else np.array([*crossed, *deep])
        assert logit == pytest.approx(affine(model.output, seen)[0])


def test_a_low_rank_is_low() -> None:
    weight, _ = matrix_of(Cross(6, 2).double())
    assert np.linalg.matrix_rank(weight) == 2


def cin_by_loops(cin: CIN, rows: np.ndarray) -> list[float]:
    """Each layer's maps by a loop over maps, earlier maps, fields and dimensions of one row (F, K)."""
    fields, dims = rows.shape
    maps, shown = rows, []
    for number, matrix in enumerate(cin.weights, start=1):
        weight = array(matrix).reshape(len(matrix), len(maps), fields)
        out = np.zeros((len(weight), dims))
        for n, h, f, k in np.ndindex(*weight.shape, dims):
            out[n, k] += weight[n, h, f] * maps[h, k] * rows[f, k]
        split = cin.split_half and number < len(cin.weights)
        half = len(out) // 2
        shown += [float(one.sum()) for one in (out[half:] if split else out)]
        maps = out[:half] if split else out
    return shown


@pytest.mark.parametrize(("split_half", "outputs"), [(True, 2 + 1 + 3), (False, 4 + 2 + 3)])
def test_cin_is_a_sum_over_maps_and_fields(rng: np.random.Generator, split_half: bool, outputs: int) -> None:
    rows = rng.normal(size=(4, 5, 3))
    cin = CIN(5, [4, 2, 3], split_half).double()
    expected = np.array([cin_by_loops(cin, e) for e in rows])
    assert expected.shape == (4, outputs) == (4, cin.outputs)
    assert cin(torch.from_numpy(rows)).detach().numpy() == pytest.approx(expected)


def test_xdeepfm_adds_the_interaction_network_and_the_tower(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(4, 3, 2))
    model = settle(XDeepFM(3, 2, [4, 3], hidden=[5]).double())
    expected = [
        affine(model.output, np.array(cin_by_loops(model.cin, e)))[0] + tower(model.tower, e.reshape(-1))[0]
        for e in rows
    ]
    assert model(torch.from_numpy(rows), nothing(4)).tolist() == pytest.approx(expected)


def test_maps_that_feed_a_layer_have_halves() -> None:
    with pytest.raises(ConfigError, match="cin_layers: 3 maps cannot be halved; take an even number"):
        XDeepFM(2, 4, [3, 4])
    assert XDeepFM(2, 4, [4, 3]).cin.outputs == 2 + 3


def attention_by_loops(layer: Attention, states: np.ndarray) -> np.ndarray:
    """What one layer makes of the states (F, inputs) of a row, head by head and field by field."""
    heads, width = layer.heads
    out = np.array([affine(layer.residual, state) for state in states])
    for h in range(heads):
        mine = slice(h * width, (h + 1) * width)
        query, key, value = (
            [affine(part, state)[mine] for state in states] for part in (layer.query, layer.key, layer.value)
        )
        for f in range(len(states)):
            scores = [math.exp(query[f] @ key[g]) for g in range(len(states))]
            out[f, mine] += sum(score / sum(scores) * v for score, v in zip(scores, value, strict=True))
    return np.maximum(out, 0)


def test_autoint_attends_over_fields(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(4, 3, 5))
    model = settle(AutoInt(3, 5, layers=2, heads=2, width=3).double())
    for states, logit in zip(rows, model(torch.from_numpy(rows), nothing(4)).tolist(), strict=True):
        for layer in model.layers:
            states = attention_by_loops(layer, states)
        assert logit == pytest.approx(affine(model.output, states.reshape(-1))[0])


def test_attention_knows_no_order_of_fields() -> None:
    layer = Attention(4, heads=2, width=3)
    states, order = torch.randn(2, 5, 4), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(layer(states)[:, order], layer(states[:, order]), atol=1e-6)
