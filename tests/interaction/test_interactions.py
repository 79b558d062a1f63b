"""Models without a tower against an independent formula, and the contract that all keep."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from dnis_lightning.errors import ConfigError
from dnis_lightning.interaction.autoint import AutoInt
from dnis_lightning.interaction.dcn import DCN
from dnis_lightning.interaction.deepfm import DeepFM
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.gmf import GMF
from dnis_lightning.interaction.mf import MF
from dnis_lightning.interaction.mlp import MLP
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.interaction.wide_deep import WideDeep
from dnis_lightning.interaction.xdeepfm import XDeepFM
from tests.interaction.formulas import nothing, pairwise_sum, settle


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


def test_gmf_weighs_the_products(rng: np.random.Generator) -> None:
    rows, model = rng.normal(size=(6, 2, 3)), settle(GMF(2, 3)).double()
    weight, bias = model.output.weight.detach().numpy()[0], float(model.output.bias)
    expected = [sum(w * x * y for w, x, y in zip(weight, *row, strict=True)) + bias for row in rows]
    assert model(torch.from_numpy(rows), nothing(6)).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("model", [lambda: MF(fields=39), lambda: GMF(39, 4)])
def test_mf_and_gmf_want_two_fields(model: Callable[[], nn.Module]) -> None:
    with pytest.raises(ConfigError, match="2 fields, this data has 39; take model=fm"):
        model()


SMALL = {"hidden": [5, 4]}
NORM = {"hidden": [5, 4], "batch_norm": True}
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mf": lambda dims: MF(2),
    "mf-mean": lambda dims: MF(2, "mean"),
    "fm": lambda dims: FM(),
    "fm-mean": lambda dims: FM("mean"),
    "gmf": lambda dims: GMF(2, dims),
    "mlp": lambda dims: MLP(2, dims, **SMALL),
    "mlp-authors": lambda dims: MLP(2, dims, "authors"),
    "mlp-norm": lambda dims: MLP(2, dims, **NORM),
    "mlp-linear": lambda dims: MLP(2, dims, []),
    "neumf": lambda dims: NeuMF(2, dims, **SMALL),
    "neumf-norm": lambda dims: NeuMF(2, dims, **NORM),
    "wide_deep": lambda dims: WideDeep(2, dims, **SMALL),
    "wide_deep-norm": lambda dims: WideDeep(2, dims, **NORM),
    "deepfm": lambda dims: DeepFM(2, dims, **SMALL),
    "deepfm-mean-norm": lambda dims: DeepFM(2, dims, "mean", **NORM),
    "dcn": lambda dims: DCN(2, dims, **SMALL),
    "dcn-low-rank": lambda dims: DCN(2, dims, rank=2, **SMALL),
    "dcn-parallel-norm": lambda dims: DCN(2, dims, structure="parallel", **NORM),
    "xdeepfm": lambda dims: XDeepFM(2, dims, [4, 2, 3], **SMALL),
    "xdeepfm-whole-norm": lambda dims: XDeepFM(2, dims, [3, 2], split_half=False, **NORM),
    "autoint": lambda dims: AutoInt(2, dims, layers=2, heads=2, width=3),
}
DROPPING: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda dims: MLP(2, dims, [20], dropout=0.5),
    "neumf": lambda dims: NeuMF(2, dims, [20], dropout=0.5),
    "wide_deep": lambda dims: WideDeep(2, dims, [20], dropout=0.5),
    "deepfm": lambda dims: DeepFM(2, dims, hidden=[20], dropout=0.5),
    "dcn": lambda dims: DCN(2, dims, hidden=[20], dropout=0.5),
    "xdeepfm": lambda dims: XDeepFM(2, dims, [2], hidden=[20], dropout=0.5),
    "autoint": lambda dims: AutoInt(2, dims, dropout=0.5),
}


def made(name: str, dims: int = 3, models: dict[str, Callable[[int], nn.Module]] = MODELS) -> nn.Module:
    """A model of 2 fields in double precision and evaluation mode, the same at every call, its parameters not zero."""
    torch.manual_seed(0)
    return settle(models[name](dims).double())


def some_rows(model: nn.Module, rows: int, dims: int = 3) -> Tensor:
    """Rows (B, 2, tables · K)."""
    generator = torch.Generator().manual_seed(1)
    width = dims * getattr(model, "tables", 1)
    return torch.randn(rows, 2, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", MODELS)
class TestContract:
    """rows (B, F, K) and a batch in, logits (B,) out."""

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize(("rows", "dims"), [(5, 4), (1, 4), (1, 1), (0, 4), (5, 0), (1, 0), (0, 0)])
    def test_shapes(self, name: str, rows: int, dims: int, training: bool) -> None:
        model = made(name, dims).train(training)
        logits = model(some_rows(model, rows, dims), nothing(rows))
        assert (logits.shape, logits.dtype) == ((rows,), torch.float64)
        assert logits.isfinite().all()

    def test_no_dimensions_tell_rows_nothing(self, name: str) -> None:
        model = made(name, 0)
        logits = model(torch.empty(3, 2, 0, dtype=torch.float64), nothing(3))
        assert (logits == logits[0]).all()
        assert list(model.parameters()) or logits.tolist() == [0, 0, 0]

    def test_no_dimensions_are_made_without_a_warning(self, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MODELS[name](0)

    def test_rows_of_zeros_are_like_others(self, name: str) -> None:
        model = made(name)
        rows = torch.zeros(3, 2, some_rows(model, 1).shape[-1], dtype=torch.float64, requires_grad=True)
        logits = model(rows, nothing(3))
        logits.sum().backward()
        assert logits.isfinite().all()
        assert rows.grad.isfinite().all()

    def test_rows_do_not_see_each_other(self, name: str) -> None:
        model = made(name)
        rows = some_rows(model, 4)
        alone = torch.cat([model(rows[i : i + 1], nothing(1)) for i in range(4)])
        assert torch.allclose(model(rows, nothing(4)), alone)

    def test_gradients_reach_every_entry_and_parameter(self, name: str) -> None:
        model = made(name).train()
        rows = some_rows(model, 16).requires_grad_()
        # weighted: batch normalisation would take out a plain sum
        (model(rows, nothing(16)) * torch.arange(16)).sum().backward()
        assert (rows.grad.abs().sum(0) > 0).all()
        assert all((parameter.grad.abs() > 0).any() for parameter in model.parameters())

    @pytest.mark.parametrize("training", [False, True])
    def test_both_derivatives_are_those_of_differences(self, name: str, training: bool) -> None:
        model = made(name).train(training)
        names, parameters = zip(*model.named_parameters(), strict=True) if list(model.parameters()) else ((), ())

        def logits(rows: Tensor, *values: Tensor) -> Tensor:
            return functional_call(model, dict(zip(names, values, strict=True)), (rows, nothing(3)))

        inputs = (some_rows(model, 3).requires_grad_(), *(one.detach().requires_grad_() for one in parameters))
        assert gradcheck(logits, inputs, fast_mode=True)
        assert gradgradcheck(logits, inputs, fast_mode=True)

    def test_parameters_can_be_put_in_from_outside(self, name: str) -> None:
        model, other = made(name), made(name)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        rows = some_rows(model, 4)
        put_in = functional_call(model, dict(other.named_parameters()), (rows, nothing(4)))
        assert torch.equal(put_in, other(rows, nothing(4)))

    def test_evaluation_moves_no_state(self, name: str) -> None:
        model = made(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model(some_rows(model, 4), nothing(4))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dims", [0, 1, 6])
@pytest.mark.parametrize("name", MODELS)
def test_all_pairs_at_once_are_the_pairs_one_by_one(name: str, dims: int, rng: np.random.Generator) -> None:
    model = settle(MODELS[name](dims)).double()
    if not hasattr(model, "of_pairs"):
        assert name.split("-")[0] not in ("mf", "fm", "gmf", "mlp", "neumf")
        return
    width = dims * getattr(model, "tables", 1)
    first, second = (torch.from_numpy(rng.normal(size=(rows, width))) for rows in (4, 3))
    pairs = torch.stack([torch.stack([one, other]) for one in first for other in second])
    expected = model(pairs, nothing(12)).view(4, 3)
    torch.testing.assert_close(model.of_pairs(first, second), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_of_training_alone(name: str) -> None:
    model = made(name, models=DROPPING)
    rows = some_rows(model, 8)
    assert torch.equal(model(rows, nothing(8)), model(rows, nothing(8)))
    model.train()
    assert not torch.equal(model(rows, nothing(8)), model(rows, nothing(8)))


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("norm")])
class TestBatchNorm:
    """Every tower can normalise its batches."""

    def test_training_moves_the_running_statistics(self, name: str) -> None:
        model = made(name).train()
        means = [value.clone() for key, value in model.named_buffers() if key.endswith("running_mean")]
        model(some_rows(model, 8), nothing(8))
        moved = [value for key, value in model.named_buffers() if key.endswith("running_mean")]
        assert means
        assert not any(torch.equal(before, after) for before, after in zip(means, moved, strict=True))

    def test_a_row_alone_is_scaled_by_the_running_statistics(self, name: str) -> None:
        model = made(name)
        rows = some_rows(model, 1)
        expected = model(rows, nothing(1))
        before = {key: value.clone() for key, value in model.named_buffers()}
        assert torch.equal(model.train()(rows, nothing(1)), expected)
        assert all(torch.equal(before[key], value) for key, value in model.named_buffers())
