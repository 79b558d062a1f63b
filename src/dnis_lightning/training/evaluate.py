"""The metrics of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dnis_lightning.batch import Batch
from dnis_lightning.recommender import Recommender
from dnis_lightning.tasks import Task


@torch.no_grad()
def evaluate(
    model: Recommender, batches: Iterable[Batch], task: Task, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """One pass over the batches in evaluation mode; with several ranks the metrics are over all of them."""
    model.to(device).eval()
    metrics = task.metrics().to(device)
    for batch in batches:
        if batch.size:
            batch = batch.to(device)
            metrics.update(model(batch).logits.float(), batch.label)
    model.to("cpu")
    return {name: float(value) for name, value in metrics.compute().items()}
