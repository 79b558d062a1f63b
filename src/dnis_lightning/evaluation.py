"""The metrics of a model on the select or the test rows of prepared data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.outcomes import Outcomes, Recorded
from dnis_lightning.ranking import Query
from dnis_lightning.recommender import Recommender
from dnis_lightning.tasks import Task
from dnis_lightning.training.datamodule import SplitsDataModule
from dnis_lightning.training.evaluate import evaluate

_ROWS_AT_ONCE = 4096
"""Whose rows of embeddings are held apart, however large a batch is."""


@dataclass(frozen=True)
class Evaluation:
    """What models are evaluated on: feedback, where rows are interactions; gpu: whether on one."""

    prepared: Prepared
    task: Task
    batch_size: int
    feedback: Feedback | None = None
    gpu: bool = False

    def metrics(self, model: Recommender, split: str) -> dict[str, float]:
        """Metrics by name, as `select/mse`."""
        found = evaluate(model, self.batches(split), self.task, self._device)
        return {f"{split}/{name}": value for name, value in found.items()}

    def test(self, model: Recommender) -> Outcomes:
        """What a model makes of the test rows; metrics by name, as `test/mse`, and units as `mse`.

        The metrics among given candidates are there, too, as `test/hr@10_of_100`.
        """
        found = self._outcomes(model, self.batches("test"))
        if (given := self._data.candidates_dataloader()) is None:
            return found
        among = self._outcomes(model, given, f"_of_{given.items}")
        return replace(found, metrics={**found.metrics, **among.metrics}, units={**found.units, **among.units})

    def inputs(self) -> Iterable[Batch]:
        """The rows of train, in one random order, in batches without negatives."""
        return Loader(
            [self.prepared.parts["train"]], batch_size=min(self.batch_size, _ROWS_AT_ONCE), shuffle=True, seed=0
        )

    def batches(self, split: str) -> Iterable[Batch | Query]:
        """The rows of select or test, in order, or its users."""
        return self._data.val_dataloader() if split == "select" else self._data.test_dataloader()

    def _outcomes(self, model: Recommender, batches: Iterable[Batch | Query], suffix: str = "") -> Outcomes:
        recorded: list[Recorded] = []
        metrics = evaluate(model, batches, self.task, self._device, recorded)
        found = Outcomes.of({f"test/{name}{suffix}": value for name, value in metrics.items()}, recorded)
        return replace(found, units={f"{name}{suffix}": values for name, values in found.units.items()})

    @property
    def _data(self) -> SplitsDataModule:
        return SplitsDataModule(self.prepared, batch_size=self.batch_size, seed=0, feedback=self.feedback)

    @property
    def _device(self) -> str:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.gpu else "cpu"
