"""The modules that train, against Algorithm 1 written out with plain tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.embedding import selection
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.mf import MF
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.trial import GateStep
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.fit_module import FitModule, WeightStep
from dnis_lightning.training.search_module import SearchModule
from tests.conftest import random_batch

OFFSETS, STEPS, L2, L2_BIAS = (0, 5, 9), 4, 0.03, 0.01
SGD = WeightStep(lambda parameters: torch.optim.SGD(parameters, lr=0.1))


class Pairs(torch.utils.data.Dataset):
    """Ready-made pairs of batches."""

    def __init__(self, pairs: list[dict[str, Batch]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Batch]:
        return self.pairs[index]


def model() -> Recommender:
    torch.manual_seed(3)
    made = Recommender(FeatureSpace(OFFSETS), MF(2), dims=3, std=0.5, global_bias=0.2)
    made.selection = SoftSelection(np.array([0, 0, 1, 1, 1, 0, 0, 1, 1]), 2, 3)
    made.first_order.weight.data.normal_()
    return made.double()


def pairs(rng: np.random.Generator) -> list[dict[str, Batch]]:
    return [{name: random_batch(rng, OFFSETS, 12) for name in ("train", "search")} for _ in range(STEPS)]


def fit(module: FitModule, batches: list[dict[str, Batch]], folder: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        precision="64-true",
        limit_val_batches=0,
        inference_mode=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(Pairs(batches), batch_size=None))


def predicted(p: dict[str, Tensor], batch: Batch) -> Tensor:
    """Matrix factorisation with gates, written out."""
    block_of = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 1])
    rows = p["E"][batch.ids] * p["α"][block_of[batch.ids]]
    return p["b"] + p["w"][batch.ids].sum((1, 2)) + (rows[:, 0] * rows[:, 1]).sum(1)


def train_loss(p: dict[str, Tensor], batch: Batch) -> Tensor:
    decay = L2 * p["E"][batch.ids].square().sum() + L2_BIAS * p["w"][batch.ids].square().sum()
    return ((predicted(p, batch) - batch.label) ** 2).mean() + decay / len(batch.label)


def algorithm_1(
    start: Recommender, batches: list[dict[str, Batch]], *, xi: float, penalty: float, stage: str, lr: float
) -> dict[str, Tensor]:
    """Lines 6 to 9 for each pair of batches, both steps by plain gradient descent; and sums over what moved α."""
    sums = dict.fromkeys(("steps", "penalty", "gradient", "squares"), torch.zeros(2, 3, dtype=torch.float64))
    p = {
        "E": start.table.weight.detach().clone(),
        "w": start.first_order.weight.detach().clone(),
        "b": start.global_bias.detach().clone(),
        "α": torch.ones(2, 3, dtype=torch.float64),
    }
    theta = ("E", "w", "b")
    for pair in batches:
        p = {name: tensor.detach().requires_grad_() for name, tensor in p.items()}
        slopes = torch.autograd.grad(train_loss(p, pair["train"]), [p[name] for name in theta])
        p |= {name: (p[name] - 0.1 * g).detach().requires_grad_() for name, g in zip(theta, slopes, strict=True)}
        slopes = torch.autograd.grad(train_loss(p, pair["train"]), [p[name] for name in theta], create_graph=True)
        ahead = {name: p[name] - xi * g for name, g in zip(theta, slopes, strict=True)} | {"α": p["α"]}
        held_out = ((predicted(ahead, pair["search"]) - pair["search"].label) ** 2).mean()
        (g,) = torch.autograd.grad(held_out, p["α"])
        scale = ((g + penalty if stage == "raw" else g).abs().mean(1, keepdim=True) + 1e-7).expand_as(g)
        pressed = penalty / scale if stage == "raw" else torch.full_like(g, penalty)
        step = g / scale + pressed
        p["α"] = (p["α"] - lr * step).detach().clamp(0, 1)
        sums = {name: sums[name] + part for name, part in zip(sums, (step, pressed, g, g**2), strict=True)}
    return {name: tensor.detach() for name, tensor in (p | sums).items()}


@pytest.mark.parametrize("stage", ["raw", "normalised"])
@pytest.mark.parametrize("xi", [0.0, 0.2])
def test_the_search_is_algorithm_1(xi: float, stage: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    start, batches = model(), pairs(rng)
    expected = algorithm_1(start, batches, xi=xi, penalty=0.05, stage=stage, lr=0.1)
    step = GateStep(xi=xi, lr=0.1, optimizer="sgd", penalty=0.05, penalty_stage=stage)
    module = SearchModule(start, Objective(Rating(), L2, L2_BIAS), SGD, step, steps_per_epoch=STEPS)
    fit(module, batches, tmp_path)
    assert torch.allclose(module.gates, expected["α"], rtol=1e-9)
    assert torch.allclose(start.table.weight, expected["E"], rtol=1e-9)
    assert torch.allclose(start.first_order.weight, expected["w"], rtol=1e-9)
    assert torch.allclose(start.global_bias, expected["b"], rtol=1e-9)
    assert float(module.gates.min()) < 1, "the gates moved"
    for name, total in vars(module.pushes).items():
        assert torch.allclose(total, expected[name], rtol=1e-9), name


def test_what_moved_the_gates_is_in_the_checkpoint(rng: np.random.Generator, tmp_path: Path) -> None:
    step = GateStep(lr=0.1, penalty=0.05)
    one, other = (SearchModule(model(), Objective(Rating()), SGD, step, steps_per_epoch=STEPS) for _ in range(2))
    fit(one, pairs(rng), tmp_path)
    checkpoint: dict[str, Any] = {}
    one.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    for name, total in vars(one.pushes).items():
        assert float(total.abs().sum()) > 0
        assert torch.equal(vars(other.pushes)[name], total)


def test_a_step_per_epoch_is_shared_among_its_batches(rng: np.random.Generator, tmp_path: Path) -> None:
    made, batches = [], pairs(rng)
    for lr, per in ((0.4, "epoch"), (0.4 / STEPS, "step")):
        step = GateStep(lr=lr, per=per, optimizer="sgd", penalty=0.05)
        module = SearchModule(model(), Objective(Rating()), SGD, step, steps_per_epoch=STEPS)
        fit(module, batches, tmp_path)
        made.append(module.gates.detach().clone())
    assert torch.equal(*made)


def test_gates_stay_in_their_range(rng: np.random.Generator, tmp_path: Path) -> None:
    step = GateStep(lr=1e6, optimizer="sgd")
    module = SearchModule(model(), Objective(Rating()), SGD, step, steps_per_epoch=STEPS)
    fit(module, pairs(rng), tmp_path)
    assert 0 <= float(module.gates.min()) <= float(module.gates.max()) <= 1
    assert set(module.gates.flatten().tolist()) <= {0.0, 1.0}, "such steps end at the walls"


def test_training_alone_leaves_the_gates(rng: np.random.Generator, tmp_path: Path) -> None:
    made = model()
    made.selection.gates.data.uniform_(0.2, 0.8)
    before, table = made.gates.clone(), made.table.weight.clone()
    fit(FitModule(made, Objective(Rating()), SGD), pairs(rng), tmp_path)
    assert torch.equal(made.gates, before)
    assert not torch.equal(made.table.weight, table)


@pytest.mark.parametrize(("gates", "looks"), [([1.0, 1.0], 0), ([1.0, 0.5], STEPS)])
def test_gates_that_all_are_open_and_at_rest_are_not_looked_up(
    gates: list[float], looks: int, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batches, looked = model(), pairs(rng), []
    made.selection.gates.data = torch.tensor(gates, dtype=torch.float64)[:, None].expand(2, 3).clone()
    written_out, theta = model(), ("table.weight", "first_order.weight", "global_bias")
    written_out.load_state_dict(made.state_dict())
    expand = selection._Expand.apply
    monkeypatch.setattr(selection._Expand, "apply", lambda *given: looked.append(1) or expand(*given))
    fit(FitModule(made, Objective(Rating()), SGD), batches, tmp_path)
    assert len(looked) == looks
    assert not made.selection.idle, "who moves gates next is not misled"
    for batch in (pair["train"] for pair in batches):
        loss = (written_out(batch).logits - batch.label).square().mean()
        own = dict(written_out.named_parameters())
        for name, slope in zip(theta, torch.autograd.grad(loss, [own[name] for name in theta]), strict=True):
            own[name].data -= 0.1 * slope
    for name in theta:
        assert torch.allclose(made.state_dict()[name], written_out.state_dict()[name], rtol=1e-9), name


def test_tables_only_holds_all_else(rng: np.random.Generator, tmp_path: Path) -> None:
    made = model()
    before, table = made.global_bias.clone(), made.table.weight.clone()
    fit(FitModule(made, Objective(Rating()), SGD, tables_only=True), pairs(rng), tmp_path)
    assert torch.equal(made.global_bias, before)
    assert not torch.equal(made.table.weight, table)


def test_the_gradient_of_the_weights_is_clipped_by_its_norm(rng: np.random.Generator, tmp_path: Path) -> None:
    made, batches = model(), pairs(rng)[:1]
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    step = WeightStep(SGD.optimizer, clip_norm=1e-3)
    fit(FitModule(made, Objective(Rating()), step), batches, tmp_path)
    moved = sum(float((p.detach() - before[name]).square().sum()) for name, p in made.named_parameters()) ** 0.5
    assert moved == pytest.approx(0.1 * 1e-3, rel=1e-3)
