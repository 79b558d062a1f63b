"""What a model is worth by its first-order terms alone, without a table: what every table is held against."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.evaluation import Evaluation
from dnis_lightning.measures import cost
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.tasks import Objective

log = logging.getLogger(__name__)

_ITERATIONS, _PATIENCE = 200, 5  # of L-BFGS at most; without a better select metric before it ends
_MEMORY = 5  # steps of which L-BFGS knows the curvature
_ROWS_AT_ONCE = 1 << 16
_Point = np.ndarray[tuple[int], np.dtype[np.float64]]


class NoInteraction(nn.Module):
    """0 for each row, so that first-order terms and the global bias are all that there is."""

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        """Zeros (B,)."""
        return rows.new_zeros(len(rows))


def biases_alone(
    evaluation: Evaluation, space: FeatureSpace, start: float | None, objective: Objective
) -> dict[str, Any]:
    """The best model without a table, for `result.json`: metrics on select and test, and the seconds that it took.

    start: of the global bias, None where there is none. The terms descend the objective over all rows of train and
    search at once, and are those of the iteration that was best on select.
    """
    began, prepared = time.perf_counter(), evaluation.prepared
    monitor = f"select/{evaluation.task.monitor}"
    model = Recommender(space, NoInteraction(), dims=0, global_bias=start)
    parts = ("train",) if prepared.split.shared else ("train", "search")
    batches = Loader([prepared.parts[part] for part in parts], batch_size=_ROWS_AT_ONCE, shuffle=False)
    log.info("biases alone: first-order terms by L-BFGS over %d rows", batches.rows)
    often = torch.tensor(prepared.vocabulary.frequency, dtype=torch.float32).clamp(min=1)
    found: dict[str, float] = {}

    def is_better() -> bool:
        nonlocal found
        metrics = evaluation.metrics(model, "select")
        better = not found or cost(monitor, metrics[monitor]) < cost(monitor, found[monitor])
        found = metrics if better else found
        return better

    fit(model, objective, batches, (prepared.rows["train"] / often) ** 0.25, is_better)
    log.info("biases alone: %s %.5f", monitor, found[monitor])
    return {"metrics": {**found, **evaluation.test(model).metrics}, "seconds": time.perf_counter() - began}


def fit(
    model: Recommender, objective: Objective, batches: Iterable[Batch], scale: Tensor, is_better: Callable[[], bool]
) -> None:
    """Train first-order terms and global bias by L-BFGS over all rows at once; the model ends with the best of them.

    scale (N,): the unit in which the term of each feature is descended. With n_i^-1/2, n_i how often a feature occurs,
    the curvature is the same in all directions, and it takes the fewest steps; with less of that the terms of rare
    features come last, and what select chooses on the way is better.
    is_better: asked after each iteration, when the model has its terms and features that no row shows have the mean of
    their field.
    """
    terms, bias = model.first_order, model.global_bias
    assert terms is not None, "there is something to train"
    weights = [terms.weight] if bias is None else [terms.weight, bias]
    units = [scale[:, None]] if bias is None else [scale[:, None], torch.ones(())]
    rows_in_all = sum(batch.size for batch in batches)
    best, waited = [weight.detach().clone() for weight in weights], 0

    def loss_at(point: _Point) -> tuple[float, _Point]:
        _put(weights, units, point)
        model.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            logits, rows, first, net = model(batch, _by_number)
            part = objective(logits, batch.label, rows, first, rows_in_all, net, batch.times, batch.features)
            part.backward()
            total += part.item()
        return total, _flat([weight.grad for weight in weights], units)

    def after(intermediate_result: OptimizeResult) -> None:
        nonlocal best, waited
        _put(weights, units, intermediate_result.x)
        model.fill_unseen()
        waited = 0 if is_better() else waited + 1
        if not waited:
            best = [weight.detach().clone() for weight in weights]
        if waited == _PATIENCE:
            raise StopIteration

    start = _flat([weight / unit**2 for weight, unit in zip(weights, units, strict=True)], units)
    is_better()
    minimize(
        loss_at,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after,
        options={"maxiter": _ITERATIONS, "maxcor": _MEMORY},
    )
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)


def _by_number(parameter: Tensor, rows: Tensor) -> Tensor:
    """Rows of a parameter; of narrow ones the gradient is made several times faster so than by `gather`."""
    return parameter.index_select(0, rows.flatten()).view(*rows.shape, parameter.shape[1])


@torch.no_grad()
def _put(weights: Sequence[Tensor], units: Sequence[Tensor], point: _Point) -> None:
    """Give weights their values at a point of the descent."""
    sizes = [weight.numel() for weight in weights]
    for weight, unit, part in zip(weights, units, np.split(point, np.cumsum(sizes)[:-1]), strict=True):
        weight.copy_(torch.from_numpy(part).view_as(weight) * unit)


def _flat(values: Iterable[Tensor | None], units: Sequence[Tensor]) -> _Point:
    """Gradients by weights as one by a point of the descent."""
    parts = [(value * unit).flatten() for value, unit in zip(values, units, strict=True) if value is not None]
    return torch.cat(parts).detach().double().numpy()
