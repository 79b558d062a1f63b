"""Trainings during which entries of the table go."""

from __future__ import annotations

from typing import Any

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.prune import largest
from dnis_lightning.search.trial import GradualStep, ThresholdStep
from dnis_lightning.tasks import Objective
from dnis_lightning.training.fit_module import FitModule, WeightStep


class GradualModule(FitModule):
    """Weights train on while the mask of the table closes, see `GradualStep`. What is gone stays away."""

    def __init__(
        self,
        recommender: Recommender,
        objective: Objective,
        step: WeightStep,
        gradual: GradualStep,
        *,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(recommender, objective, step)
        self.gradual, self.last = gradual, gradual.epochs * steps_per_epoch
        self.every = max(1, steps_per_epoch // gradual.updates)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """One step on Θ; now and then fewer entries."""
        super().training_step(batch, batch_idx)
        step = self.trainer.global_step
        if step <= self.last and (step % self.every == 0 or step == self.last):
            self.settle()
            table = self.recommender.table
            table.keep(table.entries(), largest(table.entries(), kept_at(self.gradual, step / self.last), table.kept()))


def kept_at(gradual: GradualStep, progress: float) -> int:
    """kept + (entries − kept) (1 − t/T)³, rounded: how many entries are left at `progress` = t/T."""
    return round(gradual.kept + (gradual.entries - gradual.kept) * (1 - progress) ** 3)


class ThresholdModule(FitModule):
    """Weights and thresholds descend the same loss; the first time that few enough entries are left, they are noted."""

    checks = 20
    """How often an epoch the entries are counted."""

    def __init__(
        self,
        recommender: Recommender,
        objective: Objective,
        step: WeightStep,
        thresholds: ThresholdStep,
        *,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(recommender, objective, step)
        self.thresholds, self.lr = thresholds, thresholds.lr / steps_per_epoch
        self.every = max(1, steps_per_epoch // self.checks)

    @property
    def arrived(self) -> bool:
        """Whether few enough entries were left at some step."""
        return bool(self.selection.left.any()) or self.thresholds.kept == 0

    def configure_optimizers(self) -> Any:
        """One optimizer for Θ and s, with a learning rate for each."""
        groups = self.weight_groups()
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter is not self.selection.s]
        of_s: dict[str, Any] = {"params": [self.selection.s], "lr": self.lr, "weight_decay": self.thresholds.decay}
        return self._with_schedule(self.step.optimizer([*groups, of_s]))

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """One step on Θ and s; now and then a count of what is left."""
        super().training_step(batch, batch_idx)
        if self.trainer.global_step % self.every == 0 and not self.arrived:
            self.settle()
            table = self.recommender.table
            self.selection.note_if_few(table.entries(), self.thresholds.kept, table.kept())

    @property
    def selection(self) -> SoftThreshold:
        """The layer that holds s."""
        assert isinstance(self.recommender.selection, SoftThreshold), "the model has thresholds"
        return self.recommender.selection
