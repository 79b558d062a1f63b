"""First-order terms alone are what the normal equations say, or what select chooses of the steps on the way there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.biases import NoInteraction, fit
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.tasks import ClickThrough, Objective, Rating
from tests.command import TINY, TINY_DNIS, dnis, result_of

SPACE = FeatureSpace((0, 12, 20), unseen=(3, 15))
SEEN = [feature for feature in range(20) if feature not in SPACE.unseen]


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids (500, 2), the smaller the more frequent, and labels (500,) of 1 to 5."""
    first, second = [one for one in SEEN if one < 12], [one for one in SEEN if one >= 12]
    ids = np.stack(
        [np.array(field)[np.minimum(rng.geometric(0.3, 500), len(field)) - 1] for field in (first, second)], 1
    )
    return ids, rng.integers(1, 6, 500).astype(np.float32)


def batches(ids: np.ndarray, labels: np.ndarray) -> list[Batch]:
    parts = zip(np.array_split(ids, 3), np.array_split(labels, 3), strict=True)
    return [Batch(torch.from_numpy(part), torch.from_numpy(label)) for part, label in parts]


def model(start: float | None = 3.0) -> Recommender:
    return Recommender(SPACE, NoInteraction(), dims=0, global_bias=start)


def always() -> bool:
    return True


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_terms_and_bias_solve_the_normal_equations(power: float, rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, labels = rows
    often = np.maximum(np.bincount(ids.ravel(), minlength=20), 1)
    found, shares = model(), torch.tensor(often, dtype=torch.float32) ** -0.5
    fit(found, Objective(Rating(), 5.0, 0.3, 0.0, shares), batches(ids, labels), torch.tensor(often) ** -power, always)
    design = np.concatenate([np.eye(20)[ids[:, 0]] + np.eye(20)[ids[:, 1]], np.ones((500, 1))], 1)
    shrink = np.diag([*(0.3 * np.bincount(ids.ravel(), minlength=20) * often**-0.5), 0.0])
    wanted = np.linalg.lstsq(design.T @ design + shrink, design.T @ labels, rcond=None)[0]
    assert found.first_order is not None
    assert found.global_bias is not None
    terms = found.first_order.weight.detach().numpy()[:, 0]
    logits = design @ np.append(terms, float(found.global_bias.detach()))
    assert logits == pytest.approx(design @ wanted, abs=0.02)
    assert terms[3] == pytest.approx(np.delete(terms[:12], 3).mean(), abs=1e-5), "unseen rows have their field's mean"


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_labels_does_not_matter(unit: float, rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, labels = rows
    found = []
    for factor in (1.0, unit):
        made = model(0.0)
        fit(made, Objective(Rating(), 0.0, 0.3), batches(ids, labels * np.float32(factor)), torch.ones(20), always)
        assert made.first_order is not None
        found.append(made.first_order.weight.detach().numpy() / factor)
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_lists_and_numbers_descend_the_objective_itself(rng: np.random.Generator) -> None:
    """Where it ends the objective of training, of a batch that is made as in training, has no slope."""
    space = FeatureSpace((0, 6, 7, 12))
    lengths = rng.integers(0, 4, 200)
    there = np.arange(3) < lengths[:, None]
    lists = np.where(there, rng.integers(0, 6, (200, 3)), 0)  # 0 is the end of a list, and the first feature, too
    shares = there / np.maximum(lengths, 1)[:, None]
    numbers = np.where(rng.random(200) < 0.3, 0.0, rng.normal(size=200))
    ids = np.column_stack([lists, np.full(200, 6), rng.integers(7, 12, 200)])
    values = torch.tensor(np.column_stack([shares, numbers, np.ones(200)]), dtype=torch.float32)
    offsets, labels = torch.tensor([0, 3, 4, 5]), torch.tensor(rng.normal(size=200), dtype=torch.float32)
    batch = Batch(torch.from_numpy(ids), labels, values, offsets)
    halves = [Batch(batch.ids[part], labels[part], values[part], offsets) for part in (slice(0, 70), slice(70, 200))]
    objective = Objective(Rating(), 0.0, 0.2, 0.0, torch.linspace(0.5, 1.5, 12))
    found = Recommender(space, NoInteraction(), dims=0, global_bias=0.0)
    fit(found, objective, halves, torch.linspace(1, 2, 12), always)
    objective(found(batch), batch).backward()
    assert found.first_order is not None
    assert found.first_order.weight.grad is not None
    assert found.first_order.weight.grad.numpy() == pytest.approx(0, abs=1e-4)


def test_clicks_without_a_global_bias(rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, labels = rows
    clicks, found = (labels > 3).astype(np.float32), model(None)
    fit(found, Objective(ClickThrough(), 0.0, 1.0), batches(ids, clicks), torch.ones(20), always)
    assert found.first_order is not None
    terms = found.first_order.weight[:, 0].detach().double()
    logits = terms[ids[:, 0]] + terms[ids[:, 1]]
    slope = torch.sigmoid(logits) - torch.from_numpy(clicks)
    for feature in SEEN:
        own = torch.from_numpy((ids == feature).sum(1))
        assert float((slope * own).sum() + 2 * own.sum() * terms[feature]) == pytest.approx(0, abs=0.05)


def test_the_iteration_that_select_likes_best_stays(rows: tuple[np.ndarray, np.ndarray]) -> None:
    found, seen = model(), []

    def second() -> bool:
        assert found.first_order is not None
        seen.append(found.first_order.weight.detach().clone())
        return len(seen) in (1, 3)

    fit(found, Objective(Rating(), 0.0, 0.01), batches(*rows), torch.ones(20), second)
    assert found.first_order is not None
    assert len(seen) == 3 + 3, "it ends after three iterations that are no better"
    assert torch.equal(found.first_order.weight, seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_what_never_gets_better_stays_as_it_was(rows: tuple[np.ndarray, np.ndarray]) -> None:
    found = model(2.0)
    fit(found, Objective(Rating(), 0.0, 0.01), batches(*rows), torch.ones(20), lambda: False)
    assert found.first_order is not None
    assert found.global_bias is not None
    assert not found.first_order.weight.any()
    assert found.global_bias.item() == 2


def test_a_run_holds_its_tables_against_biases(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY_DNIS, "optimizer.lr=1e-6")  # tables that have learned nothing
    _, result = result_of(done)
    biases = result["biases"]["metrics"]
    assert set(biases) == {"select/mse", "test/mse"}
    assert biases["select/mse"] < result["unpruned"]["metrics"]["select/mse"]
    said = "no better on select than biases alone (select/mse"
    assert said in done.stderr
    assert any(one.startswith(said) and "the whole table, cr:2, cr:4;" in one for one in result["warnings"])
    assert re.search(r"(?m)^biases alone +0 ", done.stderr), "beside the others in the table"


@pytest.mark.parametrize(("given", "chosen"), [("model.l2_bias=300", (3, 1)), ("model.l2_bias=0.02", (0.02, 0))])
def test_biases_alone_may_have_another_l2_than_beside_a_table(
    given: str, chosen: tuple[float, float], tmp_path: Path
) -> None:
    _, result = result_of(dnis(tmp_path, *TINY, "search=none", given))
    biases = result["biases"]
    assert (biases["l2_bias"], biases["l2_power"]) == chosen
    _, plain = result_of(
        dnis(tmp_path, *TINY, "search=none", f"model.l2_bias={chosen[0]}", f"model.l2_power={chosen[1]}")
    )
    assert plain["biases"]["metrics"]["select/mse"] == pytest.approx(biases["metrics"]["select/mse"], abs=1e-6)


@pytest.mark.parametrize("argument", ["search.against_biases=false", "model=gmf", "search.base_dim=0"])
def test_where_there_is_nothing_to_hold_against_nothing_is_fitted(argument: str, tmp_path: Path) -> None:
    _, result = result_of(dnis(tmp_path, *TINY, "search=none", argument))
    assert result["biases"] is None
