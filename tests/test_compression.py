"""`compress` on a model of plain torch, as another library would make it: tables that it knows nothing of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnis_lightning import compress
from dnis_lightning.compression.cut import first_dimensions
from dnis_lightning.compression.packing import Prune
from dnis_lightning.compression.training import Training
from dnis_lightning.embedding.packed_table import PackedLookup, widened
from dnis_lightning.packed import PackedTable
from dnis_lightning.scheme import EVERY

Batches = list[tuple[Tensor, Tensor]]


class TwoTowers(nn.Module):
    """Users and items in one table, item i as feature 300 + i, and a tower with dropout and batch statistics."""

    def __init__(self, features: int = 500, dims: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"both": nn.Embedding(features, dims, padding_idx=0)})
        self.tower = nn.Sequential(nn.Linear(dims, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = self.tables["both"](pairs).unbind(1)
        return (user * item).sum(-1) + self.tower(user * item).squeeze(-1) + self.bias


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def batches() -> tuple[Batches, Batches]:
    """Ratings of rank 2, variance 1.7: of 16 dimensions most are of no use. Some users have many, some few."""
    rng, rows = np.random.default_rng(0), 30_000
    p, q = rng.normal(size=(300, 2)), rng.normal(size=(200, 2))
    user = np.maximum((300 * rng.random(rows) ** 2).astype(int), 1)
    item = rng.integers(0, 200, rows)
    rating = (p[user] * q[item]).sum(1) + rng.normal(size=rows) * 0.3
    pairs, label = torch.from_numpy(np.stack([user, item + 300], 1)), torch.from_numpy(rating.astype(np.float32))
    made = [(pairs[start : start + 500], label[start : start + 500]) for start in range(0, rows, 500)]
    return made[:50], made[50:]


@pytest.fixture(scope="module")
def trained(batches: tuple[Batches, Batches]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = TwoTowers()
    nn.init.normal_(model.tables["both"].weight, std=0.3)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(8):
        for batch in batches[0]:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return model.state_dict()


@pytest.fixture
def model(trained: dict[str, Tensor]) -> TwoTowers:
    found = TwoTowers()
    found.load_state_dict(trained)
    return found.eval()


def error(model: nn.Module, batches: Batches) -> float:
    with torch.no_grad():
        return float(np.mean([float(loss(model, batch)) for batch in batches]))


def cut_by_magnitude(model: TwoTowers, rate: float) -> None:
    weight = model.tables["both"].weight.data
    least = weight.abs().flatten().sort(descending=True).values[round(weight.numel() / rate) - 1]
    weight[weight.abs() < least] = 0


@pytest.mark.parametrize("prune", ["prefix", "elements"])
def test_a_quarter_of_the_table_predicts_nearly_as_well(
    model: TwoTowers, batches: tuple[Batches, Batches], prune: Prune
) -> None:
    before, plain = error(model, batches[1]), TwoTowers()
    plain.load_state_dict(model.state_dict())
    cut_by_magnitude(plain.eval(), 4)
    module = compress(model, model.tables["both"], loss, *batches, rate=4, lr=0.01, prune=prune)
    assert model.tables["both"] is module
    assert 0.99 * 500 * 16 / 4 <= module.packed().kept <= 500 * 16 / 4
    assert module.packed().bytes < 0.4 * 500 * 16 * 4
    after = error(model, batches[1])
    assert after < error(plain, batches[1])
    assert after < 0.35 * 1.7
    if prune == "prefix":
        assert after < before, "of rank 2, all else is noise"
    assert not model.training, "as it was"


def test_first_dimensions_lose_less_than_single_entries(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    cuts: tuple[Prune, ...] = ("prefix", "elements")
    whole, found = error(model, batches[1]), {}
    for prune in cuts:
        cut = TwoTowers()
        cut.load_state_dict(model.state_dict())
        options = {"rate": 6, "search_epochs": 0, "finetune_epochs": 0}
        compress(cut, cut.tables["both"], loss, *batches, prune=prune, **options)  # type: ignore[arg-type]
        found[prune] = error(cut.eval(), batches[1]) - whole
    assert found["prefix"] < 0.5 * found["elements"]


def test_rows_of_few_axes_are_kept_as_they_are() -> None:
    table = torch.randn(50, 3, generator=torch.manual_seed(0)) @ torch.randn(3, 8)
    scheme = first_dimensions(table, 150, torch.ones(50, 8, dtype=torch.bool), torch.ones(50), torch.eye(8))
    assert scheme.kept == 150
    assert scheme.projections[EVERY].shape == (3, 8)
    rows = scheme.packed(np.zeros(50, dtype=int)).rows(np.arange(50))
    assert np.allclose(rows, table.numpy(), atol=1e-5)


def test_what_moves_the_loss_stays_and_of_frequent_features_more() -> None:
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    table = signs.repeat(10, 1) * torch.tensor([1.0, 1.1, 0.9, 0.0])  # whose axes are its dimensions
    there, counts = torch.ones(40, 4, dtype=torch.bool), torch.tensor([100.0, 1.0]).repeat_interleave(20)
    alike = first_dimensions(table, 60, there, counts, torch.zeros(4, 4))
    assert alike.dims_per_feature.tolist() == [3] * 20 + [0] * 20, "all dimensions count alike"
    first = first_dimensions(table, 20, there, counts, torch.diag(torch.tensor([0.0, 1.0, 0.0, 0.0])))
    assert first.dims_per_feature.tolist() == [1] * 20 + [0] * 20
    rows = first.packed(np.zeros(40, dtype=int)).rows(np.arange(40))
    assert np.allclose(rows[:20, 1], table[:20, 1], atol=1e-5), "the one that moves the loss"


def test_padding_is_not_turned_into_anything() -> None:
    table = torch.randn(10, 4, generator=torch.manual_seed(0))
    there = torch.ones(10, 4, dtype=torch.bool)
    there[3] = False
    scheme = first_dimensions(table, 36, there, torch.ones(10), torch.eye(4))
    assert scheme.dims_per_feature.tolist() == [4, 4, 4, 0, 4, 4, 4, 4, 4, 4]


def test_moments_are_those_of_the_gradients_by_each_row(model: TwoTowers) -> None:
    rows = model.tables["both"]
    pairs, weights = torch.tensor([[1, 301], [2, 301]]), torch.randn(16)

    def straight(model: nn.Module, batch: Tensor) -> Tensor:
        return (rows(batch) @ weights).sum()

    work = Training(model.train(), straight, [pairs], [pairs, pairs[:1]], lr=0.1)
    assert torch.allclose(work.moments(rows, 16), 6 * torch.outer(weights, weights).double())
    assert not rows._forward_hooks
    apart = Training(model, lambda model, batch: model.bias.sum(), [pairs], [pairs], lr=0.1)  # type: ignore[operator]
    assert not apart.moments(rows, 16).any()


class InPlace(nn.Module):
    """A model that changes the rows in place, and has no slope at a row of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(500, 8, padding_idx=0), nn.Linear(8, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        rows = self.table(pairs)
        rows *= 2
        return self.out((rows.relu_() / (rows.square().sum(-1, keepdim=True).sqrt() + 1e-6)).mean(1)).squeeze(-1)


def test_rows_may_be_changed_in_place_and_have_no_slope(batches: tuple[Batches, Batches]) -> None:
    torch.manual_seed(0)
    model, held_out = InPlace(), [(pairs * (pairs > 20), label) for pairs, label in batches[1][:4]]
    module = compress(model, model.table, loss, batches[0][:9], held_out, rate=np.float64(4), blocks=np.int64(3))  # type: ignore[arg-type]
    assert module.packed().kept > 900


def test_a_projection_keeps_the_type_of_rows() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert widened(torch.ones(2, 4), torch.ones(3, 4)).dtype == torch.float32


@pytest.mark.parametrize("prune", ["prefix", "elements"])
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_what_comes_back_is_shipped_as_it_is(
    model: TwoTowers, batches: tuple[Batches, Batches], dtype: str, prune: Prune, tmp_path: object
) -> None:
    module = compress(
        model,
        model.tables["both"],
        loss,
        *batches,
        rate=8,
        prune=prune,
        search_epochs=1,
        finetune_epochs=1,
        dtype=dtype,  # type: ignore[arg-type]
    )
    path = f"{tmp_path}/table.safetensors"
    module.packed().save(path)
    read = PackedTable.load(path)
    assert read.values.dtype == dtype
    with torch.no_grad():
        given = module(torch.arange(500)).numpy()
    assert np.array_equal(read.unprojected(), module.packed().unprojected())
    assert np.allclose(read.rows(np.arange(500)), given, rtol=0, atol=0 if prune == "elements" else 1e-6)
    assert not read.rows(np.array([0])).any(), "the row for padding"
    reloaded = TwoTowers()
    reloaded.tables["both"] = PackedLookup.load(path)
    reloaded.load_state_dict(model.state_dict())
    assert error(reloaded.eval(), batches[1]) == error(model, batches[1])


def test_fine_tuning_that_does_not_help_is_undone(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    found = []
    for epochs in (0, 2):
        again = TwoTowers()
        again.load_state_dict(model.state_dict())
        options = {"rate": 2, "search_epochs": 0, "finetune_epochs": epochs, "lr": 10.0}
        module = compress(again, again.tables["both"], loss, *batches, **options)  # type: ignore[arg-type]
        found.append((error(again.eval(), batches[1]), module.packed().values.stored))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


def test_what_is_never_looked_up_keeps_less(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    module = compress(model, model.tables["both"], loss, *batches, rate=6, lr=0.01)
    indptr, _, _ = module.packed().entries()
    counts = torch.cat([pairs for pairs, _ in batches[0]]).flatten().bincount(minlength=500).numpy()
    kept = np.diff(indptr)
    assert kept[counts == 0].mean() < kept[counts > 0].mean()


def test_it_trains_in_training_mode_and_holds_out_in_evaluation_mode(
    model: TwoTowers, batches: tuple[Batches, Batches]
) -> None:
    modes: set[tuple[bool, bool]] = set()

    def noted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            modes.add((any(batch is one for one in batches[0]), model.training))
        return loss(model, batch)

    compress(model, model.tables["both"], noted, *batches, rate=4, search_epochs=1, finetune_epochs=1)
    assert modes == {(True, True), (False, False)}


def once(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches


def test_a_model_of_frozen_weights_is_named(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight of the model takes a gradient"):
        compress(model, model.tables["both"], loss, *batches)


def test_losses_are_logged(
    model: TwoTowers, batches: tuple[Batches, Batches], caplog: pytest.LogCaptureFixture
) -> None:
    before = error(model.eval(), batches[1])
    with caplog.at_level("INFO"):
        compress(model, model.tables["both"], loss, *batches, rate=4, search_epochs=1, finetune_epochs=1)
    assert f"held-out loss as it is: {before:.6g}" in caplog.messages
    assert [message.rpartition(":")[0] for message in caplog.messages] == [
        "held-out loss as it is",
        "held-out loss after the search",
        "held-out loss as it was cut",
        "held-out loss after epoch 1 of fine-tuning",
    ]


def test_what_cannot_be_compressed_is_named(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    own = model.tables["both"]
    for arguments, more, says in [
        ((nn.Embedding(5, 2), loss, *batches), {}, "embedding is no part of model"),
        ((model.tower, loss, *batches), {}, "embedding is a Sequential, expected an nn.Embedding"),
        ((own, loss, *batches), {"rate": 0.5}, "rate is 0.5, expected 1 or more"),
        ((own, loss, *batches), {"blocks": 0}, "blocks is 0, expected a whole number, 1 or more"),
        ((own, loss, once(batches[0]), batches[1]), {}, "train is an iterator, which gives its batches once"),
        ((own, loss, batches[0], once(batches[1])), {}, "held_out is an iterator"),
        ((own, lambda model, batch: batch[1].mean(), *batches), {}, "no batch of train looks anything up"),
        ((own, lambda model, batch: model(batch[0]), *batches), {}, r"loss gives \(500,\), expected one number"),
        ((own, lambda model, batch: loss(model, batch) * torch.nan, *batches), {}, "held_out is nan"),
        ((own, loss, *batches), {"rate": 1e9}, "keeps none of 8000 entries"),
        ((own, lambda model, batch: 1.0, *batches), {}, "loss gives a float, expected a tensor of one number"),
        ((own, loss, *batches), {"rate": "10"}, "rate is '10', expected 1 or more"),
        ((own, loss, *batches), {"finetune_epochs": -1}, "finetune_epochs is -1, expected a whole number, 0 or more"),
        ((own, loss, *batches), {"search_epochs": 1.5}, "search_epochs is 1.5, expected a whole number"),
        ((own, loss, *batches), {"penalty": math.nan}, "penalty is nan, expected a finite number, 0 or more"),
        ((own, loss, *batches), {"gates_lr": -1}, "gates_lr is -1, expected a finite number, 0 or more"),
        ((own, loss, *batches), {"lr": math.inf}, "lr is inf, expected a finite number"),
        ((nn.Embedding(5, 2, dtype=torch.float64), loss, *batches), {}, "torch.float64, expected float32: model.float"),
        ((own, loss, batches[0], []), {}, "held_out has no batches"),
        ((own, loss, *batches), {"dtype": "fp8"}, "dtype is 'fp8', expected one of fp32"),
        ((own, loss, *batches), {"prune": "rows"}, "prune is 'rows', expected one of prefix, elements"),
        ((own, loss, *batches), {"layout": "coo"}, "layout is 'coo', expected None or one of dense"),
        ((nn.Embedding(5, 2, sparse=True), loss, *batches), {}, "sparse gradients"),
        ((nn.Embedding(5, 2, max_norm=1.0), loss, *batches), {}, "max_norm"),
    ]:
        with pytest.raises(ValueError, match=says):
            compress(model, *arguments, **more)  # type: ignore[arg-type]
        assert model.tables["both"] is own


def test_a_search_that_diverges_is_named_and_undone(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    own, before = model.tables["both"], {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"the search diverged: the mean loss on held_out is .*; take a smaller lr"):
        compress(model, own, loss, batches[0][:9], batches[1][:3], lr=1e30, search_epochs=1)
    assert model.tables["both"] is own
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


class Shared(nn.Module):
    """One embedding under two names, and perhaps its weight in a layer."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.user = self.item = nn.Embedding(500, 16)
        self.out = nn.Linear(16, 500 if tied else 1)
        if tied:
            self.out.weight = self.user.weight

    def forward(self, pairs: Tensor) -> Tensor:
        return self.out(self.user(input=pairs[:, 0]) * self.item(pairs[:, 1])).mean(-1)


def test_a_shared_embedding_is_packed_wherever_it_is(batches: tuple[Batches, Batches]) -> None:
    model = Shared(tied=False)
    module = compress(model, model.user, loss, batches[0][:5], batches[1][:2], rate=4, search_epochs=1)
    assert model.user is module
    assert model.item is module
    tied = Shared(tied=True)
    with pytest.raises(ValueError, match="out has the weight of embedding, too"):
        compress(tied, tied.user, loss, *batches)


def test_a_dense_table_has_zeros_where_nothing_is_kept(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    module = compress(model, model.tables["both"], loss, *batches, rate=4, layout="dense", search_epochs=1)
    packed = module.packed()
    assert packed.layout.name == "dense"
    assert 0 < np.count_nonzero(packed.values.stored) <= 500 * 16 / 4


def test_gates_see_all_that_is_held_out(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    held_out, seen = batches[1][:4], []

    def noted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            seen.extend(number for number, one in enumerate(held_out) if one is batch)
        return loss(model, batch)

    options = {"prune": "elements", "search_epochs": 2, "finetune_epochs": 0}
    compress(model, model.tables["both"], noted, batches[0][:2], held_out, **options)  # type: ignore[arg-type]
    assert seen == [0, 1, 2, 3]


def test_parts_that_are_kept_in_evaluation_mode_stay_so(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    model.train()
    model.tower[1].eval()
    compress(model, model.tables["both"], loss, batches[0][:2], batches[1][:2], search_epochs=1, finetune_epochs=0)
    assert model.training
    assert model.tables["both"].training
    assert not model.tower[1].training


def test_a_failure_leaves_the_model_with_its_embedding(model: TwoTowers, batches: tuple[Batches, Batches]) -> None:
    own, calls = model.tables["both"], []

    def breaks(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        if len(calls) > 60:
            raise RuntimeError("out of memory")
        return loss(model, batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        compress(model, own, breaks, *batches)
    assert model.tables["both"] is own
    assert not model.training
