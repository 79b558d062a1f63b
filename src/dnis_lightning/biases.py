"""What a model is worth by its first-order terms alone, without a table: what every table is held against."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.evaluation import Evaluation
from dnis_lightning.measures import cost_on_select
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.tasks import Objective

log = logging.getLogger(__name__)

_ITERATIONS, _PATIENCE = 100, 3  # of L-BFGS at most; without a better select metric before it ends
_MEMORY = 5  # steps of which L-BFGS knows the curvature
_PRIOR = 3.0
"""L2 of terms that are tried beside the model's own; of ratings the variance of the noise by that of biases."""
_CELLS_AT_ONCE = 1 << 23  # rows times columns of a batch
_Point = np.ndarray[tuple[int], np.dtype[np.float64]]


class NoInteraction(nn.Module):
    """0 for each row, so that first-order terms and the global bias are all that there is."""

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Zeros (B,)."""
        return rows.new_zeros(len(rows))


def biases_alone(
    evaluation: Evaluation, space: FeatureSpace, start: float | None, objective: Objective, power: float
) -> dict[str, Any]:
    """The best model without a table, for `result.json`: metrics on select and test, L2 of its terms, and the seconds.

    start: of the global bias, None where there is none. power: p of the objective's L2. The terms descend the objective
    over all rows of train and search at once, and are those of the iteration that was best on select. The L2 of biases
    beside a table need not suit biases alone, so a normal prior, p = 1, is tried, too; select chooses.
    """
    began, prepared = time.perf_counter(), evaluation.prepared
    monitor = evaluation.task.monitor
    files = [prepared.parts[part] for part in prepared.split.weight_parts]
    batches = Loader(files, batch_size=max(_CELLS_AT_ONCE // max(files[0].layout.width, 1), 1), shuffle=False)
    log.info("biases alone: first-order terms by L-BFGS over %d rows", batches.rows)
    often = torch.tensor(prepared.vocabulary.frequency, dtype=torch.float32).clamp(min=1)
    best: tuple[dict[str, float], dict[str, float], Recommender] | None = None
    for l2, tried in _with_priors(objective, power, often):
        model = Recommender(space, NoInteraction(), dims=0, global_bias=start)
        found = _fitted(model, tried, batches, (prepared.rows["train"] / often) ** 0.25, evaluation)
        if best is None or cost_on_select(monitor, found) < cost_on_select(monitor, best[0]):
            best = found, l2, model
    assert best is not None, "the objective itself is tried"
    found, l2, model = best
    told = (monitor, found[f"select/{monitor}"], l2["l2_bias"], l2["l2_power"])
    log.info("biases alone: select/%s %.5f, with an L2 of %g ÷ frequency^%g", *told)
    return {"metrics": {**found, **evaluation.test(model).metrics}, **l2, "seconds": time.perf_counter() - began}


def _with_priors(objective: Objective, power: float, often: Tensor) -> Iterator[tuple[dict[str, float], Objective]]:
    """The objective, and where its L2 is no normal prior one that has that, each with what its L2 is called."""
    yield {"l2_bias": objective.l2_bias, "l2_power": power}, objective
    if power != 1 or not objective.l2_bias:
        prior = Objective(objective.task, objective.l2, _PRIOR, objective.l2_net, 1 / often)
        yield {"l2_bias": _PRIOR, "l2_power": 1.0}, prior


def _fitted(
    model: Recommender, objective: Objective, batches: Loader, scale: Tensor, evaluation: Evaluation
) -> dict[str, float]:
    """The metrics on select of a model, which is fitted."""
    monitor, found = evaluation.task.monitor, dict[str, float]()

    def is_better() -> bool:
        nonlocal found
        metrics = evaluation.metrics(model, "select")
        better = not found or cost_on_select(monitor, metrics) < cost_on_select(monitor, found)
        found = metrics if better else found
        return better

    fit(model, objective, batches, scale, is_better)
    return found


def fit(
    model: Recommender, objective: Objective, batches: Iterable[Batch], scale: Tensor, is_better: Callable[[], bool]
) -> None:
    """Train first-order terms and global bias by L-BFGS over all rows at once; the model ends with the best of them.

    scale (N,): the unit in which the term of each feature is descended. With n_i^-1/2, n_i how often a feature occurs,
    the curvature is the same in all directions, and it takes the fewest steps; with n_i^-1/4, as `biases_alone` has it,
    terms of rare features come last, and what select chooses on the way is better.
    is_better: asked after each iteration, when the model has its terms and features that no row shows have the mean of
    their field.
    """
    terms, bias = model.first_order, model.global_bias
    assert terms is not None, "there is something to train"
    weights = [terms.weight] if bias is None else [terms.weight, bias]
    best, waited = [weight.detach().clone() for weight in weights], 0
    loss = _Loss(objective, batches, scale, with_bias=bias is not None)

    def after(intermediate_result: OptimizeResult) -> None:
        nonlocal best, waited
        _put(weights, intermediate_result.x * loss.unit)
        model.fill_unseen()
        waited = 0 if is_better() else waited + 1
        if not waited:
            best = [weight.detach().clone() for weight in weights]
        if waited == _PATIENCE:
            raise StopIteration

    start = np.concatenate([weight.detach().double().numpy().ravel() for weight in weights]) / loss.unit
    is_better()
    minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after,
        options={"maxiter": _ITERATIONS, "maxcor": _MEMORY, "ftol": 0, "gtol": 0},  # absolute for losses below 1
    )
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)


class _Loss:
    """The objective over all rows, and its gradient, of first-order terms and global bias as one vector (N,) or (N+1,).

    unit: of each entry of that vector, see `fit`.
    """

    def __init__(self, objective: Objective, batches: Iterable[Batch], scale: Tensor, *, with_bias: bool) -> None:
        self.task, self.batches, self.features = objective.task, batches, len(scale)
        self.unit = np.append(scale.double().numpy(), np.ones(int(with_bias)))
        self.rows, counts = _counted(batches, self.features)
        scale_of_l2 = 1.0 if objective.l2_scale is None else objective.l2_scale.cpu().double().numpy()
        self.l2 = objective.l2_bias * scale_of_l2 * counts / self.rows  # (N,)

    def __call__(self, point: _Point) -> tuple[float, _Point]:
        """Value and gradient at a point, which is given and derived by in units."""
        value, n = point * self.unit, self.features
        terms, bias = value[:n], value[n:].sum()
        loss, slope = float(self.l2 @ terms**2), np.append(2 * self.l2 * terms, np.zeros(len(value) - n))
        for batch in self.batches:
            ids, values = batch.ids.numpy(), None if batch.values is None else batch.values.numpy()
            logits = torch.from_numpy(_sums(terms[ids], values) + bias).requires_grad_()
            part = self.task.loss(logits, batch.label.double(), self.rows)
            part.backward()
            assert logits.grad is not None
            each = logits.grad.numpy()[:, None] * (np.ones(ids.shape[1]) if values is None else values)
            slope[:n] += np.bincount(ids.ravel(), each.ravel(), minlength=n)
            slope[n:] += logits.grad.sum().item()
            loss += part.item()
        return loss, slope * self.unit


def _counted(batches: Iterable[Batch], features: int) -> tuple[int, np.ndarray]:
    """The rows, and (N,) how often each feature stands in them."""
    rows, counts = 0, np.zeros(features)
    for batch in batches:
        there = batch.there()
        rows += batch.size
        ids = batch.ids if there is None else batch.ids[there]
        counts += np.bincount(ids.numpy().ravel(), minlength=features)
    return rows, counts


def _sums(terms: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """(B,) of terms (B, C), times the batch's values."""
    return terms.sum(1) if values is None else np.einsum("bc,bc->b", terms, values)


@torch.no_grad()
def _put(weights: Sequence[Tensor], values: np.ndarray) -> None:
    """Give weights their values, which lie one after the other."""
    sizes = [weight.numel() for weight in weights]
    for weight, part in zip(weights, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
        weight.copy_(torch.from_numpy(part).view_as(weight))
