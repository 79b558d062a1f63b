"""The metrics of a model on the select or the test rows of prepared data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.recommender import Recommender
from dnis_lightning.tasks import Task
from dnis_lightning.training.datamodule import SplitsDataModule
from dnis_lightning.training.evaluate import evaluate


@dataclass(frozen=True)
class Evaluation:
    """What models are evaluated on: feedback, where rows are interactions; gpu: whether on one."""

    prepared: Prepared
    task: Task
    batch_size: int
    feedback: Feedback | None = None
    gpu: bool = False

    def metrics(self, model: Recommender, split: str) -> dict[str, float]:
        """Metrics by name, as `select/mse`; on test those among given candidates, too."""
        data = SplitsDataModule(self.prepared, batch_size=self.batch_size, seed=0, feedback=self.feedback)
        batches = data.val_dataloader() if split == "select" else data.test_dataloader()
        found = evaluate(model, batches, self.task, self._device)
        if split == "test" and (given := data.candidates_dataloader()) is not None:
            among = evaluate(model, given, self.task, self._device)
            found |= {f"{name}_of_{given.items}": value for name, value in among.items()}
        return {f"{split}/{name}": value for name, value in found.items()}

    @property
    def _device(self) -> str:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.gpu else "cpu"
