"""The metrics of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dnis_lightning.batch import Batch
from dnis_lightning.outcomes import Recorded
from dnis_lightning.ranking import Query
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.bilevel import frozen
from dnis_lightning.tasks import Task


@torch.no_grad()
def evaluate(
    model: Recommender,
    batches: Iterable[Batch | Query],
    task: Task,
    device: torch.device | str = "cpu",
    recorded: list[Recorded] | None = None,
) -> dict[str, float]:
    """The task's metrics by name, of one pass over the batches in evaluation mode.

    recorded: is given what the task records of each batch, on the CPU.

    The model ends on the CPU and in the mode it came in. Several ranks each take the whole pass and have the same
    figures.
    """
    model.to(device)
    on_gpu = torch.device(device).type == "cuda"
    metrics = task.metrics().to(device)
    with frozen(model):
        for batch in batches:
            batch = (batch.pin_memory() if on_gpu else batch).to(device, non_blocking=True)
            said = task.assess(metrics, model, batch)
            if recorded is not None:
                recorded.append(task.record(said, batch).cpu())
    model.to("cpu")
    return {name: float(value) for name, value in metrics.compute().items()}
