"""The hypergradient against central differences, and the normalisation of equation 8."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.mlp import MLP
from dnis_lightning.lookup import with_distinct
from dnis_lightning.recommender import FeatureSpace, Prediction, Recommender
from dnis_lightning.search.bilevel import hypergradient, normalise
from dnis_lightning.tasks import Objective, Rating
from tests.conftest import random_batch

OFFSETS = (0, 4, 9, 12)


train_loss = Objective(Rating(), l2=0.1, l2_bias=0.05)


def held_out_loss(prediction: Prediction, batch: Batch) -> Tensor:
    return Rating().loss(prediction.logits, batch.label)


def loss_after_step(model: Recommender, gates: Tensor, train: Batch, held_out: Batch, xi: float) -> float:
    """L_val(Θ − ξ ∇_Θ L_train(Θ, α), α), computed on a copy by an ordinary backward and an ordinary step."""
    model = copy.deepcopy(model)
    model.selection.gates.data.copy_(gates)
    train_loss(model(train), train).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= xi * parameter.grad
        return float(held_out_loss(model(held_out), held_out))


def central_differences(model: Recommender, train: Batch, held_out: Batch, xi: float, step: float = 1e-5) -> Tensor:
    gates = model.gates.detach().clone()
    numeric = torch.zeros_like(gates)
    for index in np.ndindex(*gates.shape):
        up, down = gates.clone(), gates.clone()
        up[index] += step
        down[index] -= step
        difference = loss_after_step(model, up, train, held_out, xi) - loss_after_step(model, down, train, held_out, xi)
        numeric[index] = difference / (2 * step)
    return numeric


@pytest.mark.parametrize("values", [False, True], ids=["categorical", "with-values"])
@pytest.mark.parametrize("xi", [0.0, 0.05, 0.5])
def test_hypergradient_equals_central_differences(
    small_fm: Recommender, rng: np.random.Generator, xi: float, values: bool
) -> None:
    train, held_out = (random_batch(rng, OFFSETS, rows, values=values) for rows in (40, 30))
    exact = hypergradient(
        small_fm, train=train, held_out=held_out, train_loss=train_loss, held_out_loss=held_out_loss, xi=xi
    )
    numeric = central_differences(small_fm, train, held_out, xi)
    assert float((exact - numeric).norm() / numeric.norm()) <= 1e-6


@pytest.mark.parametrize("values", [False, True], ids=["categorical", "with-values"])
@pytest.mark.parametrize("xi", [0.0, 0.05, 0.5])
def test_the_rows_of_both_batches_are_enough(
    small_fm: Recommender, rng: np.random.Generator, xi: float, values: bool
) -> None:
    train, held_out = (random_batch(rng, OFFSETS, rows, values=values) for rows in (4, 3))
    kinds = {"train_loss": train_loss, "held_out_loss": held_out_loss, "xi": xi}
    expected = hypergradient(small_fm, train=train, held_out=held_out, **kinds)
    train, held_out = with_distinct([train, held_out])
    assert len(train.distinct.features) < OFFSETS[-1]
    torch.testing.assert_close(hypergradient(small_fm, train=train, held_out=held_out, **kinds), expected)
    for table in small_fm.tables():
        table.requires_grad_(False)
    seen = []

    def peek(parameter: Tensor, rows: Tensor) -> Tensor:
        seen.append(parameter)
        return parameter.index_select(0, rows)

    found = hypergradient(small_fm, train=train, held_out=held_out, peek=peek, **kinds)
    torch.testing.assert_close(found, expected)
    assert all(one is other for one, other in zip(seen, small_fm.tables(), strict=True))


def test_weights_without_use_have_no_part_in_it(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace(OFFSETS), MLP(3, 4, [5]), dims=4, std=0.5).double()
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, 4).double()
    batches = {name: random_batch(rng, OFFSETS, 8) for name in ("train", "held_out")}
    kinds = {"train_loss": train_loss, "held_out_loss": held_out_loss, "xi": 0.05}
    expected = hypergradient(model, **batches, **kinds)
    model.interaction.spare = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    assert torch.equal(hypergradient(model, **batches, **kinds), expected)


@pytest.mark.parametrize("xi", [0.0, 0.05])
def test_under_autocast_the_weights_are_those_of_now(xi: float, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace(OFFSETS), MLP(3, 4, [5]), dims=4, std=0.5)
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, 4)
    batches = {name: random_batch(rng, OFFSETS, 8) for name in ("train", "held_out")}
    batches = {name: replace(batch, label=batch.label.float()) for name, batch in batches.items()}
    losses = {"train_loss": train_loss, "held_out_loss": held_out_loss}
    with torch.autocast("cpu", torch.bfloat16):
        model(batches["train"]).logits.sum().backward()
        with torch.no_grad():
            for parameter in model.interaction.parameters():
                parameter.mul_(-2).add_(0.1)
        found = hypergradient(model, **batches, **losses, xi=xi)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(found, hypergradient(model, **batches, **losses, xi=xi))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("xi", [0.0, 0.05])
def test_compiled_models_have_the_same_hypergradient(xi: float, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    model = Recommender(FeatureSpace(OFFSETS), MLP(3, 4, [5]), dims=4, std=0.5).double()
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, 4).double()
    batches = {name: with_distinct([random_batch(rng, OFFSETS, 8)])[0] for name in ("train", "held_out")}
    losses = {"train_loss": train_loss, "held_out_loss": held_out_loss}
    expected = hypergradient(model, **batches, **losses, xi=xi)
    model.compile_interaction()
    torch.testing.assert_close(hypergradient(model, **batches, **losses, xi=xi), expected)


def test_the_second_order_term_matters(small_fm: Recommender, rng: np.random.Generator) -> None:
    train, held_out = random_batch(rng, OFFSETS, 40), random_batch(rng, OFFSETS, 30)
    kinds = {"train": train, "held_out": held_out, "train_loss": train_loss, "held_out_loss": held_out_loss}
    first, second = hypergradient(small_fm, xi=0.0, **kinds), hypergradient(small_fm, xi=0.5, **kinds)
    assert float((first - second).norm() / first.norm()) > 0.01


def test_hypergradient_leaves_the_model_alone(small_fm: Recommender, rng: np.random.Generator) -> None:
    small_fm.train()
    before = {name: tensor.clone() for name, tensor in small_fm.state_dict().items()}
    train, held_out = random_batch(rng, OFFSETS, 10), random_batch(rng, OFFSETS, 10)
    hypergradient(small_fm, train=train, held_out=held_out, train_loss=train_loss, held_out_loss=held_out_loss, xi=0.1)
    assert small_fm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_fm.state_dict().items())
    assert all(parameter.grad is None for parameter in small_fm.parameters())


def test_shares_of_ranks_add_up_to_the_whole(small_fm: Recommender, rng: np.random.Generator) -> None:
    """Two ranks with half of each batch, their sums exchanged, give the gradient of one process."""
    train, held_out = random_batch(rng, OFFSETS, 20), random_batch(rng, OFFSETS, 20)

    def share(batch: Batch, rank: int) -> Batch:
        return Batch(batch.ids[rank::2], batch.label[rank::2], total=batch.size)

    def shared_held_out_loss(prediction: Prediction, batch: Batch) -> Tensor:
        return Rating().loss(prediction.logits, batch.label, batch.global_size)

    losses = {"train_loss": train_loss, "held_out_loss": shared_held_out_loss, "xi": 0.3}
    whole = hypergradient(small_fm, train=train, held_out=held_out, **losses)
    assert torch.allclose(two_ranks(small_fm, train, held_out, share, losses), whole, rtol=1e-10, atol=1e-14)


def two_ranks(model: Recommender, train: Batch, held_out: Batch, share, losses) -> Tensor:
    """Both ranks in two threads that meet at every reduction."""
    import threading

    barrier, slots, results = threading.Barrier(2), [None, None], [None, None]

    def rank_main(rank: int) -> None:
        def reduce(tensor: Tensor) -> Tensor:
            slots[rank] = tensor
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        copied = copy.deepcopy(model)
        results[rank] = hypergradient(
            copied, train=share(train, rank), held_out=share(held_out, rank), reduce=reduce, **losses
        )

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert torch.equal(results[0], results[1])
    return results[0]


def test_normalise_is_equation_8() -> None:
    gradient = torch.tensor([[1.0, -3.0], [1e-4, 0.0], [0.0, 0.0]], dtype=torch.float64)
    normed = normalise(gradient, 1e-7)
    for l in range(3):
        mean = sum(abs(float(g)) for g in gradient[l]) / 2
        assert normed[l].tolist() == pytest.approx([float(g) / (mean + 1e-7) for g in gradient[l]], rel=1e-12)
    assert float(normed[0].abs().mean()) == pytest.approx(1, rel=1e-6)
    assert normed[2].tolist() == [0, 0]
